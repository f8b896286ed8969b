"""Labels in windows that end before now: what DuckDB says of all rows, and nothing of what was not known yet.

In a stream they come on a topic of their own. The topics are fakes in memory, the readers and the steps are the job's.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from beam_jobs import metrics
from beam_jobs.block import Block
from beam_jobs.errors import UserError
from beam_jobs.io.kafka.source import SESSIONS
from beam_jobs.io.kafka.topic import KafkaLog
from beam_jobs.preprocessing.preprocessor import Preprocessor
from beam_jobs.preprocessing.sql import compile_sql
from beam_jobs.preprocessing.stages import Unordered
from beam_jobs.preprocessing.whole import over_all
from beam_jobs.preprocessing.windows.frames import Lateness
from beam_jobs.preprocessing.windows.order import by_log
from beam_jobs.steps.decode import DecodeEvents
from beam_jobs.steps.repartition import LabelsToSecondKey, ToSecondKey, begun
from beam_jobs.steps.second_key import HELD, BySecondKey
from beam_jobs.steps.windows import HISTORIES, WindowSettings
from beam_jobs.use_case import UseCase
from tests.property.windows.test_two_keys import PARTITIONS, SCHEMA, SOURCES, T0, run, written
from tests.services.fake_kafka import FakeCluster
from tests.services.kafka_cluster import Record

HOPS = "(ts - time_bucket(INTERVAL '1 minute', ts - INTERVAL '2 hour')) PRECEDING"
SQL = f"""
SELECT card, ts, amount, amount / mean AS against_usual,
  COALESCE(count_if(fraud) OVER shop, 0) AS frauds, count(fraud) OVER shop AS known, count(*) OVER shop AS sales,
  COALESCE(CAST(last_value(fraud) OVER hops AS INT), -1) AS last_one,
  COALESCE(sum(CASE WHEN fraud THEN amount END) OVER hops, -1) AS lost,
  COALESCE(count_if(NOT fraud) OVER own, 0) AS sound,
  COALESCE(avg(CASE WHEN fraud THEN 1 ELSE 0 END) OVER own, -1) AS share,
  COALESCE(epoch(ts - max(CASE WHEN fraud THEN ts END) OVER own), -1) AS since
FROM (SELECT *, avg(amount) OVER (PARTITION BY card ORDER BY ts
        RANGE BETWEEN INTERVAL '20' MINUTE PRECEDING AND CURRENT ROW) AS mean FROM events WHERE amount > 1)
WINDOW shop AS (PARTITION BY merchant ORDER BY ts
         RANGE BETWEEN INTERVAL '2' HOUR PRECEDING AND INTERVAL '10' MINUTE PRECEDING),
       hops AS (PARTITION BY merchant ORDER BY ts RANGE BETWEEN {HOPS} AND INTERVAL '10' MINUTE PRECEDING),
       own AS (PARTITION BY card ORDER BY ts
         RANGE BETWEEN INTERVAL '1' HOUR PRECEDING AND INTERVAL '15' MINUTE PRECEDING)
"""
DELAY = Lateness(label_ms=600_000)
ORACLE = SQL.replace("last_value(fraud)", "last_value(fraud IGNORE NULLS)").replace("ELSE 0", "WHEN NOT fraud THEN 0")
"""Windows of labels know of no row whose label is NULL: the only thing in which DuckDB differs."""
OF_LABELS = ("frauds", "known", "last_one", "lost", "sound", "share", "since")


def query(sql: str = SQL) -> Preprocessor:
    return compile_sql(sql, SCHEMA, key="card", event_time="ts", lateness=DELAY)


def payments(n: int, seed: int, unknown: float) -> pa.RecordBatch:
    chance = np.random.default_rng(seed)
    fields = {
        "card": pa.array([f"c{i}" for i in chance.integers(0, 20, n)]),
        "merchant": pa.array([None if i == 0 else f"m{i}" for i in chance.integers(0, 8, n)]),
        "ts": pa.array(T0 + np.cumsum(chance.integers(1, 20_000, n))).cast(pa.timestamp("ms", "UTC")),
        "amount": chance.integers(0, 400, n) / 4,
        "fraud": pa.array(chance.random(n) < 0.2, mask=chance.random(n) < unknown),
    }
    return pa.record_batch(fields)


def features(events: pa.RecordBatch) -> pa.Table:
    compiled, seen = query(), Unordered()
    done = [out.rows for _, out in over_all(compiled, by_log([events], "ts"), seen)]
    assert (seen.late, seen.alone, seen.future) == (0, 0, 0)
    return pa.Table.from_batches([rows for rows in done if rows.num_rows]).select(compiled.features)


@pytest.mark.parametrize("unknown", [0.0, 0.3])
def test_training_sees_what_duckdb_says(unknown: float) -> None:
    events = payments(2000, 3, unknown)
    with duckdb.connect() as connection:
        connection.register("events", pa.Table.from_batches([events]))
        right = connection.sql(f"{ORACLE if unknown else SQL} ORDER BY ts").to_arrow_table()
    found = features(events)
    assert len(found) == len(right) > 1500
    for name in found.column_names:
        assert found[name].to_pylist() == right[name].cast(pa.float32(), safe=False).to_pylist(), name


def test_a_label_that_could_not_be_known_yet_changes_no_feature() -> None:
    """A planted leak: labels of the last minutes, the row's own among them, are turned round."""
    events = payments(2000, 4, 0.0)
    times, fraud = events["ts"].view(pa.int64()).to_numpy(), events["fraud"].to_numpy(zero_copy_only=False)
    found = features(events)
    for now in np.random.default_rng(4).integers(0, len(times), 3):
        until = int(np.searchsorted(times, times[now], "right"))
        young = times > times[now] - DELAY.label_ms
        known = pa.array(fraud ^ young)
        changed = events.set_column(events.schema.get_field_index("fraud"), "fraud", known).slice(0, until)
        before = features(changed)
        assert before.equals(found.slice(0, len(before)))
        old = pa.array(fraud ^ ~young)
        other = features(events.set_column(events.schema.get_field_index("fraud"), "fraud", old).slice(0, until))
        for name in found.column_names:
            assert (other[name] != before[name]) == (name in OF_LABELS and name != "known"), name


OF_LABEL = ("card", "merchant", "ts", "amount", "fraud")
LABEL_SCHEMA = {
    "type": "record",
    "name": "Judgement",
    "fields": [*(f for f in SCHEMA["fields"] if f["name"] in OF_LABEL), {"name": "by", "type": "string"}],
}
USE_CASE = UseCase("payments", SCHEMA, SQL, "card", "ts", "fraud", label_schema=LABEL_SCHEMA)
LABEL_PARTITIONS = 2
IN_OUTER = SQL.replace("own AS (PARTITION BY card", "own AS (PARTITION BY merchant")
BY_CARD = SQL.replace("PARTITION BY merchant", "PARTITION BY card")
ORACLES = {IN_OUTER: ORACLE.replace("own AS (PARTITION BY card", "own AS (PARTITION BY merchant")}
ORACLES[BY_CARD] = ORACLE.replace("PARTITION BY merchant", "PARTITION BY card")
ALONE = """
SELECT card, ts, amount, COALESCE(count_if(fraud) OVER (PARTITION BY card ORDER BY ts
    RANGE BETWEEN INTERVAL '1' HOUR PRECEDING AND INTERVAL '10' MINUTE PRECEDING), 0) AS frauds
FROM events WHERE amount > 1
"""
ORACLES[ALONE] = ALONE
Place = tuple[int, int]  # partition, offset


class Stream:
    """A topic of payments, and one of labels, a share of which come later than they may."""

    def __init__(self, sql: str, seed: int, late: float = 0.0) -> None:
        self.chance, self.cluster = Random(seed), FakeCluster()
        self.query = query(sql)
        self.payments, self.labels, self.second = (
            self.cluster.create(n) for n in (SOURCES, LABEL_PARTITIONS, PARTITIONS)
        )
        self.events = payments(600, seed, 0.2)
        self.stamps: list[int | None] = []  # of the labels
        found = []
        for row in self.events.to_pylist():
            at = int(row["ts"].timestamp() * 1000)
            row["ts"] = at
            fraud, card = row.pop("fraud"), int(row["card"][1:])
            payment = json.dumps({**row, "fraud": True}).encode()  # nobody can know, and nobody reads it
            self.cluster.write(self.payments, [Record(payment, None, card % SOURCES, at)])
            stamp = None
            if fraud is not None:
                age = self.chance.choice([0, 1, DELAY.label_ms, self.chance.randrange(DELAY.label_ms)])
                stamp = at + (age if self.chance.random() >= late else age + 2 * DELAY.label_ms)
                found.append((stamp, {**row, "fraud": fraud, "by": "the bank"}))
            self.stamps.append(stamp)
        for stamp, label in sorted(found, key=lambda each: each[0]):
            q = self.chance.randrange(LABEL_PARTITIONS)
            self.cluster.write(self.labels, [Record(json.dumps(label).encode(), None, q, stamp)])

    def to_second(self) -> ToSecondKey:
        decode = DecodeEvents(SCHEMA, self.query.input_columns, lambda _: SCHEMA, "test")
        log = KafkaLog(self.cluster.transport(self.payments))
        fn = ToSecondKey(self.query, "test", decode, log, WindowSettings(), PARTITIONS, {}, apart=True)
        fn._name = uuid.uuid4().hex
        fn.setup()
        return fn

    def labels_to_second(self) -> LabelsToSecondKey:
        wanted = self.query.legs(apart=True).of_labels
        schema = USE_CASE.schema_of_labels(wanted)
        decode = DecodeEvents(schema, sorted(wanted), lambda _: schema, "test")
        fn = LabelsToSecondKey(self.query, "test", decode, SOURCES, PARTITIONS, {})
        fn.setup()
        return fn

    def by_second(self) -> BySecondKey:
        log = KafkaLog(self.cluster.transport(self.second))
        fn = BySecondKey(self.query, "test", "t", SOURCES, log, WindowSettings(), {}, LABEL_PARTITIONS)
        fn._name = uuid.uuid4().hex
        fn.setup()
        return fn

    def features(self) -> dict[Place, list[float]]:
        """Those of each payment, however often bundles fail."""

        def send(blocks: list[Block], whole: bool) -> None:
            for block in blocks:
                written(self.cluster, self.second, block, self.chance, whole)
                if not whole:
                    return  # it was killed

        seen: dict[Place, list[float]] = {}

        def look(blocks: list[Block], whole: bool) -> None:
            for block in blocks:
                columns = np.stack([block.column(name).to_numpy() for name in self.query.features]).T.tolist()
                places = zip(block.column("_partition").to_pylist(), block.column("_offset").to_pylist(), strict=True)
                for place, row in zip(places, columns, strict=True):
                    assert seen.setdefault(place, row) == row, place

        sources = SOURCES + LABEL_PARTITIONS
        written(self.cluster, self.second, begun(sources, PARTITIONS, idle=False), self.chance, whole=True)
        parts = [(self.payments, self.to_second), (self.labels, self.labels_to_second)]
        for topic, make in self.chance.sample(parts, 2):
            assert run(self.chance, self.cluster, topic, make, send)
        written(self.cluster, self.second, begun(sources, PARTITIONS, idle=True), self.chance, whole=True)
        assert run(self.chance, self.cluster, self.second, self.by_second, look)
        return seen

    def in_order(self, seen: dict[Place, list[float]]) -> list[list[float]]:
        """The features by the time of the payments."""
        places, next_ = [], [0] * SOURCES
        for card in self.events["card"].to_pylist():
            p = int(card[1:]) % SOURCES
            places.append((p, next_[p]))
            next_[p] += 1
        return [seen[place] for place in places if place in seen]


@pytest.fixture(autouse=True)
def _nothing_left_open() -> Iterator[None]:
    yield
    for cache in (HISTORIES, HELD, SESSIONS):
        cache.close_all()


@pytest.mark.parametrize("sql", [IN_OUTER, BY_CARD, ALONE], ids=["by the second key", "by the key", "and no others"])
def test_labels_that_come_in_time_are_as_if_they_had_been_there(sql: str) -> None:
    stream = Stream(sql, 5)
    before = metrics.STATE.snapshot()
    found = stream.in_order(stream.features())
    with duckdb.connect() as connection:
        connection.register("events", pa.Table.from_batches([stream.events]))
        right = connection.sql(f"{ORACLES[sql]} ORDER BY ts").to_arrow_table().select(stream.query.features)
    expected = [column.cast(pa.float32(), safe=False).to_pylist() for column in right.columns]
    assert found == [list(row) for row in zip(*expected, strict=True)]
    after = metrics.STATE.snapshot()
    assert after[metrics.LABELS] > before[metrics.LABELS]
    assert after[metrics.LATE_LABELS] == before[metrics.LATE_LABELS]


def test_a_late_label_is_seen_by_what_comes_after_it() -> None:
    stream = Stream(IN_OUTER, 6, late=0.4)
    before = metrics.STATE.snapshot()[metrics.LATE_LABELS]
    found = stream.in_order(stream.features())
    assert metrics.STATE.snapshot()[metrics.LATE_LABELS] > before
    events = pa.Table.from_batches([stream.events]).append_column("told", pa.array(stream.stamps, pa.int64()))
    sql = """SELECT (SELECT COALESCE(count_if(fraud), 0) FROM events AS old
                WHERE old.merchant IS NOT DISTINCT FROM events.merchant AND amount > 1 AND told <= epoch_ms(events.ts)
                AND old.ts BETWEEN events.ts - INTERVAL 2 HOUR AND events.ts - INTERVAL 10 MINUTE)
             FROM events WHERE amount > 1 ORDER BY ts"""
    with duckdb.connect() as connection:
        connection.register("events", events)
        right = [count for (count,) in connection.sql(sql).fetchall()]
    place = stream.query.features.index("frauds")
    assert [row[place] for row in found] == right


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        (SQL, "labels come to one key.* have the windows that read the label PARTITION BY merchant"),
        (SQL.replace("count_if(fraud)", "count_if(fraud AND mean > 2)"), "labels come to one key"),
        (IN_OUTER.replace("count_if(fraud)", "count_if(fraud AND mean > 2)"), "a label comes with fields of its event"),
        ("SELECT card, ts, amount FROM events", "no window reads the label, so labels are of no use"),
    ],
)
def test_what_labels_can_not_join_is_refused(sql: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        query(sql).legs(apart=True)


def test_a_label_needs_what_windows_read_of_its_event_and_nothing_else() -> None:
    needed = query(IN_OUTER).legs(apart=True).of_labels
    assert needed == {"card", "merchant", "ts", "amount", "fraud"}
    own = replace(USE_CASE, label_schema=None).schema_of_labels(needed - {"amount"})
    assert {f["name"]: f["type"] for f in own["fields"]}["amount"] == ["null", "double"]
    poorer = {**LABEL_SCHEMA, "fields": [f for f in LABEL_SCHEMA["fields"] if f["name"] != "amount"]}
    with pytest.raises(UserError, match=r"need amount of its event, and label_schema \(Judgement\) has no such field"):
        replace(USE_CASE, label_schema=poorer).schema_of_labels(needed)
