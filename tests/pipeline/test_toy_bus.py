"""A bus and a codec of other distributions in whole jobs: found by the scheme, and by the first byte of a value."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from beam_jobs.errors import UserError
from beam_jobs.io.bus import BUSES, parse
from beam_jobs.preflight.archive import archive_job
from beam_jobs.terminal import options
from beam_jobs.terminal.commands import JOBS
from tests.distribution import install
from tests.integration.archives import rows
from tests.integration.topics import events, framed

TOY = """
import json
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam

from beam_jobs import metrics
from beam_jobs.block import Block, raw_block
from beam_jobs.errors import UserError
from beam_jobs.io.bus import Bus
from beam_jobs.io.sink import Sink, WriteSettings
from beam_jobs.io.source import Source


@dataclass(frozen=True)
class ToyAddress:
    path: str
    place = "toy"

    def __str__(self):
        return f"toy://{self.path}"

    @property
    def topic(self):
        return Path(self.path).name


class ReadLines(beam.DoFn):
    def process(self, path):
        lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
        keys, values = ([None if v is None else bytes.fromhex(v) for v in column] for column in zip(*lines))
        n = len(lines)
        metrics.inc(metrics.RECORDS_READ, n)
        yield raw_block(Path(path).name, [0] * n, range(n), [1_700_000_000_000] * n, keys, values)


class WriteLines(beam.DoFn):
    def __init__(self, path):
        self.path = path

    def process(self, block):
        with open(self.path, "a") as file:
            for row in block.select(["key", "value"]).to_pylist():
                pair = [None if v is None else v.hex() for v in (row["key"], row["value"])]
                file.write(json.dumps(pair) + "\\n")
        metrics.inc(metrics.RECORDS_WRITTEN, block.num_rows)


class ReadToy(beam.PTransform):
    def __init__(self, path):
        super().__init__()
        self.path = path

    def expand(self, begin):
        return begin | beam.Create([self.path]) | beam.ParDo(ReadLines()).with_output_types(Block)


@dataclass(frozen=True)
class ToyInput(Source):
    bus = "Toy"
    address: ToyAddress

    def read(self):
        return ReadToy(self.address.path)

    def describe(self):
        return f"reading {self.address}"


@dataclass(frozen=True)
class ToyOutput(Sink):
    address: ToyAddress

    def write(self, settings=WriteSettings()):
        return beam.ParDo(WriteLines(self.address.path))

    def check(self, timeout_s):
        if not Path(self.address.path).exists():
            raise UserError(f"{self.address}: does not exist")

    def create(self):
        Path(self.address.path).touch()


class ToyBus:
    example = "toy:///folder/file"

    def address(self, uri):
        return ToyAddress(uri.partition("://")[2])

    def source(self, uri, wanted, checks):
        address = self.address(uri)
        if wanted.until is None:
            raise UserError(f"{address} has an end: add --until latest")
        checks.ask(address.place, f"file {address.topic}", Path(address.path).stat)
        return ToyInput(address)

    def sink(self, uri, options):
        return ToyOutput(self.address(uri))


BUS: Bus = ToyBus()
"""

# Values are a tilde before Confluent-framed Avro, reversed.
CODEC = """
import pyarrow as pa

from beam_jobs.codec.avro.decoder import AvroDecoder


class Decoder:
    def __init__(self, schemas):
        self.avro = AvroDecoder(schemas.reader, schemas.writer, schemas.columns)

    def decode(self, values):
        return self.avro.decode(pa.array([value[:0:-1] for value in values.to_pylist()], pa.binary()))


class Codec:
    about = "~ (text of Acme)"
    first_bytes = b"~"

    def decoder(self, schemas):
        return Decoder(schemas)


CODEC = Codec()
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for toy topics; both distributions are installed for this process and for those it starts."""
    place = install(tmp_path / "toy", "acme_toy", TOY, {"highbeam.buses": {"toy": "acme_toy:BUS"}})
    install(tmp_path / "toy", "acme_codec", CODEC, {"highbeam.codecs": {"acme": "acme_codec:CODEC"}})
    monkeypatch.syspath_prepend(place)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([place, *filter(None, [os.environ.get("PYTHONPATH")])]))
    for name in ("acme_toy", "acme_codec"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def command(job: str, *more: str) -> list[str]:
    return [sys.executable, "-m", f"beam_jobs.{job}", "--use_case", "car_sensors", *more]


def lines(path: Path) -> list[tuple[str | None, str | None]]:
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()]


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_events_are_archived_from_a_toy_topic_and_put_back_on_another(toy: Path) -> None:
    avro = framed(events(500))
    sent = [*avro[:250], *(b"~" + value[::-1] for value in avro[250:]), b"broken"]
    pairs = [json.dumps([(b"car-%d" % (i % 7)).hex(), v.hex()]) for i, v in enumerate(sent)]
    (toy / "events").write_text("\n".join(pairs) + "\n")
    read, dead, again = (f"toy://{toy / name}" for name in ("events", "dead", "again"))
    archived = run(
        command(
            *("archive", "--input", read, "--until", "latest", "--dead_letters", dead, "--create_topics"),
            *("--raw", "--keep_keys", "--output", str(toy / "archive")),
        )
    )
    assert f"reading {read}" in archived
    assert "every record is accounted for" in archived
    found = rows(toy)
    assert sorted(row["source_offset"] for row in found) == list(range(500))
    assert {row["source_topic"] for row in found} == {"events"}
    assert len(lines(toy / "dead")) == 1
    run(command("replay", "--input", str(toy / "archive"), "--output", again, "--create_topics"))
    keys = [(b"car-%d" % (i % 7)).hex() for i in range(500)]
    assert [key for key, _ in lines(toy / "again")] == keys


def test_what_the_bus_refuses_is_said(toy: Path) -> None:
    assert BUSES.names() == ["kafka", "pubsub", "toy"]
    assert parse(f"TOY://{toy}/x").topic == "x"
    with pytest.raises(UserError, match=r"expected kafka://.* or pubsub://.* or toy:///folder/file"):
        parse("http://a/b")
    (toy / "events").touch()
    given = ["--use_case", "car_sensors", "--input", f"toy://{toy}/events", "--output", str(toy / "archive")]

    def checked(*more: str) -> None:
        archive_job(options.parse(JOBS["archive"].parser(), [*given, "--dead_letters", f"toy://{toy}/dead", *more]))

    with pytest.raises(UserError, match="has an end: add --until latest"):
        checked()
    with pytest.raises(UserError, match=r"does not exist \(--create_topics creates it\)"):
        checked("--until", "latest")
    with pytest.raises(UserError, match="events is the input as well as an output"):
        checked("--until", "latest", "--dead_letters", f"toy://{toy}/events")
    with pytest.raises(
        UserError, match=r"\.\.\.\), which are rebuilt .* and Toy has none .*; bring the events to a Kafka topic"
    ):
        checked("--until", "latest", "--use_case", "car_sensors_history")
