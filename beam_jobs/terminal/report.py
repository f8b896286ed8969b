"""What a job tells the person who started it: a line a second while it runs, one summary at its end.

All of it is made from the declared metrics; what is worked out from several of them is named here.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.table import Table

from beam_jobs import metrics
from beam_jobs.errors import UserError
from beam_jobs.metrics import Counted
from beam_jobs.terminal.cli import EXIT_FAILED, say

_YEAR_1_MS, _YEAR_10000_MS = -62_135_596_800_000, 253_402_300_800_000  # what datetime can say

_FIRST_LEFT_OUT = 1000  # of the parts of a status line that is too long

Row = tuple[str, str]


def conclude(live: bool, path: str | None, keeps_position: bool, archive: bool = False, input_files: int = 0) -> int:
    """Prints the summary of a scoring or archiving job and writes it to ``path``, where one is given.

    Args:
      live: whether latencies mean something; in a replay they are the age of the records.
      keeps_position: what it has read is committed to a group.
      archive: it writes an archive.
      input_files: how many files it reads, where its input is an archive.

    Returns:
      The exit status: EXIT_FAILED where something finished is not committed.
    """
    job, counted = "archive" if archive else "score", metrics.STATE.snapshot()
    read = counted[metrics.RECORDS_READ]
    outcomes = [metric for metric in metrics.declared() if metric.outcome]
    finished = sum(counted[metric] for metric in outcomes)
    unaccounted = read - finished - counted.held.waiting
    uncommitted = _uncommitted(counted, finished) if keeps_position else None
    files_not_read = input_files - counted[metrics.FILES_READ] if input_files else 0
    seconds, reading_seconds = _seconds(), round(counted.active_s, 3)
    rate = read / reading_seconds if reading_seconds else 0.0
    latency = _quantiles(counted) if live else dict.fromkeys(_quantiles(counted))

    rows = list(_rows(job, counted))
    if uncommitted is not None:
        rows.append(("finished but not committed", f"{uncommitted:,}"))
    if counted.held.bytes:
        shown = f"{counted.held.rows:,} of {counted.held.keys:,} keys, {counted.held.bytes / 1e6:,.0f} MB"
        rows.append(("rows held for windows", shown))
    if counted.held.waiting:
        rows.append(("waiting for other partitions, for the next run", f"{counted.held.waiting:,}"))
    rows.append(("rate", f"{rate:,.0f} records/s"))
    if latency["p50"] is not None and latency["p99"] is not None:
        shown = f"{latency['p50']:,.0f} / {latency['p99']:,.0f} ms"
        rows.append(("latency of a block's slowest record, p50 / p99", shown))
    elif live and counted.values(metrics.BACKLOG_AGE_MS).any():
        rows.append(("latency", "none: all records were there before the job"))
    console = _print("Summary", [*rows, ("time", f"{seconds:,.1f} s")])
    if files_not_read:
        console.print(f"[bold]ended before {files_not_read:,} files of the input were read[/bold] to their end")
    if uncommitted:
        console.print(_read_again(uncommitted))
    if unaccounted:
        console.print(
            f"[bold]{unaccounted:,} records are not accounted for[/bold]: they were read but the job ended "
            "before their bundle was done; their offsets are not committed and the next run reads them again"
        )
    elif uncommitted is None and metrics.STATE.failed:  # nothing says which of them the outputs have acknowledged
        console.print(
            "[bold]the job ended before all it has counted was written[/bold]: which records are on the outputs is not "
            "known; started again it reads all of them, and what then comes twice has the same id"
        )
    elif not uncommitted:
        became = [
            metric.outcome for metric in outcomes if metric.row_of(job) and (counted[metric] or not metric.optional)
        ]
        became += ["waiting"] if counted.held.waiting else []
        console.print(f"read = {' + '.join(became)}: every record is accounted for")
    if path:
        figures = {metric.report: counted[metric] for metric in metrics.declared() if metric.report}
        by_value = {metric.report_by: counted.by_value(metric) for metric in metrics.declared() if metric.report_by}
        derived = {
            "uncommitted": uncommitted,
            "files_not_read": files_not_read,
            "seconds": seconds,
            "reading_seconds": reading_seconds,
            "latency_ms": latency,
            "unaccounted": unaccounted,
            "failed": metrics.STATE.failed,
            "windows_held": counted.held._asdict(),
            "events_per_second": round(rate, 1),
        }
        _write(path, figures | by_value | derived)
    return EXIT_FAILED if uncommitted else 0


def conclude_redrive(dry_run: bool, keeps_position: bool, nothing_read: str) -> int:
    """Prints what happened to the dead letters; returns the exit status, as :func:`conclude`.

    Args:
      nothing_read: what to say where there were none.
    """
    counted = metrics.STATE.snapshot()
    rows = list(_rows("redrive", counted, put_back="would be put back" if dry_run else "put back"))
    uncommitted = _uncommitted(counted, counted[metrics.RECORDS_READ]) if keeps_position else 0
    if uncommitted:
        rows.append(("finished but not committed", f"{uncommitted:,}"))
    title = "Dry run: nothing was written" if dry_run else "Redrive"
    console = _print(title, [*rows, ("time", f"{_seconds():,.1f} s")])
    if uncommitted:
        console.print(_read_again(uncommitted))
    if not counted[metrics.RECORDS_READ]:
        say(nothing_read)
    if counted[metrics.RECORDS_FILTERED] and not dry_run:
        say("what was left with another reason is read again with another --group_id")
    return EXIT_FAILED if uncommitted else 0


def conclude_replay(path: str | None, wanted: int) -> int:
    """Prints how far a replay came and writes it to ``path``, where one is given.

    Args:
      wanted: rows the archive has between --from and --until.
    """
    counted = metrics.STATE.snapshot()
    written, too_large = counted[metrics.RECORDS_WRITTEN], counted[metrics.TOO_LARGE]
    reached, seconds = time_text(counted.reached_ms), _seconds()
    rate = round(written / counted.active_s, 1) if counted.active_s else 0.0
    rows = [
        ("records in the archive, of that time", f"{wanted:,}"),
        *_rows("replay", counted),
        ("event time reached", reached or "none"),
        ("rate", f"{rate:,.0f} records/s"),
        ("time", f"{seconds:,.1f} s"),
    ]
    console = _print("Replay", rows)
    if too_large:
        console.print(
            f"[bold]{too_large:,} records are larger than the topic takes[/bold] and stay in the archive alone"
        )
    if written == wanted:
        console.print("the whole of it is on the topic")
    elif written + too_large < wanted:
        console.print(
            f"[bold]up to {wanted - written - too_large:,} records are not on the topic yet[/bold]: started again it "
            "begins anew, and what then comes twice has the same highbeam.origin"
        )
    if path:
        summary = {
            "wanted": wanted,
            "written": written,
            "complete": written == wanted,
            "reached": reached,
            "seconds": seconds,
            "records_per_second": rate,
        }
        _write(path, summary)
    return 0


def _rows(job: str, counted: Counted, **words: str) -> Iterator[Row]:
    """A row for each metric that the summary of ``job`` shows; ``words`` fill its labels."""
    all_counts = {metric.name: counted[metric] for metric in metrics.declared()}
    for metric in metrics.declared():
        label, n = metric.row_of(job), counted[metric]
        if not label or (metric.optional and not n):
            continue
        yield label.format_map({**all_counts, **words}), f"{n:,}"
        if metric.rows_by:
            for value, of_it in counted.by_value(metric).items():
                yield f"  {value}", f"{of_it:,}"


def _print(title: str, rows: Iterable[Row]) -> Console:
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    for row in rows:
        table.add_row(*row)
    console = Console(soft_wrap=True)
    console.print(table)
    return console


def _write(path: str, summary: dict[str, Any]) -> None:
    Path(path).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def _seconds() -> float:
    """Since the start of the pipeline."""
    return round(time.time() - metrics.STATE.started, 3)


def _quantiles(counted: Counted) -> dict[str, float | None]:
    histogram = counted.values(metrics.LATENCY_MS)
    return {f"p{100 * q:g}": metrics.quantile(histogram, q) for q in (0.5, 0.99, 0.999)}


def _uncommitted(counted: Counted, finished: int) -> int:
    """How many of the finished records a restart reads again."""
    return max(0, finished - counted[metrics.RECORDS_COMMITTED])


def _read_again(records: int) -> str:
    return (
        f"[bold]{records:,} records are finished, but their offsets are not committed[/bold]: a restart reads them "
        "again, and what then comes twice has the same id"
    )


def time_text(millis: int | None) -> str | None:
    """A time in milliseconds since the epoch as 2026-11-22T07:00:00.000Z; beyond the years 1 to 9999 their number."""
    if millis is None:
        return None
    if not _YEAR_1_MS <= millis < _YEAR_10000_MS:
        return f"{millis} ms"
    return datetime.fromtimestamp(millis / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def check_writable(path: str) -> None:
    """Tries to open the report's file, so that a job need not run first to find that it cannot be written.

    Raises:
      UserError: it cannot.
    """
    file = Path(path)
    try:
        new = not file.exists()
        file.open("a", encoding="utf-8").close()
        if new:
            file.unlink()  # a job that is stopped early leaves no empty report
    except OSError as error:
        raise UserError(f"--report {path}: {error.strerror}; name a file in a folder you may write to") from error


class Progress:
    """Prints the state once a second on stderr until it is left; use as a context manager.

    Args:
      how: "line" (one line, overwritten), "json" (one object a line), "none", or "auto": "line" on a terminal.
      job: "score"; the line shows what its summary does.
    """

    def __init__(self, how: str, job: str) -> None:
        self._how = ("line" if sys.stderr.isatty() else "none") if how == "auto" else how
        self._job = job
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> Progress:
        if self._how != "none":
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
            if self._how == "line" and sys.stderr.isatty():
                print(file=sys.stderr)

    def _run(self) -> None:
        before, then = metrics.STATE.snapshot(), time.monotonic()
        while not self._stop.wait(1.0):
            counted, now = metrics.STATE.snapshot(), time.monotonic()
            rate = round((counted[metrics.RECORDS_READ] - before[metrics.RECORDS_READ]) / (now - then))
            latest, old = (
                counted.values(metric) - before.values(metric)
                for metric in (metrics.LATENCY_MS, metrics.BACKLOG_AGE_MS)
            )
            p50, p99 = metrics.quantile(latest, 0.5), metrics.quantile(latest, 0.99)
            catching_up = bool(counted.behind or (old.any() and not latest.any()))
            before, then = counted, now
            if self._how == "json":
                state = {
                    "seconds": round(time.time() - metrics.STATE.started, 1),
                    **{metric.progress: counted[metric] for metric in metrics.declared() if metric.progress},
                    "reached": time_text(counted.reached_ms),  # by a replay
                    "events_per_second": rate,
                    "catching_up": catching_up,
                    "behind": counted.behind,
                    "rebuilding": counted.rebuilding._asdict() if counted.rebuilding.wanted else None,
                    "latency_ms_p50": p50,
                    "latency_ms_p99": p99,
                }
                print(json.dumps(state), file=sys.stderr, flush=True)
            elif sys.stderr.isatty():
                columns = os.get_terminal_size(sys.stderr.fileno()).columns  # 0: nobody knows
                # One stays free: a terminal wraps what fills its last one.
                line = status_line(self._job, counted, rate, p99, catching_up, columns - 1 if columns else None)
                print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
            else:
                print(status_line(self._job, counted, rate, p99, catching_up), file=sys.stderr, flush=True)


def status_line(
    job: str, counted: Counted, rate: int, p99: float | None, catching_up: bool = False, width: int | None = None
) -> str:
    """The state of a job in a line.

    Args:
      rate: records read a second.
      p99: of the latency, milliseconds; None: nothing was output.
      catching_up: what is read was there before the job.
      width: characters it may have; what matters least is left out for it. None: no matter how many.
    """
    if counted.reached_ms is not None:
        replayed = f"replayed {counted[metrics.RECORDS_WRITTEN]:,} ({rate:,}/s)"
        return _fit([(0, replayed), (1, f"at {time_text(counted.reached_ms)}")], width)
    shown = [metric for metric in metrics.declared() if metric.line and metric.row_of(job)]
    parts = [
        (
            _FIRST_LEFT_OUT if metric == metrics.RECORDS_FILTERED else metric.line,
            f"{metric.progress.replace('_', ' ')} {counted[metric]:,}",
        )
        for metric in sorted(shown, key=lambda m: m.line)
    ]
    parts[:1] = [(matters, f"{part} ({rate:,}/s)") for matters, part in parts[:1]]
    if counted.rebuilding.wanted:
        parts.append((0, str(counted.rebuilding)))
    elif catching_up:
        parts.append((2, f"catching up, {counted.behind:,} records behind" if counted.behind else "catching up"))
    elif p99 is not None:
        parts.append((_FIRST_LEFT_OUT - 1, f"latency p99 {p99:,.0f} ms"))
    return _fit(parts, width)


def _fit(parts: Sequence[tuple[int, str]], width: int | None) -> str:
    """The texts of ``parts`` in a line; those with the largest numbers are left out where it would be too long."""
    kept = list(parts)
    while width is not None and len(kept) > 1 and len("  ".join(text for _, text in kept)) > width:
        kept.remove(max(kept, key=lambda part: part[0]))
    return "  ".join(text for _, text in kept)[:width]
