"""What every source and every sink promise a job, whatever the bus."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from beam_jobs.archives.read import ArchiveInput
from beam_jobs.io.bus import BUSES, parse
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.transforms import KafkaInput
from beam_jobs.io.position import EARLIEST, LATEST
from beam_jobs.io.pubsub.address import PubSubAddress
from beam_jobs.io.pubsub.pull import PullSettings
from beam_jobs.io.pubsub.transforms import PubSubInput
from beam_jobs.io.source import Source
from beam_jobs.use_case import load_use_case

TOPIC, SUBSCRIPTION = KafkaAddress("b:9092", "events"), PubSubAddress("my-project", "events-sub")
FILES = tuple(f"gs://bucket/{i}.avro" for i in range(7))
SOURCES: dict[str, Source] = {
    "kafka, live": KafkaInput(TOPIC, group_id="g"),
    "kafka, bounded": KafkaInput(TOPIC, until=LATEST),
    "pubsub, live": PubSubInput(SUBSCRIPTION, "events"),
    "pubsub, bounded": PubSubInput(SUBSCRIPTION, "events", until_ms=5, pull=PullSettings(acknowledge=False)),
    "an archive": ArchiveInput(FILES, load_use_case("car_sensors"), "features", None, None, name="gs://bucket"),
}


@pytest.mark.parametrize("name", BUSES.names())
def test_an_address_is_what_its_uri_says(name: str) -> None:
    bus = BUSES.get(name)
    address = bus.address(bus.example)
    assert address == parse(bus.example) == bus.address(str(address))
    assert str(address).startswith(f"{name}://")
    assert address.topic
    assert address.place
    assert pickle.loads(pickle.dumps(address)) == address
    assert hash(pickle.loads(pickle.dumps(address))) == hash(address)


@pytest.mark.parametrize("name", BUSES.names())
def test_a_sink_travels_and_holds_no_secret(name: str, tmp_path: Path) -> None:
    bus = BUSES.get(name)
    path = tmp_path / "client.properties"
    path.write_text("sasl.password=hunter2\n", encoding="utf-8")
    sink = bus.sink(bus.example, {"kafka_config": str(path)})
    assert sink.address == bus.address(bus.example)
    assert pickle.loads(pickle.dumps(sink)) == sink
    assert b"hunter2" not in pickle.dumps(sink.write())


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_a_source_travels_and_says_what_is_read(source: Source) -> None:
    assert source.describe().startswith("reading ")
    assert pickle.loads(pickle.dumps(source)).describe() == source.describe()
    assert "\n" not in source.describe() + source.nothing_left()
    assert source.share(0, 1) == source


def test_what_is_said_of_each() -> None:
    found = {name: (s.live, s.keeps_position, s.gives, s.input_files) for name, s in SOURCES.items()}
    assert found == {
        "kafka, live": (True, True, "records", 0),
        "kafka, bounded": (False, False, "records", 0),
        "pubsub, live": (True, True, "records", 0),
        "pubsub, bounded": (False, False, "records", 0),
        "an archive": (False, False, "features", 7),
    }
    assert [s.describe() for s in SOURCES.values()] == [
        "reading kafka://b:9092/events where group g left off, or else from earliest",
        "reading kafka://b:9092/events from earliest until latest",
        "reading subscription pubsub://my-project/events-sub",
        "reading subscription pubsub://my-project/events-sub until 1970-01-01T00:00:00.005Z and then 30 s of quiet",
        "reading 7 files of features from gs://bucket",
    ]


def test_shares_are_disjoint_and_whole() -> None:
    kafka, archive = SOURCES["kafka, live"], SOURCES["an archive"]
    assert isinstance(kafka, KafkaInput)
    assert [kafka.share(i, 3).part for i in range(3)] == [(0, 3), (1, 3), (2, 3)]
    assert isinstance(archive, ArchiveInput)
    parts = [archive.share(i, 3).files for i in range(3)]
    assert sorted(file for part in parts for file in part) == sorted(FILES)
    assert all(parts)
    assert SOURCES["pubsub, live"].share(1, 3) == SOURCES["pubsub, live"]  # the service divides it


def test_a_job_that_goes_on_leaves_no_gap() -> None:
    late = KafkaInput(TOPIC, KafkaConfig(), "g", LATEST)
    resumed = late.resumed()
    assert (late.start, resumed.start, resumed.group_id) == (LATEST, EARLIEST, "g")
    assert SOURCES["pubsub, live"].resumed() == SOURCES["pubsub, live"]
