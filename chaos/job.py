"""A job of the campaign as whoever runs it in production has it: started, ended at any moment, started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import beam_jobs
from beam_jobs.sandbox import guard
from bench.processes import tree

ROOT = Path(beam_jobs.__file__).resolve().parent.parent
ACCOUNTED = "every record is accounted for"
_END_S = 60.0  # for a job to finish what it has read


@dataclass
class Run:
    """One process of a job, and its group."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def said(self) -> str:
        """What it said so far, without the progress."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(line for line in lines if not line.startswith("{"))

    def reads(self, anything: bool = True) -> bool:
        """Whether it has begun to read; without ``anything``: whether it would."""
        for line in reversed(self.log.read_text(errors="replace").splitlines()):
            if line.startswith("{") and line.endswith("}"):
                return bool(json.loads(line)["read"]) or not anything
        return False

    def send(self, number: signal.Signals) -> None:
        """To its group, as a terminal or a container's end does."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """kill -9; what it leaves behind (Prism) goes as well, as with its container."""
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        self.send(signal.SIGKILL)
        guard.forget(self.process.pid)

    def end(self, how: signal.Signals | None = signal.SIGINT) -> int | None:
        """Ends it in good order, or waits for its end; the exit status, None: it did not end."""
        if how is not None and self.running:
            self.process.send_signal(how)
        try:
            return self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self.kill()

    def children(self) -> list[int]:
        """Processes that work for it: workers, Prism."""
        found = []
        for pid in tree(self.process.pid)[1:]:
            with suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
                if "spawn_main" in words or "prism" in words:
                    found.append(pid)
        return found


@dataclass
class Job:
    """A job's command, and the runs of it.

    Attributes:
      wanted: it is to run; when its latest run has ended, it is started again.
      runs: all of them; the last is the one that is looked after.
    """

    name: str
    command: Sequence[str]
    folder: Path  # of the logs
    group: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    wanted: bool = True
    runs: list[Run] = field(default_factory=list)

    def start(self) -> Run:
        """A run that is looked after from now on."""
        self.runs.append(self._start())
        return self.run

    def start_beside(self) -> Run:
        """Another run that nobody looks after."""
        self.runs.insert(0, self._start())
        return self.runs[0]

    def _start(self) -> Run:
        log = self.folder / f"{self.name}-{len(self.runs) + 1}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )
        guard.watch(process.pid)
        return Run(process, log)

    @property
    def bounded(self) -> bool:
        return "--until" in self.command

    @property
    def run(self) -> Run:
        """The latest run."""
        return self.runs[-1]

    def look_after(self) -> bool:
        """Starts it again where it ended; whether it had to."""
        if not self.wanted or self.run.running:
            return False
        guard.forget(self.run.process.pid)
        time.sleep(0.5)  # an orchestrator waits a little
        self.start()
        return True

    def close(self) -> None:
        for run in self.runs:
            run.kill()
