"""SQL with windows: jobs say in one line that they can't compute them yet, before they look at anything else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import use_cases
from beam_jobs.errors import UserError
from beam_jobs.preflight.archive import archive_job
from beam_jobs.preflight.score import score_job
from beam_jobs.terminal import options
from beam_jobs.terminal.commands import JOBS

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


@pytest.mark.parametrize(
    ("check", "job", "more", "remedy"),
    [
        (score_job, "score", ["--model", "m", "--alerts", "kafka://127.0.0.1:1/alerts"], "remove OVER"),
        (archive_job, "archive", ["--output", "archive"], "--raw"),
    ],
)
def test_a_job_refuses_windows(
    windowed: str, check: Callable[[Any], Any], job: str, more: list[str], remedy: str
) -> None:
    with pytest.raises(UserError, match=r"window features \(avg OVER ...\), which jobs can't compute yet") as caught:
        check(given(windowed, job, *more))
    assert remedy in str(caught.value)


def test_an_archive_of_events_does_not_mind(windowed: str) -> None:
    with pytest.raises(UserError, match=r"127\.0\.0\.1:1"):  # the broker that is not there
        archive_job(given(windowed, "archive", "--output", "archive", "--raw"))
