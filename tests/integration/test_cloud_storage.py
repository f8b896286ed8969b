"""Whole jobs on Cloud Storage: archive, registry, models; killed, and with storage away."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import pytest

from beam_jobs import archive as archive_job
from beam_jobs import score as score_job
from beam_jobs.storage import files
from beam_jobs.terminal import cli
from model import registry, train
from model.manifest import sha256
from model.training.data import LIST_FILE
from tests.integration.topics import Topics, events, framed, run
from tests.services.gcs import GcsEmulator
from tests.services.job import DEVNULL, PIPE, Job

pytestmark = pytest.mark.integration

Archive = Callable[..., list[str]]


@pytest.fixture
def archive(topics: Topics, tmp_path: Path) -> Archive:
    """The command that archives the topic of events."""

    def command(output: str, *more: str, until: str | None = "latest") -> list[str]:
        return [
            *(sys.executable, "-m", "beam_jobs.archive", "--use_case", "car_sensors"),
            *("--input", topics.uri("events"), "--from", "earliest", *(["--until", until] if until else [])),
            *("--output", output, "--dead_letters", topics.uri("dead"), "--report", str(tmp_path / "report.json")),
            *more,
        ]

    return command


def rows(root: str) -> list[dict[str, Any]]:
    """All rows of an archive, by their positions."""
    found: list[dict[str, Any]] = []
    for path in files.list_files(f"{root}/**.avro"):
        with files.open_file(path) as file:
            found += list(fastavro.reader(file))  # type: ignore[arg-type]
    return sorted(found, key=lambda row: (row["source_partition"], row["source_offset"]))


def report(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "report.json").read_text())
    return found


def test_archive_model_and_scores_are_the_same_in_a_bucket(
    topics: Topics,
    archive: Archive,
    trained_model: Path,
    bucket: str,
    gcs_emulator: GcsEmulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    topics.send("events", list(framed(events(10_000))))
    roots = {"local": str(tmp_path / "archive"), "gs": f"{bucket}/archive"}
    for root in roots.values():
        run(archive(root))
    assert len(rows(roots["gs"])) == 10_000
    assert rows(roots["gs"]) == rows(roots["local"])
    for path in trained_model.rglob("*"):
        if path.is_file() and path.name[0] != ".":
            files.upload(path, f"{bucket}/models/{path.relative_to(trained_model).as_posix()}")
    models = {"local": str(trained_model), "gs": f"{bucket}/models@champion"}
    found = []
    # As on a machine without Google: nothing but the option says how the bucket is to be read.
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setenv("API_ENDPOINT_OVERRIDE", gcs_emulator.url)
    for place in roots:
        command = [sys.executable, "-m", "beam_jobs.score", "--use_case", "car_sensors", "--model", models[place]]
        command += ["--input", roots[place], "--alerts", topics.uri(f"alerts-{place}"), "--create_topics"]
        command += ["--scores", topics.uri(f"scores-{place}"), "--dead_letters", topics.uri("dead")]
        run([*command, "--gcs_anonymous"])
        alerts, scores = topics.read(f"alerts-{place}", "alert"), topics.read(f"scores-{place}")
        found.append((sorted(alert["id"] for alert in alerts), sorted(score["value"] for score in scores)))
    assert found[0][0]
    assert found[0] == found[1]


def test_train_from_a_bucket_into_one_and_promote(
    trained_model: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root, history = f"{bucket}/models", f"{bucket}/history"
    files.upload(trained_model.parent / "history.parquet", f"{history}/history.parquet")
    command = ["--use_case", "car_sensors", "--registry", root, "--epochs", "2"]
    train.main([*command, "--data", history, "--no-baseline", "--limit", "6000"])
    found = registry.resolve(root)
    (file,) = json.loads(files.read_bytes(f"{found.folder}/{LIST_FILE}"))
    assert file["name"] == "history.parquet"
    assert file["sha256"] == sha256(trained_model.parent / "history.parquet")
    assert found.alias == "champion"
    assert f"{found.folder}/report/report.html" in capsys.readouterr().out
    assert files.list_files(f"{found.folder}/report/report.html")
    promote = [sys.executable, "-m", "model.registry", "promote", f"{root}@{found.version}", "--alias"]
    racing = [Job([*promote, name], stdout=DEVNULL) for name in ("challenger", "shadow")]
    assert [one.wait(120) for one in racing] == [0, 0]
    assert registry.aliases(f"{root}/car_sensors") == dict.fromkeys(["champion", "challenger", "shadow"], found.version)


@pytest.mark.nightly
def test_killed_and_resumed_every_record_is_in_one_row(topics: Topics, archive: Archive, bucket: str) -> None:
    """By day test_archive_restarts.py kills one that writes to a bucket, test_archive_job.py one of Kafka."""
    topics.send("events", list(framed(events(20_000))))
    root = f"{bucket}/archive"
    small = ["--max_file_age", "0.05", "--block_rows", "500", "--max_file_mb", "0.3"]
    for _ in range(2):
        before = len(files.list_files(f"{root}/**.avro"))
        job = Job(archive(root, *small), stdout=DEVNULL, stderr=DEVNULL)
        deadline = time.monotonic() + 60
        while len(files.list_files(f"{root}/**.avro")) <= before:
            assert time.monotonic() < deadline
            assert job.poll() is None
            time.sleep(0.02)
        job.send_signal(signal.SIGKILL)
        job.wait()
    assert 0 < len(rows(root)) < 20_000
    run(archive(root))
    positions = Counter((row["source_partition"], row["source_offset"]) for row in rows(root))
    assert set(positions.values()) == {1}
    assert len(positions) == 20_000
    assert files.list_files(f"{root}/**.part") == []


def test_storage_away_for_a_while(
    topics: Topics, archive: Archive, bucket: str, gcs_emulator: GcsEmulator, tmp_path: Path
) -> None:
    topics.send("events", list(framed(events(2000))))
    root, errors = f"{bucket}/archive", tmp_path / "errors"
    command = archive(root, "--max_file_age", "0.5", "--group_id", topics.name("group"), until=None)
    with errors.open("w") as out:
        job = Job(command, stdout=DEVNULL, stderr=out)

    def wait_until(what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 90
        while not what():
            assert time.monotonic() < deadline, errors.read_text()
            assert job.poll() is None, errors.read_text()
            time.sleep(0.05)

    try:
        wait_until(lambda: len(rows(root)) == 2000)
        gcs_emulator.stop()
        topics.send("events", list(framed(events(1000, seed=8))))
        wait_until(lambda: "; waiting" in errors.read_text())
        gcs_emulator.start()
        wait_until(lambda: len(rows(root)) == 3000)
    finally:
        job.send_signal(signal.SIGINT)
        job.wait(60)
        if gcs_emulator.away:
            gcs_emulator.start()
    assert job.returncode == 0, errors.read_text()
    assert errors.read_text().count("; waiting") == 1
    assert errors.read_text().count("storage is back after") == 1
    assert report(tmp_path)["unaccounted"] == 0
    assert len({(row["source_partition"], row["source_offset"]) for row in rows(root)}) == len(rows(root)) == 3000


@pytest.mark.parametrize(
    ("away_from", "status", "said"),
    [("writing", 0, "stopped before it had begun"), ('"read": 500', 2, "error: ended while storage was away")],
    ids=["taking the log", "running"],
)
def test_ctrl_c_ends_a_job_that_waits_for_storage(
    topics: Topics,
    archive: Archive,
    bucket: str,
    gcs_emulator: GcsEmulator,
    away_from: str,
    status: int,
    said: str,
) -> None:
    topics.send("events", list(framed(events(500))))
    command = archive(f"{bucket}/archive", "--max_file_age", "1", "--progress", "json", until=None)
    job = Job(command, stdout=DEVNULL, stderr=PIPE)
    assert job.stderr is not None
    try:
        for line in job.stderr:
            if away_from in line and not gcs_emulator.away:
                gcs_emulator.stop()
            if "; waiting" in line:
                job.send_signal(signal.SIGINT)
                break
        started = time.monotonic()
        _, rest = job.communicate(timeout=60)
    finally:
        job.kill()
        if gcs_emulator.away:
            gcs_emulator.start()
    assert job.returncode == status, rest
    assert said in [line for line in rest.splitlines() if not line.startswith("{")][-1]
    assert time.monotonic() - started < 30
    run(archive(f"{bucket}/archive"))
    assert len(rows(f"{bucket}/archive")) == 500


def test_a_disk_that_takes_no_more_is_one_line(topics: Topics, archive: Archive, tmp_path: Path) -> None:
    topics.send("events", list(framed(events(20_000))))
    command = archive(str(tmp_path / "archive"))
    limited = ["bash", "-c", 'ulimit -f 200; exec "$@"', "bash", *command]  # no file larger than 200 KiB
    done = subprocess.run(limited, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: {tmp_path / 'archive'}: can't be written (File too large); write smaller")
    run(command)
    assert len(rows(str(tmp_path / "archive"))) == 20_000


@pytest.mark.parametrize("flag", ["--output", "--model", "--input"])
def test_a_bucket_that_is_missing(
    topics: Topics, bucket: str, trained_model: Path, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"--use_case": "car_sensors", "--input": topics.uri("events"), "--dead_letters": topics.uri("dead")}
    main = archive_job.main
    if flag != "--output":
        main = score_job.main
        given |= {"--model": str(trained_model), "--alerts": topics.uri("alerts")}
    given |= {"--until": "latest", flag: f"{bucket}-none/folder"}
    with pytest.raises(SystemExit) as end:
        cli.run(main, [word for pair in given.items() for word in pair])
    assert end.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {bucket}-none: no such bucket; create it")
