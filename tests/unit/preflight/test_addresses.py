"""What the checks of several jobs share: archives by name, parts for several processes, bounds of options."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from beam_jobs.archives.read import ArchiveInput
from beam_jobs.errors import UserError
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.transforms import KafkaInput
from beam_jobs.io.source import Source
from beam_jobs.preflight.addresses import archive_input, block_settings, shares, stream_source
from beam_jobs.preflight.reach import Preflight
from beam_jobs.terminal import options
from beam_jobs.terminal.commands import JOBS
from tests.graphs import ARCHIVED, CARS


def parse(*words: str) -> options.PipelineOptions:
    return options.parse(JOBS["score"].parser(), words)


def given(*words: str) -> options.InputOptions:
    return parse(*words).view_as(options.InputOptions)


@pytest.mark.parametrize("where", ["kafka://h:1/t", "pubsub://p/s", "topic", "s3://bucket/x"])
def test_what_is_no_archive_is_left_to_others(where: str) -> None:
    assert archive_input(given("--input", where), CARS) is None


def test_an_archive_is_cut_by_time_and_read_by_one_source(tmp_path: Path) -> None:
    here = ["--input", str(tmp_path)]
    with pytest.raises(UserError, match="--until 0:7: an archive is cut by event time, give a time like"):
        archive_input(given(*here, "--until", "0:7"), CARS)
    with pytest.raises(UserError, match=f"--kafka_io java reads a topic, and --input {tmp_path} is an archive"):
        archive_input(given(*here, "--kafka_io", "java"), CARS)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--block_rows=0"], "--block_rows 0: expected 1 to 1000000"),
        (["--block_rows=1000001"], "--block_rows 1000001: expected 1 to 1000000"),
        (["--max_latency_ms=0.5"], "--max_latency_ms 0.5: expected 1 to 60000"),
        (
            ["--input=pubsub://my-project/events", "--kafka_io=java"],
            "--kafka_io java reads Kafka, and --input is pubsub://",
        ),
    ],
)
def test_bounds_of_what_is_read(words: list[str], text: str) -> None:
    parsed = parse("--input=kafka://h:1/t", *words)
    read = parsed.view_as(options.InputOptions)
    with pytest.raises(UserError, match=f"^{text}"):
        stream_source(Preflight(parsed), "score/cars", block_settings(read))


@dataclass(frozen=True)
class Read:
    source: Source


def test_processes_share_the_partitions_of_a_topic() -> None:
    source = KafkaInput(KafkaAddress("h:1", "t"), group_id="g")
    parts = shares(Read(source), 3)
    assert [part.source for part in parts] == [replace(source, part=(i, 3)) for i in range(3)]


def test_processes_share_the_files_of_an_archive() -> None:
    one, two = (part.source for part in shares(Read(ARCHIVED), 2))
    assert isinstance(one, ArchiveInput)
    assert isinstance(two, ArchiveInput)
    assert sorted(one.files + two.files) == sorted(ARCHIVED.files)
    assert {len(one.files), len(two.files)} == {1}
