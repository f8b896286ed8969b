"""What replay refuses before a broker is asked, and what it says of an archive."""

from __future__ import annotations

from pathlib import Path

import pytest

from beam_jobs.errors import UserError
from beam_jobs.preflight.replay import parse_speed, replay_job
from beam_jobs.terminal import options
from beam_jobs.terminal.commands import JOBS


def refused(*words: str, workers: int = 1) -> str:
    given = ["--use_case", "car_sensors", "--output", "kafka://127.0.0.1:1/again", *words]
    with pytest.raises(UserError) as error:
        replay_job(options.parse(JOBS["replay"].parser(), given), workers)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "speed"), [(None, None), ("1x", 1.0), ("10x", 10.0), ("0.5x", 0.5), (" 2X ", 2.0), ("100x", 100.0)]
)
def test_a_speed_is_a_factor(text: str | None, speed: float | None) -> None:
    assert parse_speed(text) == speed


@pytest.mark.parametrize("text", ["10", "x", "0x", "0.0x", "-1x", "1e3x", "fast", "10 x", "1.x"])
def test_what_is_no_speed(text: str) -> None:
    with pytest.raises(UserError, match=r"expected a factor like 1x, 10x or 0\.5x; leave it out for full speed"):
        parse_speed(text)


def test_what_is_refused(tmp_path: Path) -> None:
    assert "missing --input; --help explains it" in refused()
    topic = "kafka://127.0.0.1:1/events"
    assert f"--input {topic}: expected an archive, gs://bucket/folder" in refused("--input", topic)
    assert "--direct_num_workers=2: one process keeps the order" in refused("--input", str(tmp_path), workers=2)
    assert "--speed 3: expected a factor" in refused("--input", str(tmp_path), "--speed", "3")
    assert "an archive is cut by event time" in refused("--input", str(tmp_path), "--from", "0:100")
    assert str(tmp_path) in refused("--input", str(tmp_path))  # nothing is there
