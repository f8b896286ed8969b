"""SQL with windows: jobs compute them where a log is to rebuild them from, and say in one line where there is none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import use_cases
from beam_jobs import preview
from beam_jobs.archives.read import ArchiveInput
from beam_jobs.errors import UserError
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.topic import KafkaLog
from beam_jobs.io.kafka.transforms import KafkaInput
from beam_jobs.io.pubsub.address import PubSubAddress
from beam_jobs.io.pubsub.transforms import PubSubInput
from beam_jobs.preflight.addresses import window_settings
from beam_jobs.preflight.archive import archive_job
from beam_jobs.steps.windows import WindowSettings
from beam_jobs.terminal import options
from beam_jobs.terminal.commands import JOBS
from beam_jobs.use_case import load_use_case

FEATURE = """,
  avg(speed) OVER (PARTITION BY car_id ORDER BY event_time
                   RANGE BETWEEN INTERVAL '5' MINUTE PRECEDING AND CURRENT ROW) AS speed_5m
FROM events"""


@pytest.fixture
def windowed(tmp_path: Path) -> str:
    """A use case with a window feature."""
    folder = tmp_path / "cars"
    shutil.copytree(Path(use_cases.__file__).parent / "car_sensors", folder)
    sql = folder / "preprocess.sql"
    sql.write_text(sql.read_text().replace("\nFROM events", FEATURE))
    return str(folder)


def given(use_case: str, job: str, *more: str) -> Any:
    common = ["--use_case", use_case, "--input", "kafka://127.0.0.1:1/events"]
    return options.parse(JOBS[job].parser(), [*common, "--dead_letters", "kafka://127.0.0.1:1/dead", *more])


TOPIC = KafkaAddress("127.0.0.1:1", "events")


def test_kafka_has_a_log(windowed: str) -> None:
    preprocessor = load_use_case(windowed).preprocessor()
    parsed = given(windowed, "score", "--short_history", "warn", "--window_memory_mb", "100")
    source = KafkaInput(TOPIC, group_id="jobs")
    assert window_settings(parsed, preprocessor, source) == WindowSettings("warn", 100.0)
    log = source.log()
    assert isinstance(log, KafkaLog)
    assert "jobs" not in repr(log)  # reading again commits nothing


def test_a_source_without_a_log_is_refused(windowed: str) -> None:
    use_case = load_use_case(windowed)
    archive = ArchiveInput((), use_case, "events", None, None)
    for source, more, said in (
        (KafkaInput(TOPIC, io="java"), ["--kafka_io", "java"], "Java has none.*leave out --kafka_io"),
        (archive, [], "an archive has none.*bring the events to a Kafka topic, their key car_id .highbeam replay"),
        (
            PubSubInput(PubSubAddress("project-a", "events")),
            [],
            "Pub/Sub has none.*bring the events to a Kafka topic, their key car_id$",
        ),
    ):
        with pytest.raises(UserError, match=rf"window features \(avg OVER \.\.\.\).*{said}"):
            window_settings(given(windowed, "score", *more), use_case.preprocessor(), source)
        window_settings(given(windowed, "score", *more), load_use_case("car_sensors").preprocessor(), source)


def test_memory_is_more_than_none(windowed: str) -> None:
    with pytest.raises(UserError, match="--window_memory_mb 0: expected more than 0"):
        window_settings(
            given(windowed, "score", "--window_memory_mb", "0"),
            load_use_case(windowed).preprocessor(),
            KafkaInput(TOPIC),
        )


def test_snapshots_need_a_folder_that_can_be_written(windowed: str, tmp_path: Path) -> None:
    def settings(*more: str) -> WindowSettings:
        parsed = given(windowed, "score", "--window_snapshots", *more)
        return window_settings(parsed, load_use_case(windowed).preprocessor(), KafkaInput(TOPIC))

    folder = tmp_path / "snapshots"
    assert settings(str(folder), "--window_snapshot_seconds", "60") == WindowSettings(
        snapshots=str(folder), snapshot_s=60.0
    )
    assert folder.is_dir()
    with pytest.raises(UserError, match="--window_snapshot_seconds 0: expected more than 0"):
        settings(str(folder), "--window_snapshot_seconds", "0")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--window_snapshots .*file: can't be written"):
        settings(str(tmp_path / "file"))
    with pytest.raises(UserError, match="workers of Dataflow do not see the files of this machine"):
        settings(
            str(folder), "--runner", "DataflowRunner", "--project", "p", "--region", "r", "--temp_location", "gs://b/t"
        )


def test_an_archive_of_features_takes_windows(windowed: str) -> None:
    with pytest.raises(UserError, match=r"127\.0\.0\.1:1"):  # the broker that is not there
        archive_job(given(windowed, "archive", "--output", "archive"))


def test_pubsub_is_refused_before_anything_is_read(windowed: str) -> None:
    read = ["--preflight", "off", "--input", "pubsub://project-a/events"]
    said = r"and Pub/Sub has none .*; bring the events to a Kafka topic, their key car_id$"
    with pytest.raises(UserError, match=said):
        archive_job(given(windowed, "archive", "--output", "archive", *read))
    with pytest.raises(UserError, match=r"reads topics of Kafka and files: .*; archive some .highbeam archive --raw"):
        preview.main(["--use_case", windowed, *read[2:]])
