"""The closing summaries, the JSON report and the status line, of jobs that counted what they might."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import termios
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs import metrics
from beam_jobs.errors import UserError
from beam_jobs.metrics import Metric
from beam_jobs.terminal import report
from beam_jobs.terminal.cli import EXIT_FAILED, say

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "STATE", metrics.JobState())


def count(counts: list[tuple[Metric, int]], **reasons: int) -> None:
    for metric, n in counts:
        metrics.inc(metric, n)
    for reason, n in reasons.items():
        metrics.inc(metrics.DEAD_LETTERS, n, reason)


def rows(printed: str) -> list[tuple[str, str]]:
    """The rows of the table, and what stands below it with "" for a label."""
    found = []
    for line in printed.splitlines()[1:]:
        cells = re.split(r"[│|]", line)
        if len(cells) == 4:
            found.append((cells[1][1:].rstrip(), cells[2].strip()))
        elif not set(line) <= set("┌─┬┐└┴┘╭╮╰╯"):
            found.append(("", line))
    return [row for row in found if row[0] not in ("time", "rate")]


def scored() -> None:
    count(
        [
            (metrics.RECORDS_READ, 1_000_000),
            (metrics.RECORDS_SCORED, 999_000),
            (metrics.RECORDS_FILTERED, 900),
            (metrics.DEAD_LETTERS, 100),
            (metrics.ALERTS, 7),
        ],
        truncated=60,
        null_value=40,
    )


SCORED = [
    ("read", "1,000,000"),
    ("scored", "999,000"),
    ("filtered", "900"),
    ("dead letters", "100"),
    ("  truncated", "60"),
    ("  null_value", "40"),
    ("alerts (of the scored)", "7"),
]
ALL_THERE = ("", "read = scored + filtered + dead letters: every record is accounted for")


def test_a_scoring_job(tmp_path: Path, capsys: Capture) -> None:
    scored()
    metrics.observe(metrics.LATENCY_MS, np.array([10.0, 20.0]))
    assert report.conclude(True, str(tmp_path / "report.json"), keeps_position=False) == 0
    *table, latency, last = rows(capsys.readouterr().out)
    assert [*table, last] == [*SCORED, ALL_THERE]
    assert latency[0] == "latency of a block's slowest record, p50 / p99"
    found = json.loads((tmp_path / "report.json").read_text())
    figures = {
        "read": 1_000_000,
        "scored": 999_000,
        "filtered": 900,
        "alerts": 7,
        "dead_letters": 100,
        "repartitioned": 0,
        "repartition_marks": 0,
        "labels": 0,
        "labels_late": 0,
        "tombstones": 0,
        "without_payload": 0,
        "archived": 0,
        "already_archived": 0,
        "files": 0,
        "uncommitted": None,
        "not_in_lookup": 0,
        "reread": 0,
        "short_histories": 0,
        "window_late": 0,
        "window_alone": 0,
        "window_future": 0,
        "windows_held": {"rows": 0, "keys": 0, "bytes": 0, "waiting": 0},
        "files_not_read": 0,
        "reasons": {"truncated": 60, "null_value": 40},
        "unaccounted": 0,
        "failed": False,
    }
    steps = {metric.report for metric in metrics.declared() if metric.report.startswith("alerts_")}  # if they are there
    found = {name: value for name, value in found.items() if name not in steps}
    assert found == figures | {
        name: found[name] for name in ("seconds", "reading_seconds", "latency_ms", "events_per_second")
    }
    assert {name: round(value) for name, value in found["latency_ms"].items()} == {"p50": 10, "p99": 21, "p99.9": 21}


def test_tombstones_are_accounted_for(capsys: Capture) -> None:
    scored()
    metrics.inc(metrics.RECORDS_READ, 5)
    metrics.inc(metrics.TOMBSTONES, 5)
    report.conclude(True, None, keeps_position=False)
    table = rows(capsys.readouterr().out)
    assert ("tombstones", "5") in table
    assert ("", "read = scored + filtered + tombstones + dead letters: every record is accounted for") in table


def test_a_bounded_job_has_no_latency(tmp_path: Path, capsys: Capture) -> None:
    scored()
    metrics.observe(metrics.LATENCY_MS, np.array([10.0, 20.0]))
    report.conclude(False, str(tmp_path / "report.json"), keeps_position=False)
    assert "latency" not in capsys.readouterr().out
    latency = json.loads((tmp_path / "report.json").read_text())["latency_ms"]
    assert latency == {"p50": None, "p99": None, "p99.9": None}


@pytest.mark.parametrize(("committed", "left"), [(999_990, 10), (1_000_000, 0), (2_000_000, 0)])
def test_what_is_not_committed_is_said_and_fails(committed: int, left: int, capsys: Capture) -> None:
    scored()
    metrics.inc(metrics.RECORDS_COMMITTED, committed)
    assert report.conclude(True, None, keeps_position=True) == (EXIT_FAILED if left else 0)
    *table, last = rows(capsys.readouterr().out)
    assert table == [*SCORED, ("finished but not committed", str(left))]
    if left:
        assert last[1].startswith("10 records are finished, but their offsets are not committed: a restart reads them")
    else:
        assert last == ALL_THERE


def test_what_is_not_accounted_for_is_said(capsys: Capture) -> None:
    scored()
    metrics.inc(metrics.RECORDS_READ, 5)
    report.conclude(True, None, keeps_position=False)
    out = capsys.readouterr().out
    assert "5 records are not accounted for: they were read but the job ended before their bundle was done" in out
    assert "every record" not in out


def test_an_archiving_job(capsys: Capture) -> None:
    count(
        [
            (metrics.RECORDS_READ, 20),
            (metrics.ARCHIVED, 12),
            (metrics.ARCHIVED_FILES, 1234),
            (metrics.ALREADY_ARCHIVED, 3),
            (metrics.NOT_IN_LOOKUP, 2),
            (metrics.RECORDS_FILTERED, 1),
            (metrics.DEAD_LETTERS, 4),
            (metrics.WITHOUT_PAYLOAD, 1),
        ],
        truncated=4,
    )
    assert report.conclude(True, None, keeps_position=False, archive=True, input_files=2) == 0
    assert rows(capsys.readouterr().out) == [
        ("read", "20"),
        ("archived, in 1,234 files", "12"),
        ("in the archive before", "3"),
        ("key not in the lookup table", "2"),
        ("filtered", "1"),
        ("dead letters", "4"),
        ("  truncated", "4"),
        ("of these without the record, too large for their topic", "1"),
        ("", "ended before 2 files of the input were read to their end"),
        ("", "read = archived + in the archive before + filtered + dead letters: every record is accounted for"),
    ]


@pytest.mark.parametrize(("dry_run", "title"), [(False, "Redrive"), (True, "Dry run: nothing was written")])
def test_a_redrive(dry_run: bool, title: str, capsys: Capture) -> None:
    count([(metrics.RECORDS_READ, 10), (metrics.REDRIVEN, 5), (metrics.RECORDS_FILTERED, 3), (metrics.UNREADABLE, 1)])
    metrics.inc(metrics.REDRIVEN, 5, "truncated")
    assert report.conclude_redrive(dry_run, False, "nothing") == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].strip() == title
    assert rows(out) == [
        ("dead letters read", "10"),
        ("would be put back" if dry_run else "put back", "5"),
        ("  truncated", "5"),
        ("left: another reason", "3"),
        ("left: not a dead letter", "1"),
    ]
    assert err == ("" if dry_run else "what was left with another reason is read again with another --group_id\n")


def test_a_redrive_that_left_something(capsys: Capture) -> None:
    count([(metrics.RECORDS_READ, 10), (metrics.WITHOUT_PAYLOAD, 2), (metrics.TOO_LARGE, 1)])
    assert report.conclude_redrive(False, True, "nothing") == EXIT_FAILED
    *_, without, too_large, uncommitted, text = rows(capsys.readouterr().out)
    assert without == ("left: without its record, too large or not kept", "2")
    assert too_large == ("not written: larger than the output takes", "1")
    assert uncommitted == ("finished but not committed", "10")
    assert text[1].startswith("10 records are finished")


@pytest.mark.parametrize(
    ("written", "too_large", "text"),
    [
        (10, 0, ["the whole of it is on the topic"]),
        (9, 1, ["1 records are larger than the topic takes and stay in the archive alone"]),
        (
            7,
            0,
            ["up to 3 records are not on the topic yet: started again it begins anew, and what then comes twice has"],
        ),
    ],
)
def test_a_replay(written: int, too_large: int, text: list[str], tmp_path: Path, capsys: Capture) -> None:
    count([(metrics.RECORDS_READ, 10), (metrics.RECORDS_WRITTEN, written), (metrics.TOO_LARGE, too_large)])
    metrics.STATE.reached(1_763_794_800_000)
    metrics.inc(metrics.RECORDS_WRITTEN, written, "events")
    assert report.conclude_replay(str(tmp_path / "report.json"), 10) == 0
    wanted, was_written, reached, *said = rows(capsys.readouterr().out)
    assert wanted == ("records in the archive, of that time", "10")
    assert was_written == ("written and acknowledged", str(written))
    assert reached == ("event time reached", "2025-11-22T07:00:00.000Z")
    assert [line.startswith(start) for (_, line), start in zip(said, text, strict=True)] == [True] * len(text)
    found = json.loads((tmp_path / "report.json").read_text())
    assert found == {
        "wanted": 10,
        "written": written,
        "complete": written == 10,
        "reached": "2025-11-22T07:00:00.000Z",
        "seconds": found["seconds"],
        "records_per_second": found["records_per_second"],
    }


def test_the_status_line_shows_what_the_job_does() -> None:
    scored()
    metrics.inc(metrics.ARCHIVED, 5)
    counted = metrics.STATE.snapshot()
    line = report.status_line("score", counted, 1200, 35.4)
    assert line == "read 1,000,000 (1,200/s)  alerts 7  filtered 900  dead letters 100  latency p99 35 ms"
    line = report.status_line("archive", counted, 0, None)
    assert line == "read 1,000,000 (0/s)  archived 5  filtered 900  dead letters 100"
    metrics.STATE.reached(0)
    line = report.status_line("replay", metrics.STATE.snapshot(), 8, None)
    assert line == "replayed 0 (8/s)  at 1970-01-01T00:00:00.000Z"


def progress(how: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is printed in the first second, which is over at once."""
    waits = iter([False, True])
    with report.Progress(how, "score") as shown:
        pass
    capsys.readouterr()
    shown = report.Progress(how, "score")
    monkeypatch.setattr(shown._stop, "wait", lambda seconds: next(waits))
    shown._run()
    return capsys.readouterr().err


def test_progress_in_json_and_as_a_line(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    scored()
    metrics.STATE.started = time.time() - 60
    state: dict[str, Any] = json.loads(progress("json", capsys, monkeypatch))
    assert state.pop("seconds") == pytest.approx(60, abs=5)
    counts = {"read": 1_000_000, "scored": 999_000, "archived": 0, "filtered": 900, "dead_letters": 100, "alerts": 7}
    others = {"written": 0, "readers": 0, "events_per_second": 0, "catching_up": False, "behind": 0}
    assert state == counts | others | dict.fromkeys(["reached", "rebuilding", "latency_ms_p50", "latency_ms_p99"])


def test_a_rebuild_is_in_the_line(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics.STATE.rebuilds("one", metrics.Rebuilding(3_600_000, wanted=3000, done=1000, seconds=5))
    metrics.STATE.rebuilds("other", metrics.Rebuilding(3_600_000, wanted=1000, done=1480, seconds=10))
    line = report.status_line("score", metrics.STATE.snapshot(), 0, None, catching_up=True, width=79)
    assert line == "read 0 (0/s)  alerts 0  rebuilding 1 h of features: 62 %, 6 s left"
    state = json.loads(progress("json", capsys, monkeypatch))["rebuilding"]
    assert state == {"reach_ms": 3_600_000, "wanted": 4000, "done": 2480, "seconds": 10}
    metrics.STATE.rebuilds("one", None)
    metrics.STATE.rebuilds("other", None)
    assert "rebuilding" not in report.status_line("score", metrics.STATE.snapshot(), 0, None)


def test_catching_up_is_no_latency(capsys: Capture) -> None:
    """What was there before the job is old when it is scored, however fast the job is."""
    scored()
    metrics.observe(metrics.BACKLOG_AGE_MS, np.array([3_600_000.0]))
    metrics.STATE.behind("reader 1", 12_000)
    metrics.STATE.behind("reader 2", 345)
    line = report.status_line("score", metrics.STATE.snapshot(), 1200, None, catching_up=True)
    assert line.endswith("dead letters 100  catching up, 12,345 records behind")
    report.conclude(True, None, keeps_position=False)
    assert ("latency", "none: all records were there before the job") in rows(capsys.readouterr().out)
    metrics.STATE.behind("reader 1", 0)
    metrics.STATE.behind("reader 2", 0)
    assert report.status_line("score", metrics.STATE.snapshot(), 1200, None, catching_up=True).endswith("  catching up")


@given(st.lists(st.integers(0, 10**13), min_size=6, max_size=6), st.integers(1, 200), st.booleans(), st.booleans())
def test_the_status_line_keeps_to_its_width(numbers: list[int], width: int, catching_up: bool, replay: bool) -> None:
    read, rate, alerts, filtered, bad, behind = numbers
    counts = {"records_read": read, "alerts": alerts, "archived": alerts, "records_filtered": filtered}
    counted = metrics.Counted(
        Counter({**counts, "dead_letters": bad}), reached_ms=behind if replay else None, behind=behind
    )
    for job in ("score", "archive"):
        line = report.status_line(job, counted, rate, 1e7, catching_up, width)
        assert len(line) <= width
        assert line.startswith(("replayed" if replay else "read")[:width])


def test_at_80_columns_what_matters_least_is_left_out() -> None:
    counts = {"records_read": 123_456_789, "alerts": 12_345, "records_filtered": 1_234_567, "dead_letters": 9_999}
    counted = metrics.Counted(Counter(counts), behind=87_654_321)
    line = report.status_line("score", counted, 654_321, 1234.0, width=79)
    assert line == "read 123,456,789 (654,321/s)  alerts 12,345  dead letters 9,999"
    line = report.status_line("score", counted, 654_321, None, catching_up=True, width=79)
    assert line == "read 123,456,789 (654,321/s)  catching up, 87,654,321 records behind"


def test_a_terminal_of_80_columns_has_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    count([(metrics.RECORDS_READ, 10**10), (metrics.RECORDS_FILTERED, 10**10), (metrics.ALERTS, 10**9)])
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with os.fdopen(its, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        shown, waits = report.Progress("auto", "score"), iter([False, False, True])
        monkeypatch.setattr(shown._stop, "wait", lambda seconds: next(waits))
        shown._run()
        say("stopping")
        written = ""
        while "stopping" not in written:  # a terminal gives what it has by now
            written += os.read(ours, 4096).decode()
    os.close(ours)
    first, second, last = written.rstrip().split("\r\033[K")[1:]
    assert first == second
    assert first.startswith("read 10,000,000,000 (0/s)  alerts 1,000,000,000")
    assert len(first) <= 79
    assert last == "stopping"


def test_without_a_terminal_each_state_is_a_plain_line(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    scored()
    said = progress("line", capsys, monkeypatch)
    assert said == "read 1,000,000 (0/s)  alerts 7  filtered 900  dead letters 100\n"


def test_no_progress_unless_somebody_looks(capsys: Capture) -> None:
    with report.Progress("auto", "score") as shown:
        assert not shown._thread.is_alive()
    assert capsys.readouterr().err == ""


def test_a_report_is_tried_before_the_job(tmp_path: Path) -> None:
    report.check_writable(str(tmp_path / "new.json"))
    assert not (tmp_path / "new.json").exists()
    (tmp_path / "old.json").write_text("{}")
    report.check_writable(str(tmp_path / "old.json"))
    assert (tmp_path / "old.json").read_text() == "{}"
    with pytest.raises(UserError, match=r"--report .*none/x.json: No such file or directory; name a file in a folder"):
        report.check_writable(str(tmp_path / "none" / "x.json"))


@pytest.mark.parametrize(
    ("millis", "text"),
    [(None, None), (0, "1970-01-01T00:00:00.000Z"), (253_402_300_800_000, "253402300800000 ms"), (-(10**17), "-1")],
)
def test_times_of_any_year(millis: int | None, text: str | None) -> None:
    assert (report.time_text(millis) or "").startswith(text or "")
