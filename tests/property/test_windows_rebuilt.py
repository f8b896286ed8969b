"""Windows in a stream: however often bundles fail, partitions move and processes end, each row has the same features.

The topic is a fake in memory, the reader and the steps are the job's. What is right is said by the log itself: each
partition's rows, one after the other, through a history of their own.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_jobs import metrics, stop
from beam_jobs.archives.rows import PROPERTY, archive_rows, archive_schema
from beam_jobs.block import Block, Stretch, concat, take
from beam_jobs.errors import UserError
from beam_jobs.io.block_reader import BlockSettings
from beam_jobs.io.kafka.source import SESSIONS, KafkaSource
from beam_jobs.io.kafka.topic import KafkaLog
from beam_jobs.io.position import EARLIEST, LATEST
from beam_jobs.io.source import Beginning
from beam_jobs.preprocessing.sql import compile_sql
from beam_jobs.steps.decode import DecodeEvents
from beam_jobs.steps.windows import HISTORIES, PreprocessWindows, WindowSettings
from beam_jobs.use_case import UseCase, load_use_case
from model.training.data import Counts, read, source
from tests.contract.reads import opened
from tests.services.fake_kafka import FakeCluster
from tests.services.kafka_cluster import Record

T0 = 1_700_000_000_000
PARTITIONS = 3
SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Payment",
    "fields": [
        {"name": "card", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "amount", "type": "double"},
    ],
}
FRAME = "OVER (PARTITION BY card ORDER BY at RANGE BETWEEN INTERVAL '{}' SECOND PRECEDING AND CURRENT ROW)"
SQL = f"""
SELECT card, at, amount,
  count(amount) {FRAME.format(600)} AS n, sum(amount) {FRAME.format(600)} AS total,
  max(amount) {FRAME.format(60)} AS largest, avg(amount) {FRAME.format(3600)} AS mean
FROM events WHERE amount > 1
"""
QUERY = compile_sql(SQL, SCHEMA, key="card", event_time="at")
Features = dict[tuple[int, int], bytes]  # (partition, offset) -> features of the row


def records(chance: Random, count: int, wild: bool) -> list[Record]:
    """Of hours, in bursts: late rows, clocks ahead, tombstones, what is no event, what the WHERE removes."""
    found, now = [], T0
    for _ in range(count):
        now += chance.choice([0, 100, 20_000, 120_000])
        card = chance.randrange(12)
        at = now - chance.choice([0, 0, 0, 30_000, 900_000, 9_000_000, -3_000, -900_000])
        value: bytes | None = json.dumps({"card": f"c{card}", "at": at, "amount": chance.uniform(0, 40)}).encode()
        value = chance.choice([value] * 12 + [None, b"{", b'{"card": "c1"}'])
        stamp = now + chance.choice([0] * 9 + [-50_000])
        if wild:
            stamp = chance.choice([stamp] * 15 + [now - 40_000_000, now + 4_000_000, -5, (1 << 63) - 1, -(1 << 63)])
        found.append(Record(value, None, card % PARTITIONS, stamp))
    return found


def topic_of(cluster: FakeCluster, chance: Random, count: int, wild: bool) -> str:
    topic = cluster.create(PARTITIONS)
    rows = records(chance, count, wild)
    while rows:
        n = chance.randint(1, 60)
        cluster.write_transaction(topic, rows[:n], commit=chance.random() < 0.8)  # aborted ones leave gaps
        rows = rows[n:]
    return topic


def source_of(cluster: FakeCluster, topic: str, number: int = 0, count: int = 1, **more: Any) -> KafkaSource:
    blocks = BlockSettings(block_rows=more.pop("block_rows", 40))
    return KafkaSource(cluster.transport(topic), EARLIEST, LATEST, share=(number, count), blocks=blocks, **more)


class Process:
    """A process of the job: its steps, and what they know."""

    def __init__(self, cluster: FakeCluster, topic: str, **settings: Any) -> None:
        self._made = DecodeEvents(SCHEMA, QUERY.input_columns, lambda _: SCHEMA, "test")
        self.windows = PreprocessWindows(
            QUERY, "test", self._made, KafkaLog(cluster.transport(topic)), WindowSettings(**settings)
        )
        self.windows._name = uuid.uuid4().hex
        self.begin()

    def begin(self) -> None:
        """Other instances of the steps, as a runner makes them now and then."""
        self.decode = self._made
        self.decode.setup()
        self.windows.setup()

    def run(self, raw: Block) -> list[Block]:
        events = [block for block in self.decode.process(raw) if isinstance(block, Block)]
        return [f for e in events for f in self.windows.process(e) if not isinstance(f, beam.pvalue.TaggedOutput)]


def features(blocks: list[Block]) -> Iterator[tuple[tuple[int, int], bytes]]:
    for block in blocks:
        columns = np.stack([block.column(name).to_numpy() for name in QUERY.features]).T
        partitions, offsets = (block.column(name).to_pylist() for name in ("_partition", "_offset"))
        for p, offset, row in zip(partitions, offsets, columns, strict=True):
            yield (p, offset), row.tobytes()


def by_the_log(cluster: FakeCluster, topic: str) -> Features:
    """What the definition says, without the step: each partition's events in the order of their offsets."""
    decode = DecodeEvents(SCHEMA, QUERY.input_columns, lambda _: SCHEMA, "test")
    decode.setup()
    right: Features = {}
    for p in range(PARTITIONS):
        high = cluster.topics[topic][p].high
        blocks = [decode.decode(raw)[0] for raw in KafkaLog(cluster.transport(topic)).read({p: (0, high)})]
        events = concat([block for block in blocks if block is not None])
        done = QUERY.apply(events, QUERY.history())
        columns = np.stack([done.rows.column(name).to_numpy() for name in QUERY.features]).T
        offsets = events.column("_offset").to_numpy()[done.kept].tolist()
        right |= {(p, offset): row.tobytes() for offset, row in zip(offsets, columns, strict=True)}
    return right


def use_case(folder: Path) -> UseCase:
    """That of the SQL."""
    folder.mkdir()
    (folder / "payment.avsc").write_text(json.dumps(SCHEMA))
    (folder / "preprocess.sql").write_text(SQL)
    settings = "schema: payment.avsc\nsql: preprocess.sql\nkey: card\nevent_time: at\n"
    (folder / "use_case.yaml").write_text(settings)
    return load_use_case(str(folder))


def archived(cluster: FakeCluster, topic: str, case: UseCase, folder: Path, chance: Random) -> None:
    """All events of the topic in files, cut and named as it happens: no order of files or rows is that of the log."""
    decode = DecodeEvents(SCHEMA, QUERY.input_columns, lambda _: SCHEMA, "test")
    decode.setup()
    schema = archive_schema(case, "events")
    ends = {p: (0, log.high) for p, log in enumerate(cluster.topics[topic])}
    blocks = [decode.decode(raw)[0] for raw in KafkaLog(cluster.transport(topic)).read(ends)]
    rows = archive_rows(concat([block for block in blocks if block is not None]), schema)
    order = list(range(rows.num_rows))
    chance.shuffle(order)
    folder.mkdir()
    while order:
        n = chance.randint(1, 300)
        some = pa.Table.from_batches([take(rows, order[:n])]).replace_schema_metadata(
            {PROPERTY: json.dumps(schema[PROPERTY])}
        )
        pq.write_table(some, folder / f"{chance.random()}.parquet")
        order = order[n:]


@pytest.fixture(autouse=True)
def _nothing_left_open() -> Iterator[None]:
    yield
    HISTORIES.close_all()
    SESSIONS.close_all()


@pytest.mark.parametrize("wild", [False, True], ids=["", "wild times"])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in (1, 2))])
def test_whatever_happens_every_row_has_its_features(seed: int, wild: bool) -> None:
    chance, cluster = Random(seed), FakeCluster()
    topic = topic_of(cluster, chance, 800, wild)
    right = by_the_log(cluster, topic)
    processes = [Process(cluster, topic) for _ in range(2)]
    count = chance.choice([1, 2])
    first = {
        n: source_of(cluster, topic, n, count, block_rows=chance.choice([4, 10, 25])).split(1)[0] for n in range(count)
    }
    sources = {n: (source, None) for n, source in first.items()}  # what is left to read, and up to where it is read
    seen: Features = {}
    again = failed = 0
    before = metrics.STATE.snapshot()
    while sources:
        n = chance.choice(list(sources))
        source, mark = sources[n]
        process = chance.choice(processes) if chance.random() < 0.2 else processes[n % 2]  # it moves
        if chance.random() < 0.1:
            process.begin()
        if chance.random() < 0.05:
            processes[processes.index(process)] = process = Process(cluster, topic)  # it was killed
        if chance.random() < 0.05:
            HISTORIES.close_all()
        if chance.random() < 0.1:
            SESSIONS.close_all()
        reader = opened(source, mark) if mark else source.create_reader(None, None)
        out: list[Block] = []
        found = reader.start()
        for _ in range(chance.randint(1, 5)):
            if found:
                out += process.run(reader.get_current())
            found = reader.advance()
        if found:
            out += process.run(reader.get_current())
        for place, row in features(out):  # of failed bundles too: they may have been written
            again += place in seen
            assert seen.setdefault(place, row) == row == right[place], place
        if chance.random() < 0.2:
            failed += 1
            reader.close()
            continue  # the runner takes the bundle again, from its old mark
        end = reader.get_checkpoint_mark()
        if not found and reader._finished():
            del sources[n]
            reader.close()
        else:
            sources[n] = source, end
    assert seen == right
    assert again
    assert failed
    after = metrics.STATE.snapshot()
    assert after[metrics.REREAD] > before[metrics.REREAD]
    assert after[metrics.DEAD_LETTERS] == before[metrics.DEAD_LETTERS]


@pytest.mark.parametrize("wild", [False, True], ids=["", "wild times"])
def test_training_from_an_archive_sees_what_the_job_saw_late_rows_too(tmp_path: Path, wild: bool) -> None:
    chance, cluster = Random(7), FakeCluster()
    topic = topic_of(cluster, chance, 800, wild)
    case = use_case(tmp_path / "payments")
    archived(cluster, topic, case, tmp_path / "archive", chance)
    counts = Counts()
    examples = list(read(case, source(str(tmp_path / "archive")), counts, tmp_path))
    found = np.concatenate([example.x for example in examples])
    assert [row.tobytes() for row in found] == list(by_the_log(cluster, topic).values())
    assert counts.unordered.late
    assert counts.unordered.alone


def test_a_log_shorter_than_the_windows_is_refused_or_counted() -> None:
    cluster = FakeCluster()
    topic = topic_of(cluster, Random(1), 400, wild=False)
    (block,) = KafkaLog(cluster.transport(topic)).read({0: (50, cluster.topics[topic][0].high)})
    cluster.delete_before(topic, 0, 40)
    with pytest.raises(UserError, match=r"partition 0 begins at offset 40.*raise retention.ms.*--short_history warn"):
        Process(cluster, topic).run(block)
    before = metrics.STATE.snapshot()[metrics.SHORT_HISTORIES]
    process = Process(cluster, topic, on_short="warn")
    assert process.run(block)
    assert metrics.STATE.snapshot()[metrics.SHORT_HISTORIES] == before + 1


def test_what_windows_may_hold_is_bounded() -> None:
    cluster = FakeCluster()
    topic = topic_of(cluster, Random(1), 400, wild=False)
    blocks = KafkaLog(cluster.transport(topic)).read({0: (0, 50)})
    with pytest.raises(UserError, match=r"more than 0.001 MB; allow more with --window_memory_mb"):
        Process(cluster, topic, memory_mb=0.001).run(next(blocks))
    high = cluster.topics[topic][0].high
    last = next(KafkaLog(cluster.transport(topic)).read({0: (high - 60, high)}))
    before = metrics.STATE.snapshot()[metrics.REREAD]
    with pytest.raises(UserError, match=r"more than 0.001 MB"):
        Process(cluster, topic, memory_mb=0.001).run(last)  # as soon as that much has been read again
    assert metrics.STATE.snapshot()[metrics.REREAD] == before


def test_a_rebuild_that_is_stopped_ends_the_bundle() -> None:
    cluster = FakeCluster()
    topic = topic_of(cluster, Random(1), 400, wild=False)
    (block,) = KafkaLog(cluster.transport(topic)).read({0: (50, cluster.topics[topic][0].high)})
    stop.request()
    try:
        with pytest.raises(UserError, match="ended while features were rebuilt; nothing is lost"):
            Process(cluster, topic).run(block)
    finally:
        stop.reset()


class ComesBack(logging.Handler):
    """The brokers of a cluster, which are away until somebody says so."""

    def __init__(self, cluster: FakeCluster) -> None:
        super().__init__()
        self._cluster = cluster
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())
        self._cluster.away = False


def test_brokers_that_are_away_during_a_rebuild_are_waited_for() -> None:
    cluster = FakeCluster()
    topic = topic_of(cluster, Random(1), 400, wild=False)
    right = by_the_log(cluster, topic)
    raw = next(KafkaLog(cluster.transport(topic)).read({0: (50, cluster.topics[topic][0].high)}))
    process, back = Process(cluster, topic), ComesBack(cluster)
    begin = process.windows._log.begin

    def begin_and_go(times_ms: Mapping[int, int]) -> dict[int, Beginning]:
        found = begin(times_ms)
        cluster.away = True
        return found

    process.windows._log = SimpleNamespace(  # type: ignore[assignment]
        begin=begin_and_go, read=process.windows._log.read, newest=process.windows._log.newest
    )
    logger = logging.getLogger("beam_jobs.io.reading")
    logger.addHandler(back)
    try:
        out = dict(features(process.run(raw)))
    finally:
        logger.removeHandler(back)
    assert out
    assert out.items() <= right.items()
    assert "nothing can be read (away); waiting" in back.said[0]
    assert "back after" in back.said[1]


def test_a_topic_of_the_same_name_is_another_log() -> None:
    cluster = FakeCluster()
    topic = topic_of(cluster, Random(1), 300, wild=False)
    process = Process(cluster, topic)
    for raw in KafkaLog(cluster.transport(topic)).read({0: (0, 20)}):
        process.run(Stretch({0: (0, 20)}, "old").on(raw))
    cluster.topics[topic] = cluster.topics[topic_of(cluster, Random(2), 300, wild=False)]
    right = by_the_log(cluster, topic)
    (raw,) = KafkaLog(cluster.transport(topic)).read({0: (20, 60)})
    out = dict(features(process.run(Stretch({0: (20, 60)}, "new").on(raw))))
    assert out
    assert out.items() <= right.items()


def of_another_partitioner(cluster: FakeCluster, topic: str) -> None:
    """A record whose card is in another partition as well."""
    now = max(record.timestamp_ms for _, record in cluster.topics[topic][0].rows)
    value = json.dumps({"card": "c0", "at": now, "amount": 5}).encode()
    cluster.write(topic, [Record(value, None, 1, now)])


MIXED = r"partitions 0 and 1 of the topic hold records of the same card.*as their key"


def test_a_key_in_two_partitions_ends_the_job() -> None:
    cluster = FakeCluster()
    topic = topic_of(cluster, Random(1), 300, wild=False)
    process = Process(cluster, topic)
    ends = {p: (0, log.high) for p, log in enumerate(cluster.topics[topic])}
    for raw in KafkaLog(cluster.transport(topic)).read(ends):
        process.run(raw)
    of_another_partitioner(cluster, topic)
    (last,) = KafkaLog(cluster.transport(topic)).read({1: (ends[1][1], ends[1][1] + 1)})
    with pytest.raises(UserError, match=MIXED):
        process.run(last)


def test_keys_that_moved_before_the_windows_begin_are_no_trouble() -> None:
    cluster = FakeCluster()
    topic = topic_of(cluster, Random(1), 300, wild=False)  # of 9 hours at most
    later = T0 + 48 * 3_600_000
    value = json.dumps({"card": "c0", "at": later, "amount": 5}).encode()
    cluster.write(topic, [Record(value, None, 1, later)])
    high = cluster.topics[topic][1].high
    (raw,) = KafkaLog(cluster.transport(topic)).read({1: (high - 1, high)})
    assert Process(cluster, topic).run(raw)


def test_a_key_in_a_partition_that_another_process_reads_ends_the_job_at_its_start() -> None:
    cluster = FakeCluster()
    topic = topic_of(cluster, Random(1), 300, wild=False)
    of_another_partitioner(cluster, topic)
    (raw,) = KafkaLog(cluster.transport(topic)).read({2: (0, 20)})
    with pytest.raises(UserError, match=MIXED):
        Process(cluster, topic).run(raw)
