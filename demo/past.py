"""From a past to a model: onto the topic, into an archive, and training on that.

Each step is a command as a user would type it; the demo prints it, and passes Ctrl-C on to it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from beam_jobs.errors import UserError
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.sandbox.cars import EventSender, send_past

_PATIENCE_S = 30  # for a command to end after Ctrl-C


class StoppedError(Exception):
    """Ctrl-C came before anything was live."""


def send(sender: EventSender, rows: int, seed: int, partitions: int, stop: threading.Event, console: Console) -> None:
    """Sends what another fleet has driven just now.

    Raises:
      StoppedError: on Ctrl-C.
    """
    with console.status("sending") as status:
        for sent in send_past(sender, rows, seed, partitions):
            if stop.is_set():
                raise StoppedError
            status.update(f"sending: {sent:,} events")
    sender.close()


@dataclass(frozen=True)
class Work:
    """What steps are done for, and with what."""

    use_case: str
    archive: Path
    verbose: bool
    stop: threading.Event
    console: Console


def archive(
    work: Work, events: KafkaAddress, dead_letters: KafkaAddress, registry_url: str, more: Sequence[str] = ()
) -> Mapping[str, Any]:
    """Archives what is on the topic as features; returns the job's summary.

    Raises:
      StoppedError: on Ctrl-C.
      UserError: the job failed, or a record is missing.
    """
    output = work.archive
    report = output.with_suffix(".json")
    command = [
        *(sys.executable, "-m", "beam_jobs.archive", "--use_case", work.use_case),
        *("--input", str(events), "--until", "latest", "--output", str(output)),
        *("--dead_letters", str(dead_letters), "--schema_registry", registry_url),
        *("--progress", "none", "--report", str(report), *more),
    ]
    _run(command, None if work.verbose else output.with_suffix(".log"), "archiving", work.stop, work.console)
    summary: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    if summary["unaccounted"] or not summary["archived"]:
        raise UserError(f"the archive job read {summary['read']} records and archived {summary['archived']}")
    files = sorted(path.relative_to(output) for path in output.glob("highbeam_date=*/**/*.avro"))
    work.console.print(
        f"{summary['archived']:,} rows, {summary['dead_letters']:,} dead letters, "
        f"{len(files):,} {'file' if len(files) == 1 else 'files'}, such as {files[0]}",
        highlight=False,
        soft_wrap=True,
    )
    return summary


def train(work: Work, registry: Path, more: Sequence[str]) -> None:
    """Trains a model on the archive.

    Raises:
      StoppedError: on Ctrl-C.
      UserError: training failed.
    """
    command = [sys.executable, "-m", "model.train", "--use_case", work.use_case]
    command += ["--data", str(work.archive), "--registry", str(registry), *more]
    _run(command, None, None, work.stop, work.console)


def environment() -> dict[str, str]:
    """Of a command of the demo: it imports what the demo does, whatever is in the folder it was started in."""
    home = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join([home, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def show_command(command: Sequence[str], console: Console) -> None:
    """Prints a command as a user would type it."""
    console.print(" ".join(["python", *command[1:]]), style="dim", soft_wrap=True, highlight=False)


def _run(command: Sequence[str], log: Path | None, doing: str | None, stop: threading.Event, console: Console) -> None:
    """Runs a command to its end. With a ``log`` its output goes there, and its last line into the error."""
    show_command(command, console)
    with open(log, "w+", encoding="utf-8") if log else nullcontext() as output:
        # A session of its own: Ctrl-C reaches the demo alone, which passes it on.
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, env=environment())
        try:
            with console.status(doing) if doing else nullcontext():
                while process.poll() is None:
                    if stop.wait(0.1):
                        process.send_signal(signal.SIGINT)
                        process.wait(_PATIENCE_S)
                        raise StoppedError
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        if stop.is_set():
            raise StoppedError
        if process.returncode:
            said = "its message is above"
            if output:
                output.seek(0)
                said = (output.read().strip().splitlines() or ["it said nothing"])[-1].removeprefix("error: ")
            raise UserError(f"{' '.join(command[1:3])} ended with status {process.returncode}: {said}")
