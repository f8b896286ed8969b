"""The accounts of the chaos campaign find what they are there to find."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import fastavro
import pyarrow as pa
import pytest

import schemas
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.codec.schema import arrow_schema
from chaos.__main__ import _parse, _summary, main
from chaos.campaign import Outcome, _conclude
from chaos.events import archived, scored
from chaos.job import ACCOUNTED, Job
from chaos.ledger import Ledger, digest
from chaos.outputs import Entries, LocalArchive, of_kafka
from chaos.scenarios import SCENARIOS
from chaos.stage import Stage

POSITIONS = [("events", 0, offset) for offset in range(5)]


def ledger(exactly_once: bool = False) -> Ledger:
    """Five records were produced, and have come out once."""
    made = Ledger("archive row", exactly_once)
    for position in POSITIONS:
        made.expect(position, digest(position))
        made.found(position, digest(position), str(position))
    return made


def test_what_came_out_as_produced_is_sound() -> None:
    verdict = ledger(exactly_once=True).verdict()
    assert verdict.sound
    assert (verdict.produced, verdict.out, verdict.repeated) == (5, 5, 0)


def test_a_lost_record_shows() -> None:
    made = ledger()
    made.expect(("events", 0, 5), digest(b"the sixth"))
    assert made.missing == 1
    assert made.verdict().lost == (("events", 0, 5),)
    assert not made.verdict().sound


def test_a_doubled_record_is_repeated_or_wrong() -> None:
    for exactly_once in (False, True):
        made = ledger(exactly_once)
        made.found(POSITIONS[2], digest(POSITIONS[2]), str(POSITIONS[2]))
        assert made.verdict().repeated == 1
        assert made.verdict().sound is not exactly_once


@pytest.mark.parametrize(
    ("position", "content"),
    [
        (POSITIONS[2], digest(b"something else")),  # changed
        (("events", 1, 2), digest(POSITIONS[2])),  # under another's position
        (("events", 0, 9), digest(b"never produced")),
    ],
)
def test_a_changed_record_is_wrong(position: tuple[str, int, int], content: str) -> None:
    made = ledger()
    made.found(position, content, "x")
    assert len(made.verdict().wrong) == 1
    assert not made.verdict().sound


def test_a_changed_record_is_lost_as_well() -> None:
    made = Ledger("score score")
    made.expect(POSITIONS[0], digest(b"right"))
    made.found(POSITIONS[0], digest(b"wrong"), "x")
    verdict = made.verdict()
    assert len(verdict.lost) == len(verdict.wrong) == 1


def test_a_record_under_two_ids_is_wrong() -> None:
    made = ledger()
    made.found(POSITIONS[2], digest(POSITIONS[2]), "another id")
    assert made.verdict().wrong == (f"{POSITIONS[2]} came out under 2 ids",)


def test_only_what_was_deleted_with_its_topic_may_be_missing() -> None:
    made = ledger()
    made.expect(("events", 0, 5), digest(b"deleted"))
    made.pardon()
    made.expect(("events", 0, 0), digest(b"of the topic made anew"))
    verdict = made.verdict()
    assert verdict.lost == (("events", 0, 0),)
    assert verdict.produced == 6
    made.found(("events", 0, 5), digest(b"deleted"), "x")  # it was read before
    assert made.verdict().produced == 7
    assert not made.verdict().wrong


def test_output_before_the_producer_was_told_counts() -> None:
    made = Ledger("score score")
    made.found(POSITIONS[0], digest(b"value"), "x")
    assert made.verdict().wrong  # nobody produced it, as far as is known
    made.expect(POSITIONS[0], digest(b"value"))
    assert made.missing == 0
    assert made.verdict().sound


SCORE: dict[str, Any] = {
    "key": "car-1",
    "event_time": datetime(2026, 11, 22, 7, tzinfo=UTC),
    "score": 1.5,
    "threshold": 9.0,
    "is_anomaly": False,
    "model": "car_sensors",
    "version": "1",
    "source_topic": "events",
    "source_partition": 0,
    "source_offset": 3,
}


@pytest.mark.parametrize(
    ("changed", "sound"),
    [({}, True), ({"score": 1.5000001}, False), ({"key": "car-2"}, False), ({"source_offset": 4}, False)],
)
def test_scores_count_by_position_and_content(changed: dict[str, Any], sound: bool) -> None:
    made = Ledger("score score")
    made.expect(("events", 0, 3), scored(SCORE))
    schema = schemas.load("score")
    rows = pa.RecordBatch.from_pylist([SCORE | changed], schema=arrow_schema(schema))
    (value,) = AvroEncoder(schema, 1).encode(rows).to_pylist()
    Entries(of_kafka, {"score": made}).enter("score", value)
    assert made.verdict().sound is sound


def write(path: Path, offsets: list[int]) -> None:
    fields = [{"name": "source_topic", "type": "string"}, {"name": "source_partition", "type": "int"}]
    fields += [{"name": "source_offset", "type": "long"}, {"name": "speed", "type": "double"}]
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"source_topic": "events", "source_partition": 0, "source_offset": o, "speed": o * 1.0} for o in offsets]
    with path.open("wb") as file:
        fastavro.writer(file, {"type": "record", "name": "Row", "fields": fields}, rows)


@pytest.fixture
def archive(tmp_path: Path) -> tuple[LocalArchive, Ledger]:
    rows = Ledger("archive row", exactly_once=True)
    for offset in range(4):
        rows.expect(("events", 0, offset), archived({"speed": offset * 1.0}))
    write(tmp_path / "hour=07" / "a.avro", [0, 1])
    write(tmp_path / "hour=08" / "b.avro", [2, 3])
    write(tmp_path / "_archive" / "c.avro", [0])  # readers pass over it
    return LocalArchive(Entries(of_kafka, {"row": rows}), tmp_path), rows


def test_an_archive_counts_by_its_files(archive: tuple[LocalArchive, Ledger], tmp_path: Path) -> None:
    files, rows = archive
    files.look()
    assert rows.verdict().sound
    files.look_again()
    assert rows.verdict().sound
    write(tmp_path / "hour=08" / "d.avro", [3])
    files.look_again()
    assert rows.verdict().wrong == ("('events', 0, 3) came out 2 times",)


def test_a_file_that_was_there_and_is_gone_is_lost(archive: tuple[LocalArchive, Ledger], tmp_path: Path) -> None:
    files, rows = archive
    files.look()
    (tmp_path / "hour=08" / "b.avro").unlink()
    files.look_again()
    assert rows.verdict().lost == (("events", 0, 2), ("events", 0, 3))


class Finished(Stage):
    """A stage whose job ends in good order at Ctrl-C and then says that all is well."""

    def __init__(self, tmp_path: Path, ledgers: list[Ledger], left: int) -> None:
        code = (
            f"import signal, sys, time\nsignal.signal(2, lambda *_: (print({ACCOUNTED!r}), sys.exit(0)))\n"
            "print('{\"read\": 3}', flush=True)\nwhile True: signal.pause()"
        )
        self.ledgers, self._left = ledgers, left
        self.job = Job("archive", [sys.executable, "-c", code], tmp_path)
        self.job.start()
        while not self.job.run.reads():
            pass

    def uncommitted(self, job: Job) -> int:
        return self._left


@pytest.mark.parametrize(("lost", "left"), [(False, 0), (True, 0), (False, 7)])
def test_a_job_that_says_all_is_well_is_held_to_it(tmp_path: Path, lost: bool, left: int) -> None:
    made = ledger()
    if lost:
        made.expect(("events", 0, 5), digest(b"the sixth"))
    stage = Finished(tmp_path, [made], left)
    said = stage._end(stage.job)
    assert len(said) == (1 if lost or left else 0)
    outcome = Outcome("x")
    _conclude(outcome, [made.verdict()], said)
    assert outcome.sound is not (lost or bool(left))


@pytest.mark.parametrize("what", ["lost", "wrong", None])
def test_the_last_line_and_the_report_say_it(
    what: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = _parse(["--report", str(tmp_path / "report.json"), "--seed", "3"])
    outcomes = [Outcome("job-killed", faults=4, produced=10, out=10), Outcome("prism", skipped="no Go")]
    if what:
        setattr(outcomes[0], what, 2)
    sound = _summary(outcomes, SCENARIOS[:1], args)
    assert sound is (what is None)
    lost, wrong = (2 if what == name else 0 for name in ("lost", "wrong"))
    assert capsys.readouterr().out.splitlines()[-1] == f"lost {lost}, wrong {wrong} in 4 faults"
    assert json.loads((tmp_path / "report.json").read_text())["lost"] == lost


def test_a_seed_gives_one_schedule(capsys: pytest.CaptureFixture[str]) -> None:
    for scenario in SCENARIOS:
        assert scenario.plan(Random(5)) == scenario.plan(Random(5))
        assert scenario.plan(Random(5)) != scenario.plan(Random(6))
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [s.name for s in SCENARIOS]
