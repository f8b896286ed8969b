"""What a job tells the person who started it: a line a second while it runs, one summary at its end."""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.table import Table

from beam_jobs import metrics
from beam_jobs.errors import UserError
from beam_jobs.terminal.cli import EXIT_FAILED, say

_YEAR_1_MS, _YEAR_10000_MS = -62_135_596_800_000, 253_402_300_800_000  # what datetime can say

_REASON_PREFIX = metrics.DEAD_LETTERS + "."


@dataclass(frozen=True)
class Summary:
    """What happened to every record; the counts of one process or of the runner's committed metrics."""

    read: int  # records handed out by the source
    scored: int
    filtered: int  # removed by the WHERE of the preprocessing
    alerts: int  # among the scored
    dead_letters: int
    without_payload: int = 0  # dead letters of records that are larger than the dead-letter topic takes
    archived: int = 0  # rows in files that count
    already_archived: int = 0  # the archive held their positions before
    files: int = 0  # that count
    uncommitted: int | None = None  # finished, but their offsets are not committed; None: the job keeps no position
    not_in_lookup: int = 0  # rows whose key the lookup table does not have
    files_not_read: int = 0  # of the input, where it is an archive and the job was ended
    reasons: dict[str, int] = field(default_factory=dict)  # dead letters by reason
    seconds: float = 0.0  # from the start of the pipeline
    reading_seconds: float = 0.0  # from the first record read to the last output acknowledged
    latency_ms: dict[str, float | None] = field(default_factory=dict)  # p50, p99, p99.9: slowest record of each block

    @property
    def unaccounted(self) -> int:
        """Records read that became nothing of the above; 0 unless something is wrong."""
        done = self.scored + self.archived + self.already_archived
        return self.read - done - self.filtered - self.dead_letters

    @property
    def events_per_second(self) -> float:
        """Records read, over the time from the first record to the last output."""
        return self.read / self.reading_seconds if self.reading_seconds > 0 else 0.0

    def to_json(self) -> str:
        return json.dumps(
            {
                **asdict(self),
                "unaccounted": self.unaccounted,
                "events_per_second": round(self.events_per_second, 1),
            },
            indent=2,
        )


def conclude(
    started: float,
    live: bool,
    path: str | None,
    keeps_position: bool,
    archive: bool = False,
    input_files: int = 0,
) -> int:
    """Prints the summary of a scoring or archiving job and writes it to ``path``, where one is given.

    Args:
      keeps_position: what it has read is committed to a group.
      archive: it writes an archive.
      input_files: how many files it reads, where its input is an archive.

    Returns:
      The exit status: EXIT_FAILED where something finished is not committed.
    """
    summary = summarize(started, live)
    if keeps_position:
        summary = replace(summary, uncommitted=_uncommitted(summary.read - summary.unaccounted))
    if input_files:
        summary = replace(summary, files_not_read=input_files - metrics.TOTALS.snapshot()[0][metrics.FILES_READ])
    print_summary(summary, archive)
    if path:
        Path(path).write_text(summary.to_json() + "\n", encoding="utf-8")
    return EXIT_FAILED if summary.uncommitted else 0


def _uncommitted(finished: int) -> int:
    """How many of the finished records a restart reads again."""
    return max(0, finished - metrics.TOTALS.snapshot()[0][metrics.RECORDS_COMMITTED])


def _read_again(records: int) -> str:
    return (
        f"[bold]{records:,} records are finished, but their offsets are not committed[/bold]: a restart reads them "
        "again, and what then comes twice has the same id"
    )


def conclude_redrive(started: float, dry_run: bool, keeps_position: bool, nothing_read: str) -> int:
    """Prints what happened to the dead letters; returns the exit status, as :func:`conclude`.

    Args:
      nothing_read: what to say where there were none.
    """
    counts, _ = metrics.TOTALS.snapshot()
    table = Table(
        title="Dry run: nothing was written" if dry_run else "Redrive", show_header=False, title_justify="left"
    )
    table.add_column()
    table.add_column(justify="right")
    table.add_row("dead letters read", f"{counts[metrics.RECORDS_READ]:,}")
    table.add_row("would be put back" if dry_run else "put back", f"{counts[metrics.REDRIVEN]:,}")
    prefix = metrics.REDRIVEN + "."
    for name in sorted(counts):
        if name.startswith(prefix):
            table.add_row(f"  {name.removeprefix(prefix)}", f"{counts[name]:,}")
    table.add_row("left: another reason", f"{counts[metrics.RECORDS_FILTERED]:,}")
    table.add_row("left: not a dead letter", f"{counts[metrics.UNREADABLE]:,}")
    if counts[metrics.WITHOUT_PAYLOAD]:
        table.add_row("left: without its record, which was too large", f"{counts[metrics.WITHOUT_PAYLOAD]:,}")
    if counts[metrics.TOO_LARGE]:
        table.add_row("not written: larger than the output takes", f"{counts[metrics.TOO_LARGE]:,}")
    uncommitted = _uncommitted(counts[metrics.RECORDS_READ]) if keeps_position else 0
    if uncommitted:
        table.add_row("finished but not committed", f"{uncommitted:,}")
    table.add_row("time", f"{time.time() - started:,.1f} s")
    console = Console(soft_wrap=True)
    console.print(table)
    if uncommitted:
        console.print(_read_again(uncommitted))
    if not counts[metrics.RECORDS_READ]:
        say(nothing_read)
    if counts[metrics.RECORDS_FILTERED] and not dry_run:
        say("what was left with another reason is read again with another --group_id")
    return EXIT_FAILED if uncommitted else 0


def conclude_replay(started: float, path: str | None, wanted: int) -> int:
    """Prints how far a replay came and writes it to ``path``, where one is given.

    Args:
      wanted: rows the archive has between --from and --until.
    """
    counts, _ = metrics.TOTALS.snapshot()
    first, last = metrics.TOTALS.active_span()
    written = counts[metrics.RECORDS_WRITTEN]
    summary = {
        "wanted": wanted,
        "written": written,
        "complete": written == wanted,
        "reached": time_text(metrics.TOTALS.reached_ms),
        "seconds": round(time.time() - started, 3),
        "records_per_second": round(written / (last - first), 1) if last > first else 0.0,
    }
    table = Table(title="Replay", show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    table.add_row("records in the archive, of that time", f"{wanted:,}")
    table.add_row("written and acknowledged", f"{written:,}")
    table.add_row("event time reached", str(summary["reached"] or "none"))
    table.add_row("rate", f"{summary['records_per_second']:,.0f} records/s")
    table.add_row("time", f"{summary['seconds']:,.1f} s")
    console = Console(soft_wrap=True)
    console.print(table)
    too_large = counts[metrics.TOO_LARGE]
    if too_large:
        console.print(
            f"[bold]{too_large:,} records are larger than the topic takes[/bold] and stay in the archive alone"
        )
    if written == wanted:
        console.print("the whole of it is on the topic")
    elif written + too_large < wanted:
        console.print(
            f"[bold]{wanted - written - too_large:,} records are not on the topic yet[/bold]: started again it begins "
            "anew, and what then comes twice has the same highbeam.origin"
        )
    if path:
        Path(path).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return 0


def time_text(millis: int | None) -> str | None:
    """A time in milliseconds since the epoch as 2026-11-22T07:00:00.000Z; beyond the years 1 to 9999 their number."""
    if millis is None:
        return None
    if not _YEAR_1_MS <= millis < _YEAR_10000_MS:
        return f"{millis} ms"
    return datetime.fromtimestamp(millis / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def summarize(started: float, live: bool) -> Summary:
    """The summary of what this process has counted.

    Args:
      started: ``time.time()`` at the start of the pipeline.
      live: whether latencies mean something; in a replay they are the age of the records.
    """
    counts, histogram = metrics.TOTALS.snapshot()
    first, last = metrics.TOTALS.active_span()
    return Summary(
        read=counts[metrics.RECORDS_READ],
        scored=counts[metrics.RECORDS_SCORED],
        filtered=counts[metrics.RECORDS_FILTERED],
        alerts=counts[metrics.ALERTS],
        dead_letters=counts[metrics.DEAD_LETTERS],
        without_payload=counts[metrics.WITHOUT_PAYLOAD],
        archived=counts[metrics.ARCHIVED],
        already_archived=counts[metrics.ALREADY_ARCHIVED],
        files=counts[metrics.ARCHIVED_FILES],
        not_in_lookup=counts[metrics.NOT_IN_LOOKUP],
        reasons={
            name.removeprefix(_REASON_PREFIX): n
            for name, n in sorted(counts.items(), key=lambda item: -item[1])
            if name.startswith(_REASON_PREFIX)
        },
        seconds=round(time.time() - started, 3),
        reading_seconds=round(last - first, 3),
        latency_ms={
            "p50": metrics.latency_quantile(histogram, 0.5) if live else None,
            "p99": metrics.latency_quantile(histogram, 0.99) if live else None,
            "p99.9": metrics.latency_quantile(histogram, 0.999) if live else None,
        },
    )


def print_summary(summary: Summary, archive: bool = False) -> None:
    """Prints the closing summary of a scoring job, or of one that writes an archive, on stdout."""
    table = Table(title="Summary", show_header=False, title_justify="left")
    table.add_column(justify="left")
    table.add_column(justify="right")
    table.add_row("read", f"{summary.read:,}")
    if archive:
        table.add_row(f"archived, in {summary.files:,} files", f"{summary.archived:,}")
        table.add_row("in the archive before", f"{summary.already_archived:,}")
        if summary.not_in_lookup:
            table.add_row("key not in the lookup table", f"{summary.not_in_lookup:,}")
    else:
        table.add_row("scored", f"{summary.scored:,}")
    table.add_row("filtered", f"{summary.filtered:,}")
    table.add_row("dead letters", f"{summary.dead_letters:,}")
    for reason, n in summary.reasons.items():
        table.add_row(f"  {reason}", f"{n:,}")
    if summary.without_payload:
        table.add_row("of these without the record, too large for their topic", f"{summary.without_payload:,}")
    if summary.uncommitted is not None:
        table.add_row("finished but not committed", f"{summary.uncommitted:,}")
    if not archive:
        table.add_row("alerts (of the scored)", f"{summary.alerts:,}")
    table.add_row("rate", f"{summary.events_per_second:,.0f} records/s")
    p50, p99 = summary.latency_ms.get("p50"), summary.latency_ms.get("p99")
    if p50 is not None and p99 is not None:
        table.add_row("latency of a block's slowest record, p50 / p99", f"{p50:,.0f} / {p99:,.0f} ms")
    table.add_row("time", f"{summary.seconds:,.1f} s")
    console = Console(soft_wrap=True)
    console.print(table)
    if summary.files_not_read:
        console.print(f"[bold]ended before {summary.files_not_read:,} files of the input were read[/bold] to their end")
    if summary.uncommitted:
        console.print(_read_again(summary.uncommitted))
    if summary.unaccounted:
        console.print(
            f"[bold]{summary.unaccounted:,} records are not accounted for[/bold]: they were read but the job ended "
            "before their bundle was done; their offsets are not committed and the next run reads them again"
        )
    elif not summary.uncommitted:
        done = "archived + in the archive before" if archive else "scored"
        console.print(f"read = {done} + filtered + dead letters: every record is accounted for")


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
    """

    def __init__(self, how: str, started: float) -> None:
        self._how = ("line" if sys.stderr.isatty() else "none") if how == "auto" else how
        self._started = started
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
            if self._how == "line":
                print(file=sys.stderr)

    def _run(self) -> None:
        read, histogram, then = 0, metrics.TOTALS.snapshot()[1], time.monotonic()
        while not self._stop.wait(1.0):
            counts, all_latencies = metrics.TOTALS.snapshot()
            now = time.monotonic()
            state = {
                "seconds": round(time.time() - self._started, 1),
                "readers": counts[metrics.READERS_CREATED],
                "read": counts[metrics.RECORDS_READ],
                "scored": counts[metrics.RECORDS_SCORED],
                "archived": counts[metrics.ARCHIVED],
                "filtered": counts[metrics.RECORDS_FILTERED],
                "alerts": counts[metrics.ALERTS],
                "dead_letters": counts[metrics.DEAD_LETTERS],
                "written": counts[metrics.RECORDS_WRITTEN],
                "reached": time_text(metrics.TOTALS.reached_ms),  # by a replay
                "events_per_second": round((counts[metrics.RECORDS_READ] - read) / (now - then)),
                "latency_ms_p50": metrics.latency_quantile(all_latencies - histogram, 0.5),
                "latency_ms_p99": metrics.latency_quantile(all_latencies - histogram, 0.99),
            }
            read, histogram, then = counts[metrics.RECORDS_READ], all_latencies, now
            if self._how == "json":
                print(json.dumps(state), file=sys.stderr, flush=True)
            else:
                p99 = state["latency_ms_p99"]
                if state["reached"]:
                    line = f"replayed {state['written']:,} ({state['events_per_second']:,}/s)  at {state['reached']}"
                    print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
                    continue
                line = (
                    f"read {state['read']:,} ({state['events_per_second']:,}/s)  "
                    + (f"archived {state['archived']:,}  " if state["archived"] else f"alerts {state['alerts']:,}  ")
                    + f"filtered {state['filtered']:,}  dead letters {state['dead_letters']:,}"
                    + (f"  latency p99 {p99:,.0f} ms" if p99 is not None else "")
                )
                print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
