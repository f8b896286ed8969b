"""Faults do what they say, or the campaign fails: one that met nothing shows nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos import faults
from chaos.job import Job
from chaos.stage import Stage

WRITES = """
import itertools, pathlib, sys, time
print('{{"read": 1}}', flush=True)
for n in itertools.count():
    time.sleep(0.02)
    try:
        pathlib.Path({folder!r}, f"{{n}}.avro").write_text("")
    except OSError as error:
        {otherwise}
"""


class Writing(Stage):
    """A stage whose job writes to an archive, over and over."""

    def __init__(self, tmp_path: Path, otherwise: str) -> None:
        self.folder, self.outputs, self._looked, self.progress = tmp_path, [], 0.0, lambda: None
        self.told: list[str] = []
        self.tell = self.told.append
        archive = tmp_path / "archive"
        archive.mkdir()
        code = WRITES.format(folder=str(archive), otherwise=otherwise)
        self.jobs = [Job("archive", [sys.executable, "-c", code], tmp_path)]
        self.jobs[0].start()
        while not list(archive.iterdir()):
            pass

    def until_reading(self, job: Job) -> None:
        while not job.run.reads():
            pass


@pytest.fixture
def stage(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Writing]:
    made = Writing(tmp_path, request.param)
    yield made
    made.jobs[0].close()


@pytest.mark.parametrize("stage", ["sys.exit(str(error))"], indirect=True)
def test_an_archive_that_is_away_fails_a_bundle_and_is_back(stage: Writing) -> None:
    faults.archive_away(stage, 0.5)
    assert len(stage.jobs[0].runs) == 2
    assert any("a bundle failed" in line for line in stage.told)
    before = len(list((stage.folder / "archive").iterdir()))
    assert before > 0
    while len(list((stage.folder / "archive").iterdir())) == before:
        assert stage.jobs[0].run.running


@pytest.mark.parametrize("stage", ["pass"], indirect=True)
def test_a_job_that_does_not_notice_is_no_success(stage: Writing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "_within", lambda *_: False)
    with pytest.raises(RuntimeError, match="goes on without its archive"):
        faults.archive_away(stage, 0.5)
    assert (stage.folder / "archive").is_dir()
