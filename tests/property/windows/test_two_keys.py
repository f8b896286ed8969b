"""Windows by two keys in a stream: however often bundles fail, in either stage, each row has what the whole data say.

The topics are fakes in memory, the readers and the steps are the job's.
"""

from __future__ import annotations

import json
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import apache_beam as beam
import duckdb
import numpy as np
import pyarrow as pa
import pytest

from beam_jobs import metrics
from beam_jobs.block import Block, Stretch, millis_of
from beam_jobs.errors import UserError
from beam_jobs.io.block_reader import BlockSettings
from beam_jobs.io.kafka.source import SESSIONS, KafkaSource
from beam_jobs.io.kafka.topic import KafkaLog
from beam_jobs.io.position import EARLIEST, LATEST
from beam_jobs.origin import origin
from beam_jobs.preprocessing.sql import compile_sql
from beam_jobs.preprocessing.stages import Unordered
from beam_jobs.preprocessing.whole import over_all
from beam_jobs.preprocessing.windows.order import by_log
from beam_jobs.steps import second_key
from beam_jobs.steps.decode import DecodeEvents
from beam_jobs.steps.repartition import ToSecondKey, begun
from beam_jobs.steps.second_key import HELD, BySecondKey
from beam_jobs.steps.windows import HISTORIES, WindowSettings
from beam_jobs.storage.snapshots import writer
from tests.contract.reads import opened
from tests.services.fake_kafka import FakeCluster
from tests.services.kafka_cluster import Record

T0 = 1_700_000_000_000
SOURCES, PARTITIONS = 3, 2
SETTINGS = WindowSettings()
SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Payment",
    "fields": [
        {"name": "card", "type": "string"},
        {"name": "merchant", "type": ["null", "string"]},
        {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "amount", "type": "double"},
        {"name": "fraud", "type": ["null", "boolean"], "label": True},
    ],
}
RANGE = "ORDER BY ts RANGE BETWEEN INTERVAL '{}' SECOND PRECEDING AND CURRENT ROW)"
CARD, MERCHANT = (f"OVER (PARTITION BY {key} {RANGE}" for key in ("card", "merchant"))
SQL = f"""
SELECT card, ts, amount, mean, merchant AS shop,
  count(*) {MERCHANT.format(600)} AS n, count(DISTINCT card) {MERCHANT.format(600)} AS cards,
  avg(amount - mean) {MERCHANT.format(3600)} AS above, max(amount) {CARD.format(60)} AS largest,
  amount - avg(amount) {MERCHANT.format(900)} + sum(amount) {CARD.format(300)} AS both,
  COALESCE(count_if(fraud) OVER (PARTITION BY merchant ORDER BY ts
      RANGE BETWEEN INTERVAL '2' HOUR PRECEDING AND INTERVAL '600' SECOND PRECEDING), 0) AS frauds
FROM (SELECT *, avg(amount) {CARD.format(600)} AS mean FROM events WHERE amount > 1)
WHERE mean > 2
"""
QUERY = compile_sql(SQL, SCHEMA, key="card", event_time="ts")
Features = dict[tuple[int, int], bytes]  # (partition, offset) -> features of the row


def test_in_order_it_is_what_duckdb_says() -> None:
    chance = np.random.default_rng(3)
    n = 3000
    fields = {
        "card": pa.array([f"c{i}" for i in chance.integers(0, 20, n)]),
        "merchant": pa.array([None if i == 0 else "" if i == 1 else f"m{i}" for i in chance.integers(0, 8, n)]),
        "ts": pa.array(T0 + np.cumsum(chance.integers(1, 20_000, n))).cast(pa.timestamp("ms", "UTC")),
        "amount": chance.integers(0, 400, n) / 4,
        "fraud": pa.array(chance.random(n) < 0.1, mask=chance.random(n) < 0.1),
    }
    events = pa.record_batch(fields)
    (found,) = list(over_all(QUERY, by_log([events.slice(0, 1000), events.slice(1000)], "ts"), Unordered()))[1:]
    with duckdb.connect() as connection:
        connection.register("events", pa.Table.from_batches([events]))
        right = connection.sql(f"{SQL} ORDER BY ts").to_arrow_table()
    rows = found[1].rows
    assert rows.num_rows == len(right) > n // 2
    for name in QUERY.features:
        assert rows[name].to_pylist() == right[name].cast(pa.float32(), safe=False).to_pylist(), name
    assert rows["shop"].to_pylist() == right["shop"].to_pylist()
    assert QUERY.apply(events, QUERY.history()).rows.equals(rows)


def records(chance: Random, count: int, wild: bool) -> list[Record]:
    """Bursts of some hours, with late rows, clocks ahead, tombstones, what is no event, what a WHERE removes."""
    found, now = [], T0
    for _ in range(count):
        now += chance.choice([0, 100, 20_000, 120_000])
        card = chance.randrange(12)
        at = now - chance.choice([0, 0, 0, 30_000, 900_000, 9_000_000, -3_000, -900_000])
        event = {
            "card": f"c{card}",
            "merchant": chance.choice([None, "", "a", "b", "c"]),
            "ts": at,
            "amount": chance.uniform(0, 40),
            "fraud": chance.choice([None, True, False]),
        }
        value: bytes | None = json.dumps(event).encode()
        value = chance.choice([value] * 12 + [None, b"{", b'{"card": "c1"}'])
        stamp = now + chance.choice([0] * 9 + [-50_000])
        if wild:
            stamp = chance.choice([stamp] * 15 + [now - 40_000_000, now + 4_000_000, -5, (1 << 63) - 1, -(1 << 63)])
        found.append(Record(value, None, card % SOURCES, stamp))
    return found


def written(cluster: FakeCluster, topic: str, block: Block, chance: Random, whole: bool) -> None:
    """Writes records as a producer does: of each partition in order, and, if it was killed, as far as it came."""
    by_partition: dict[int, list[Record]] = {q: [] for q in range(PARTITIONS)}
    columns = [block.column(name).to_pylist() for name in ("key", "value", "partition")]
    for key, value, chosen, stamp in zip(*columns, millis_of(block.column("timestamp")).tolist(), strict=True):
        by_key = zlib.crc32(key) % PARTITIONS if key else chance.randrange(PARTITIONS)  # as librdkafka has it
        q = chosen if chosen >= 0 else by_key
        by_partition[q].append(Record(value, key, q, stamp))
    for q in chance.sample(sorted(by_partition), PARTITIONS):
        there = by_partition[q]
        cluster.write(topic, there if whole else there[: chance.randint(0, len(there))])


def good(blocks: Iterator[Any]) -> list[Block]:
    found = [getattr(block, "value", block) for block in blocks if not isinstance(block, beam.pvalue.TaggedOutput)]
    return [block for block in found if isinstance(block, pa.RecordBatch)]


def first_stage(cluster: FakeCluster, topic: str, second: str, settings: WindowSettings = SETTINGS) -> ToSecondKey:
    decode = DecodeEvents(SCHEMA, [*QUERY.input_columns], lambda _: SCHEMA, "test")
    log, carry = KafkaLog(cluster.transport(topic)), {"fraud": ["null", "boolean"]}
    fn = ToSecondKey(QUERY, "test", decode, log, settings, PARTITIONS, carry)
    fn._name = uuid.uuid4().hex
    fn.setup()
    return fn


def second_stage(cluster: FakeCluster, topic: str, second: str, settings: WindowSettings = SETTINGS) -> BySecondKey:
    log, carry = KafkaLog(cluster.transport(second)), {"fraud": ["null", "boolean"]}
    fn = BySecondKey(QUERY, "test", topic, SOURCES, log, settings, carry)
    fn._name = uuid.uuid4().hex
    fn.setup()
    return fn


def run(chance: Random, cluster: FakeCluster, topic: str, make: Any, take: Any) -> int:
    """Reads a topic to its end by two readers whose bundles fail now and then; how many failed."""
    steps, failed = [make(), make()], 0
    blocks = BlockSettings(block_rows=chance.choice([4, 9]))
    sources: dict[int, Any] = {}
    for n in range(2):
        source = KafkaSource(cluster.transport(topic), EARLIEST, LATEST, share=(n, 2), blocks=blocks)
        sources[n] = source.split(1)[0], None
    while sources:
        n = chance.choice(list(sources))
        source, mark = sources[n]
        if chance.random() < 0.1:
            steps[n] = make()  # it was killed
        if chance.random() < 0.1:
            HISTORIES.close_all()
            HELD.close_all()
        reader = opened(source, mark) if mark else source.create_reader(None, None)
        fails = chance.random() < 0.25
        found = reader.start()
        for left in range(chance.randint(0, 5), -1, -1):
            if found:
                take(good(steps[n].process(reader.get_current())), not (fails and not left))
            if left:
                found = reader.advance()
        if fails:
            failed += 1
            reader.close()
            continue
        end = reader.get_checkpoint_mark()
        if not found and reader._finished():
            del sources[n]
            reader.close()
        else:
            sources[n] = source, end
    return failed


def features(blocks: list[Block]) -> Iterator[tuple[tuple[int, int], bytes]]:
    for block in blocks:
        columns = np.stack([block.column(name).to_numpy() for name in QUERY.features]).T
        places = zip(block.column("_partition").to_pylist(), block.column("_offset").to_pylist(), strict=True)
        yield from zip(places, (row.tobytes() for row in columns), strict=True)


def by_the_whole(cluster: FakeCluster, topic: str) -> Features:
    decode = DecodeEvents(SCHEMA, QUERY.input_columns, lambda _: SCHEMA, "test")
    decode.setup()
    ends = {p: (0, log.high) for p, log in enumerate(cluster.topics[topic])}
    events = [decode.decode(raw)[0] for raw in KafkaLog(cluster.transport(topic)).read(ends)]
    right: Features = {}
    for block, done in over_all(QUERY, by_log([b for b in events if b is not None], "ts"), Unordered()):
        there = block.take(pa.array(done.kept)).select(["_partition", "_offset"])
        if done.rows.num_rows:
            names = [*done.rows.schema.names, *there.schema.names]
            right |= dict(features([pa.RecordBatch.from_arrays([*done.rows.columns, *there.columns], names=names)]))
    return right


@pytest.fixture(autouse=True)
def _nothing_left_open() -> Iterator[None]:
    yield
    for cache in (HISTORIES, HELD, SESSIONS):
        cache.close_all()


@pytest.mark.parametrize(
    ("wild", "kept"), [(False, False), (True, False), (True, True)], ids=["", "wild times", "snapshots"]
)
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in (1, 2))])
def test_whatever_happens_every_row_has_its_features(seed: int, wild: bool, kept: bool, tmp_path: Path) -> None:
    chance, cluster = Random(seed), FakeCluster()
    settings = WindowSettings(snapshots=str(tmp_path) if kept else "", snapshot_s=0.0)
    topic, second = cluster.create(SOURCES), cluster.create(PARTITIONS)
    cluster.write(topic, records(chance, 700, wild))
    right = by_the_whole(cluster, topic)
    written(cluster, second, begun(SOURCES, PARTITIONS, idle=False), chance, whole=True)

    def send(blocks: list[Block], whole: bool) -> None:
        for block in blocks:
            written(cluster, second, block, chance, whole)
            if not whole:
                return  # it was killed

    before = metrics.STATE.snapshot()
    assert run(chance, cluster, topic, lambda: first_stage(cluster, topic, second, settings), send)
    written(cluster, second, begun(SOURCES, PARTITIONS, idle=True), chance, whole=True)
    seen: Features = {}

    def look(blocks: list[Block], whole: bool) -> None:
        for place, row in features(blocks):
            assert seen.setdefault(place, row) == row == right[place], place

    assert run(chance, cluster, second, lambda: second_stage(cluster, topic, second, settings), look)
    assert seen == right
    assert bool(list(tmp_path.rglob("*.npz"))) == kept
    after = metrics.STATE.snapshot()
    assert after[metrics.REREAD] > before[metrics.REREAD]
    assert after[metrics.MARKS] > before[metrics.MARKS]


def test_a_snapshot_stands_for_the_log_before_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    chance, cluster = Random(5), FakeCluster()
    topic, second = cluster.create(SOURCES), cluster.create(PARTITIONS)
    cluster.write(topic, records(chance, 700, wild=False))
    written(cluster, second, begun(SOURCES, PARTITIONS, idle=False), chance, whole=True)
    first = first_stage(cluster, topic, second)
    ends = {p: (0, log.high) for p, log in enumerate(cluster.topics[topic])}
    for raw in KafkaLog(cluster.transport(topic)).read(ends):
        for block in good(first.process(raw)):
            written(cluster, second, block, chance, whole=True)
    high = cluster.topics[second][0].high
    kept = WindowSettings(snapshots=str(tmp_path), snapshot_s=0.0)

    def go_on(step: BySecondKey, start: int, end: int) -> Features:
        (raw,) = KafkaLog(cluster.transport(second)).read({0: (start, end)})
        return dict(features(good(step.process(Stretch({0: (start, end)}, "id").on(raw)))))

    middle = high // 2
    go_on(second_stage(cluster, topic, second, kept), 0, middle)
    writer().wait()
    before = metrics.STATE.snapshot()[metrics.REREAD]
    right = go_on(second_stage(cluster, topic, second), middle, high)
    without = metrics.STATE.snapshot()[metrics.REREAD] - before
    assert go_on(second_stage(cluster, topic, second, kept), middle, high) == right
    assert without > 0
    assert metrics.STATE.snapshot()[metrics.REREAD] == before + without  # it read nothing again
    assert not caplog.records
    (file,) = tmp_path.rglob("*.npz")
    with np.load(file) as found:
        arrays = {name: found[name] for name in found.files}
    assert arrays["merge/waiting"].size
    arrays["merge/waiting"] = arrays["merge/waiting"][:-40]
    np.savez(file, **arrays)
    assert go_on(second_stage(cluster, topic, second, kept), middle, high) == right
    assert "is passed over: rows that wait can't be read" in caplog.text


def test_records_that_are_done_with_are_deleted_and_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_key, "_FORGET_S", 0.0)
    chance, cluster = Random(3), FakeCluster()
    topic, second = cluster.create(SOURCES), cluster.create(PARTITIONS)
    cluster.write(topic, records(chance, 700, wild=False))
    right, seen = by_the_whole(cluster, topic), dict[tuple[int, int], bytes]()
    written(cluster, second, begun(SOURCES, PARTITIONS, idle=False), chance, whole=True)
    step, ends = first_stage(cluster, topic, second), {p: (0, log.high) for p, log in enumerate(cluster.topics[topic])}
    for at in range(0, max(high for _, high in ends.values()), 10):
        for raw in KafkaLog(cluster.transport(topic)).read(
            {p: (at, min(at + 10, high)) for p, (_, high) in ends.items()}
        ):
            for block in good(step.process(raw)):
                written(cluster, second, block, chance, whole=True)
    written(cluster, second, begun(SOURCES, PARTITIONS, idle=True), chance, whole=True)
    for q, log in enumerate(cluster.topics[second]):
        for start in range(0, log.high, 40):
            if start % 200 == 0:
                later = second_stage(cluster, topic, second)  # of another process
            for raw in KafkaLog(cluster.transport(second)).read({q: (start, min(start + 40, log.high))}):
                seen |= dict(features(good(later.process(raw))))
        assert log.low
    assert seen == right


def test_what_it_may_hold_is_bounded_from_the_first_record_read_again() -> None:
    cluster = FakeCluster()
    topic, second = cluster.create(SOURCES), cluster.create(PARTITIONS)
    cluster.write(topic, records(Random(1), 200, wild=False))
    first, ends = first_stage(cluster, topic, second), {p: (0, log.high) for p, log in enumerate(cluster.topics[topic])}
    for raw in KafkaLog(cluster.transport(topic)).read(ends):
        for block in good(first.process(raw)):
            written(cluster, second, block, Random(1), whole=True)
    high = cluster.topics[second][0].high
    before = metrics.STATE.snapshot()[metrics.REREAD]
    for start in (0, high - 5):
        (raw,) = KafkaLog(cluster.transport(second)).read({0: (start, high)})
        with pytest.raises(UserError, match=r"more than 0.001 MB; allow more with --window_memory_mb"):
            list(second_stage(cluster, topic, second, WindowSettings(memory_mb=0.001)).process(raw))
    assert metrics.STATE.snapshot()[metrics.REREAD] == before


def test_what_others_write_to_the_topic_is_a_dead_letter() -> None:
    cluster = FakeCluster()
    topic, second = cluster.create(SOURCES), cluster.create(PARTITIONS)
    cluster.write(topic, [record for record in records(Random(1), 60, wild=False) if record.partition == 0])
    first, chance = first_stage(cluster, topic, second), Random(1)
    (raw,) = KafkaLog(cluster.transport(topic)).read({0: (0, cluster.topics[topic][0].high)})
    for block in good(first.process(raw)):
        written(cluster, second, block, chance, whole=True)
        for value in (b"", b"\x00\x00\x00\x00\x01x", b"nobody knows", None):
            cluster.write(second, [Record(value, b"=a", 0, T0)])
        cluster.write(second, [Record(b"\xff" * 64, None, 0, T0), Record(b"no mark", None, 0, T0)])
    written(cluster, second, begun(SOURCES, PARTITIONS, idle=True), chance, whole=True)
    step = second_stage(cluster, topic, second)
    (raw,) = KafkaLog(cluster.transport(second)).read({0: (0, cluster.topics[second][0].high)})
    out = list(step.process(raw))
    letters = [block.value for block in out if isinstance(block, beam.pvalue.TaggedOutput)]
    assert {letter.column("stage")[0].as_py() for letter in letters} == {"decode"}
    assert sum(letter.num_rows for letter in letters) >= 4
    right = by_the_whole(cluster, topic)
    assert 0 < len(dict(features(good(iter(out))))) <= len(right)
    assert dict(features(good(iter(out)))).items() <= right.items()


def test_where_a_record_came_from_first_goes_along() -> None:
    cluster = FakeCluster()
    topic, second = cluster.create(SOURCES), cluster.create(PARTITIONS)
    some = [record for record in records(Random(1), 60, wild=False) if record.partition == 0]
    moved = [("highbeam.origin", b"elsewhere-7-42"), ("driver", b"a name")]
    cluster.write(topic, [replace(record, headers=moved if i % 2 else ()) for i, record in enumerate(some)])
    (raw,) = KafkaLog(cluster.transport(topic)).read({0: (0, cluster.topics[topic][0].high)})
    for block in good(first_stage(cluster, topic, second).process(raw)):
        if "headers" in block.schema.names:
            assert b"a name" not in str(block.column("headers").to_pylist()).encode()
            values = zip(block.column("key").to_pylist(), block.column("value").to_pylist(), strict=True)
            headers = [[(h["key"], h["value"]) for h in row] for row in block.column("headers").to_pylist()]
            cluster.write(second, [Record(v, k, 0, T0, headers=h) for (k, v), h in zip(values, headers, strict=True)])
    written(cluster, second, begun(SOURCES, PARTITIONS, idle=True), Random(1), whole=True)
    (raw,) = KafkaLog(cluster.transport(second)).read({0: (0, cluster.topics[second][0].high)})
    out = good(second_stage(cluster, topic, second).process(raw))
    ids = [one for block in out for one in origin(block).ids().to_pylist()]
    own = [one for block in out for one in block.column("_offset").to_pylist()]
    assert set(ids) == {"elsewhere-7-42" if offset % 2 else f"{topic}-0-{offset}" for offset in own}
