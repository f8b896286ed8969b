"""The Pub/Sub source and sink on Google's fake: acknowledged when final, once each, in order by key."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.io.gcp import pubsub as beam_pubsub
from apache_beam.io.unbounded_source import ReadFromUnboundedSource
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pipeline import PipelineVisitor
from apache_beam.utils.timestamp import MAX_TIMESTAMP

import schemas
from beam_jobs import metrics, stop
from beam_jobs.block import RAW_SCHEMA, raw_block
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.dead_letters import dead_letter_block
from beam_jobs.errors import RowErrors, UserError
from beam_jobs.io.block_reader import BlockSettings
from beam_jobs.io.pubsub import client
from beam_jobs.io.pubsub.address import PubSubAddress
from beam_jobs.io.pubsub.bus import BUS
from beam_jobs.io.pubsub.pull import PULLERS, PullSettings
from beam_jobs.io.pubsub.sink import PublishBlocks
from beam_jobs.io.pubsub.source import SESSIONS, PubSubReader, PubSubSource
from beam_jobs.io.pubsub.transforms import PubSubInput, ReadFromPubSub, WriteToPubSub
from beam_jobs.io.sink import WriteSettings, leave_out
from beam_jobs.io.source import Wanted
from beam_jobs.preflight.archive import ArchiveJob, archive_job
from beam_jobs.preflight.reach import Preflight
from beam_jobs.steps.redrive import Redrive
from beam_jobs.terminal import options
from beam_jobs.terminal.commands import JOBS
from tests.integration.pubsub_topics import PubSubTopics
from tests.services.pubsub import EMULATOR, Server

pytestmark = pytest.mark.integration


@pytest.fixture
def pub(pubsub: str) -> PubSubTopics:
    return PubSubTopics(pubsub)


@pytest.fixture(autouse=True)
def no_drain() -> Iterator[None]:
    stop.reset()
    metrics.STATE.reset()
    yield
    stop.reset()
    SESSIONS.close_all()


def source(pub: PubSubTopics, **more: Any) -> PubSubSource:
    (ready,) = PubSubSource(PubSubAddress(pub.project, pub.name("events")), "events", **more).split(1)
    assert isinstance(ready, PubSubSource)
    return ready


def read(reader: PubSubReader, rows: int) -> list[dict[str, Any]]:
    """At least so many rows of one bundle."""
    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + 60
    while len(found) < rows:
        assert time.monotonic() < deadline
        if reader.advance():
            assert reader.get_current().schema.equals(RAW_SCHEMA)
            found += reader.get_current().to_pylist()
    return found


def read_block(reader: PubSubReader) -> pa.RecordBatch:
    until(reader.advance)
    return reader.get_current()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_message_is_a_row(pub: PubSubTopics) -> None:
    ids = pub.send("events", [b"one"], attributes={"b": "2", "a": "1"}, keys=["car-1"])
    reader = source(pub).create_reader(None, None)
    (row,) = read(reader, 1)
    assert (row["topic"], row["partition"], row["key"], row["value"]) == ("events", 0, b"car-1", b"one")
    assert row["headers"] == [{"key": "a", "value": b"1"}, {"key": "b", "value": b"2"}]
    assert abs(row["timestamp"].timestamp() - time.time()) < 60
    assert ids[0].startswith("m")
    assert row["offset"] > 0
    reader.get_checkpoint_mark().finalize_checkpoint()
    until(lambda: pub.left("events") == 0)


def test_what_is_not_final_comes_again_and_only_that(pub: PubSubTopics) -> None:
    pub.send("events", [b"%d" % i for i in range(300)])
    ready = source(pub, blocks=BlockSettings(block_rows=100))
    reader = ready.create_reader(None, None)
    first = read(reader, 100)
    mark = reader.get_checkpoint_mark()
    mark.finalize_checkpoint()
    lost = read(reader, 100)
    reader.get_checkpoint_mark()  # its bundle fails: the runner goes back to the mark before
    again = ready.create_reader(
        None, ready.get_checkpoint_mark_coder().decode(ready.get_checkpoint_mark_coder().encode(mark))
    )
    rest = read(again, 300 - len(first))
    assert {row["offset"] for row in lost} < {row["offset"] for row in rest}
    assert len({row["offset"] for row in [*first, *rest]}) == len(first) + len(rest) == 300
    again.get_checkpoint_mark().finalize_checkpoint()
    until(lambda: pub.left("events") == 0)


def test_a_message_that_comes_again_is_dropped(pub: PubSubTopics) -> None:
    pub.send("events", [b"%d" % i for i in range(50)])
    ready = source(pub)
    reader = ready.create_reader(None, None)
    rows = read(reader, 50)
    puller = PULLERS[reader.get_checkpoint_mark().puller]
    with puller._lock:
        leased = [ack_id for batch in puller._batches.values() for ack_id in batch.ack_ids]
    puller._modify(leased, 0)  # as if the leases had run out while the bundle is open
    resumed = ready.create_reader(None, reader._mark)
    until(lambda: not resumed.advance() and metrics.STATE.snapshot()[metrics.REDELIVERED] == 50)
    pub.send("events", [b"new"])
    assert [row["value"] for row in read(resumed, 1)] == [b"new"]
    resumed.get_checkpoint_mark().finalize_checkpoint()
    until(lambda: pub.left("events") == 0)
    assert len({row["offset"] for row in rows}) == 50
    resumed.close()


def test_leases_are_kept_while_a_bundle_is_open(pub: PubSubTopics) -> None:
    pub.send("events", [b"%d" % i for i in range(20)])
    settings = PullSettings(lease_s=2)
    reader = source(pub, settings=settings).create_reader(None, None)
    read(reader, 20)
    opened = time.monotonic()
    while time.monotonic() - opened < 5:  # more than two leases
        assert not reader.advance()
        assert pub.left("events") == 0  # nobody else gets one
    assert metrics.STATE.snapshot()[metrics.REDELIVERED] == 0
    reader.close()


def test_a_key_keeps_its_order(pubsub: str) -> None:
    pub = PubSubTopics(pubsub, ordered=True)
    n, keys = 40, ["a", "b"]
    rows = [(keys[i % 2], b"%d" % i) for i in range(n)]
    sink = PublishBlocks(PubSubAddress(pubsub, pub.name("events")))
    written = raw_block("t", [0] * n, range(n), [0] * n, [k.encode() for k, _ in rows], [v for _, v in rows])
    write(sink, written.select(["key", "value"]))
    ready = source(pub)
    reader, found = ready.create_reader(None, None), list[dict[str, Any]]()
    deadline = time.monotonic() + 60
    while len(found) < n:  # the fake hands out a key's next message when the last one is acknowledged
        assert time.monotonic() < deadline
        if reader.advance():
            found += reader.get_current().to_pylist()
        mark = reader.get_checkpoint_mark()
        mark.finalize_checkpoint()
        reader = ready.create_reader(None, mark)
    for key in keys:
        assert [r["value"] for r in found if r["key"] == key.encode()] == [v for k, v in rows if k == key]
    reader.close()


def write(sink: PublishBlocks, block: pa.RecordBatch) -> None:
    sink.setup()
    sink.start_bundle()
    sink.process(block, timestamp=MAX_TIMESTAMP)
    sink.finish_bundle()
    sink.teardown()


def test_flow_control_ends_a_bundle_that_gathers(pub: PubSubTopics) -> None:
    pub.send("events", [b"x"] * 500)
    settings = PullSettings(max_messages=200)
    ready = source(pub, settings=settings, blocks=BlockSettings(gather_s=60.0, block_rows=50))
    reader, found, bundles = ready.create_reader(None, None), 0, 0
    deadline = time.monotonic() + 50  # less than one gathering
    while found < 500:
        assert time.monotonic() < deadline
        while found < 500 and reader.advance():
            found += reader.get_current().num_rows
        bundles += 1
        mark = reader.get_checkpoint_mark()
        mark.finalize_checkpoint()
        reader = ready.create_reader(None, mark)
    assert bundles > 1
    reader.close()


def test_ctrl_c_gives_back_what_was_not_handed_out(pub: PubSubTopics) -> None:
    pub.send("events", [b"%d" % i for i in range(100)])
    reader = source(pub, blocks=BlockSettings(block_rows=30)).create_reader(None, None)
    taken = read(reader, 30)
    stop.request()
    assert not reader.advance()
    assert reader.get_watermark() == MAX_TIMESTAMP
    mark = reader.get_checkpoint_mark()
    reader.close()
    mark.finalize_checkpoint()
    left: list[Any] = []
    until(lambda: bool(left.extend(pub.messages("events"))) or len(left) >= 100 - len(taken))  # without a lease's wait
    assert len(left) == 100 - len(taken)


@pytest.mark.parametrize("kind", ["plain", "batched"])
def test_a_bounded_pipeline_ends(
    pub: PubSubTopics, pubsub_server: Server, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Also on pstest's own StreamingPull, a message a response."""
    pub.send("events", [b"%d" % i for i in range(30)], attributes={"n": "1"})
    now = int(time.time() * 1000) + 1
    until(lambda: time.time() * 1000 > now)
    pub.send("events", [b"later"])
    if kind == "plain":
        monkeypatch.setenv(EMULATOR, pubsub_server.plain)
    address = PubSubAddress(pub.project, pub.name("events"))
    with beam.Pipeline("FnApiRunner") as pipeline:
        blocks = pipeline | ReadFromPubSub(PubSubInput(address, until_ms=now, quiet_s=5))
        blocks | WriteToPubSub(PubSubAddress(pub.project, pub.name("scores")))
    found = pub.messages("scores")
    assert sorted(int(message.data) for message in found) == list(range(30))
    assert {dict(message.attributes)["n"] for message in found} == {"1"}
    assert [message.data for message in pub.messages("events")] == [b"later"]


def test_too_large_is_replaced_or_told(pub: PubSubTopics) -> None:
    address = PubSubAddress(pub.project, pub.name("events"))
    large = pa.record_batch({"key": pa.array([b"k", b"l"]), "value": pa.array([b"x" * 10_000_000, b"small"])})
    with pytest.raises(UserError, match="10000000 bytes"):
        write(PublishBlocks(address), large)

    def instead(rows: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"key": rows.column("key"), "value": pa.array([b"instead"] * rows.num_rows)})

    write(PublishBlocks(address, WriteSettings(on_too_large=instead)), large)
    assert sorted((m.ordering_key, m.data) for m in pub.messages("events")) == [("k", b"instead"), ("l", b"small")]


@pytest.mark.parametrize("key", [b"k" * 1025, b"\xff\x00", b"k" * 1_000_000, b"k" * 9_900_000, b""])
def test_any_record_travels(pub: PubSubTopics, key: bytes) -> None:
    headers = [[("trace", b"x" * 40_000), ("", None), ("trace", b"\xff")], [(f"h-{i}", b"y") for i in range(150)], None]
    values = [b"v", None, b""]
    sent = raw_block("t", [0] * 3, range(3), [5] * 3, [key, b"k", None], values, headers)
    write(PublishBlocks(PubSubAddress(pub.project, pub.name("events"))), sent)
    reader = source(pub).create_reader(None, None)
    found = {repr(row["value"]): row for row in read(reader, 3)}
    for row in sent.to_pylist():
        back = found[repr(row["value"])]
        assert back["key"] == row["key"]
        order = [(h["key"], h["value"]) for h in row["headers"] or []]
        assert sorted(((h["key"], h["value"]) for h in back["headers"] or []), key=repr) == sorted(order, key=repr)
    reader.get_checkpoint_mark().finalize_checkpoint()
    reader.close()


@pytest.mark.parametrize("size", [500, 600, 1024])
def test_a_dead_letter_with_all_attributes_is_put_back_as_it_was(pub: PubSubTopics, size: int) -> None:
    attributes = {f"name-{i:03}": "v" * size for i in range(100)}
    pub.send("events", [b"broken"], attributes, keys=["car-1"])
    schema = schemas.load("dead_letter")
    reader = source(pub).create_reader(None, None)
    assert read_block(reader).num_rows == 1
    errors = RowErrors(np.array([0]), ("bad_magic_byte",), ("broken",))
    letters = dead_letter_block(reader.get_current(), errors, "decode", "job")
    redrive = Redrive((), lambda _: schema)
    redrive.setup()
    topic = raw_block("dead", [0], [0], [0], [b"car-1"], AvroEncoder(schema, 1).encode(letters))
    (records,) = redrive.process(topic)
    write(PublishBlocks(PubSubAddress(pub.project, pub.name("alerts"))), records)
    (back,) = pub.messages("alerts")
    assert (back.data, dict(back.attributes), back.ordering_key) == (b"broken", attributes, "car-1")
    reader.close()


def test_what_is_too_large_to_be_put_back_is_counted_and_left(pub: PubSubTopics) -> None:
    address = PubSubAddress(pub.project, pub.name("events"))
    records = raw_block("t", [0] * 2, [0, 1], [0] * 2, [None] * 2, [b"x" * 10_000_000, b"small"])
    sink = PublishBlocks(address, WriteSettings(on_too_large=partial(leave_out, address)))
    write(sink, records.select(["key", "value", "headers", "timestamp"]))
    assert [message.data for message in pub.messages("events")] == [b"small"]
    assert metrics.STATE.snapshot()[metrics.TOO_LARGE] == 1
    assert metrics.STATE.snapshot()[metrics.RECORDS_WRITTEN] == 1


def found_source(text: str, address: str, **given: str) -> PubSubInput:
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    parsed = options.parse(JOBS["score"].parser(), words)
    start, until, group = (given.get(name) for name in ("from", "until", "group_id"))
    found = BUS.source(address, Wanted(text, parsed.get_all_options(), start, until, group), Preflight(parsed))
    assert isinstance(found, PubSubInput)
    return found


def test_a_topic_gets_a_subscription_of_the_job(pub: PubSubTopics) -> None:
    client.ensure_topic(PubSubAddress(pub.project, pub.name("bare")))
    with pytest.raises(UserError, match="gcloud pubsub subscriptions create"):
        found_source("highbeam.score", pub.uri("bare"), until="latest")
    made = found_source("highbeam.score", pub.uri("bare"))
    assert made.address.topic == f"highbeam.score.{pub.name('bare')}"
    assert made.topic == pub.name("bare")
    assert found_source("highbeam.score", pub.uri("bare")).address == made.address
    with pytest.raises(UserError, match="subscribes to"):
        found_source("highbeam.score", pub.uri("events"), group_id=made.address.topic)


def test_a_second_subscription_of_a_topic_is_not_archived_into_its_folder(pub: PubSubTopics, tmp_path: Path) -> None:
    pub.subscribe("again", "events")

    def checked(read: str, folder: str) -> ArchiveJob:
        given = ["--use_case", "car_sensors", "--input", pub.uri(read), "--dead_letters", pub.uri("dead")]
        return archive_job(options.parse(JOBS["archive"].parser(), [*given, "--output", str(tmp_path / folder)]))

    checked("events", "archive").write.log().recover()
    with pytest.raises(UserError) as refused:
        checked("again", "archive")
    assert str(refused.value) == (
        f"--output {tmp_path / 'archive'}: holds what subscription {pub.uri('events')} got of {pub.uri('events')}, and "
        f"{pub.uri('again')} gets the same messages; go on with --input {pub.uri('events')}, or choose another folder"
    )
    checked("events", "archive")
    checked("again", "another")
    checked("alerts", "archive")  # of another topic


def test_what_cannot_be_had_is_one_line(pub: PubSubTopics, monkeypatch: pytest.MonkeyPatch) -> None:
    for given, told in [
        ({"from": "latest"}, "keeps its own position"),
        ({"from": "0:5"}, "keeps its own position"),
        ({"until": "earliest"}, "have no offsets"),
        ({"quiet_seconds": "0"}, "more than 0"),
        ({"pull_streams": "0"}, "1 to 100"),
    ]:
        with pytest.raises(UserError, match=told):
            found_source("g", pub.uri("events"), **given)
    with pytest.raises(UserError, match="neither a subscription nor a topic"):
        found_source("g", pub.uri("missing"))
    with pytest.raises(UserError, match="does not exist"):
        client.check_topic(PubSubAddress(pub.project, pub.name("missing")))
    monkeypatch.setenv(EMULATOR, "127.0.0.1:1")
    started = time.monotonic()
    with pytest.raises(UserError, match="does not answer"):
        client.check_topic(PubSubAddress(pub.project, pub.name("events")))
    assert time.monotonic() - started < 15


def test_seeking_passes_over_what_was_before(pub: PubSubTopics) -> None:
    pub.send("events", [b"before"])
    now = int(time.time() * 1000) + 1
    until(lambda: time.time() * 1000 > now)
    found = found_source("g", pub.uri("events"), **{"from": str(now), "until": "latest"})
    pub.send("events", [b"after"])
    assert found.address.topic == pub.name("events")
    assert [message.data for message in pub.messages("events")] == [b"after"]


@pytest.mark.parametrize(
    ("kept", "hours", "told"),
    [
        (False, 1, "more than 0 hours ago only what is not acknowledged is there"),
        (True, 23, None),
        (True, 25, "more than 24 hours ago only what is not acknowledged is there"),
    ],
)
def test_a_seek_beyond_what_is_kept_is_told(
    pub: PubSubTopics,
    kept: bool,
    hours: int,
    told: str | None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "seek", lambda *_: None)  # back in time the fake ends with a panic
    topic = pub.publisher.topic_path(pub.project, pub.name("events"))
    request = {"name": pub.subscription("kept"), "topic": topic, "retain_acked_messages": kept}
    pub.subscriber.create_subscription(request=request | {"message_retention_duration": {"seconds": 86_400}})
    found_source("g", pub.uri("kept"), **{"from": str(int(time.time() - hours * 3600) * 1000), "until": "latest"})
    said = capsys.readouterr().err
    assert "is set to" in said
    assert ("hours ago" in said) == (told is not None)
    assert (told or "") in said


def test_a_new_subscription_that_is_set_back_holds_nothing(
    pub: PubSubTopics, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "seek", lambda *_: None)
    client.ensure_topic(PubSubAddress(pub.project, pub.name("bare")))
    found_source("g", pub.uri("bare"), **{"from": str(int(time.time() - 60) * 1000), "until": "latest"})
    assert "more than 0 hours ago nothing is there" in capsys.readouterr().err


def test_what_is_deleted_under_a_live_job_ends_it(pub: PubSubTopics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "REFUSED_FOR_S", 0.5)
    pub.send("events", [b"x"])
    reader = source(pub).create_reader(None, None)
    read(reader, 1)
    pub.subscriber.delete_subscription(subscription=pub.subscription("events"))
    mark = reader.get_checkpoint_mark()
    mark.finalize_checkpoint()
    with pytest.raises(UserError, match="does not exist, or no more"):
        until(source(pub).create_reader(None, None).advance)
    with pytest.raises(UserError, match="does not exist, or no more"):
        until(PubSubReader(reader._source, mark).advance)
    assert metrics.STATE.snapshot()[metrics.RECORDS_COMMITTED] == 0
    address = PubSubAddress(pub.project, pub.name("alerts"))
    pub.publisher.delete_topic(topic=address.topic_path)
    with pytest.raises(UserError, match=f"{address}: does not exist, or no more"):
        write(PublishBlocks(address), raw_block("t", [0], [0], [0], [None], [b"x"]))


class _Transforms(PipelineVisitor):  # type: ignore[misc]
    def __init__(self) -> None:
        self.kinds: set[type] = set()

    def enter_composite_transform(self, node: Any) -> None:
        self.kinds.add(type(node.transform))


def test_dataflow_gets_beams_own_io() -> None:
    """As a constructed graph: nothing here runs on Dataflow."""
    flags = [
        "--runner=DataflowRunner",
        "--project=lab-project",
        "--region=r",
        "--temp_location=gs://b/t",
        "--streaming",
    ]
    pipeline = beam.Pipeline("DirectRunner", options=PipelineOptions(flags))
    address = PubSubAddress("lab-project", "events")
    _ = pipeline | "In" >> ReadFromPubSub(PubSubInput(address)) | "Out" >> WriteToPubSub(address)
    found = _Transforms()
    pipeline.visit(found)
    assert {beam_pubsub.ReadFromPubSub, beam_pubsub.WriteToPubSub} <= found.kinds
    assert not {ReadFromUnboundedSource} & found.kinds
    with pytest.raises(UserError, match="leave --until out"):
        _ = pipeline | "Bounded" >> ReadFromPubSub(PubSubInput(address, until_ms=5))
