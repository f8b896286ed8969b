"""The demo's scoring job."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from rich.console import Console

from beam_jobs.errors import UserError
from beam_jobs.io.kafka.address import KafkaAddress
from demo import past
from demo.scenario import Settings

_READY_SECONDS = 120  # the scoring job compiles and loads the model; minutes on a slow machine
_COMPLAINT_S = 10  # for which what the job says is shown
_DRAIN_SECONDS = 60  # after the last event, for the job to catch up


class ScoreJob:
    """The scoring job, as a user would start it: ``python -m beam_jobs.score`` in a process of its own."""

    def __init__(
        self,
        settings: Settings,
        topics: dict[str, KafkaAddress],
        more: Sequence[str],
        registry_url: str,
        model: str,
        folder: Path,
        console: Console,
    ) -> None:
        self._report = folder / "summary.json"
        self._console = console
        self._verbose = settings.verbose
        self._command = [
            *(sys.executable, "-m", "beam_jobs.score", "--use_case", settings.use_case),
            *("--input", str(topics["events"]), *more, "--model", model),
            *("--alerts", str(topics["alerts"]), "--scores", str(topics["scores"])),
            *("--dead_letters", str(topics["dead_letters"]), "--schema_registry", registry_url),
            *("--progress", "json", "--report", str(self._report), "--runner", settings.runner),
            *(["--verbose"] if settings.verbose else []),
        ]
        self.progress: dict[str, Any] = {}
        self._words: list[str] = []
        self._said_at = 0.0  # monotonic clock, when the last of them came

    def __enter__(self) -> ScoreJob:
        past.show_command(self._command, self._console)
        # A session of its own: Ctrl-C reaches the demo alone, which ends the job after its last event.
        self._process = subprocess.Popen(
            self._command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=past.environment(),
        )
        assert self._process.stderr is not None
        self._reader = threading.Thread(target=self._listen, args=(self._process.stderr,), daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join(5)

    def _listen(self, stream: IO[str]) -> None:
        for line in stream:
            if line.startswith("{"):
                self.progress = json.loads(line)
            else:
                self._words.append(line.rstrip())
                self._said_at = time.monotonic()
                del self._words[:-50]
                if self._verbose:
                    print(line, end="", file=sys.stderr)

    def complaint(self) -> str:
        """What the job has warned of in the last seconds."""
        recent = self._words[-1:] if time.monotonic() - self._said_at < _COMPLAINT_S else []
        return "".join(word for word in recent if word.startswith(("WARNING ", "ERROR ", "CRITICAL ")))

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def last_words(self) -> str:
        """What the job said last: its error line, if it had one."""
        self._reader.join(5)
        errors = [line for line in self._words if line.startswith("error: ")]
        text = errors[-1].removeprefix("error: ") if errors else " ".join(self._words[-3:])
        return f"the scoring job ended with status {self._process.returncode}: {text}"

    def failed(self) -> int:
        """The exit status when the job never came to read: 0 after Ctrl-C, otherwise an error."""
        if self.ended:
            raise UserError(self.last_words())
        return 0

    def wait_until_reading(self, stop: threading.Event) -> bool:
        """Waits until the job has a consumer and its model; False after Ctrl-C or the end of the job."""
        deadline = time.monotonic() + _READY_SECONDS
        with self._console.status("loading the model into the scoring job"):
            while not self.ended and not stop.wait(0.1):
                if self.progress.get("readers"):
                    return True
                if time.monotonic() > deadline:
                    raise UserError(f"the scoring job is not reading after {_READY_SECONDS} s; --verbose shows its log")
        return False

    def wait_until(self, all_seen: Callable[[Mapping[str, Any]], bool]) -> bool:
        """Waits until, by its progress line or otherwise, every event is handled; False when it does not catch up."""
        deadline = time.monotonic() + _DRAIN_SECONDS
        tick = threading.Event()
        while not self.ended and time.monotonic() < deadline:
            if all_seen(self.progress):
                return True
            tick.wait(0.1)
        return False

    def finish(self) -> dict[str, Any]:
        """Ends the job as Ctrl-C would, and returns its summary."""
        if not self.ended:
            self._process.send_signal(signal.SIGINT)
        try:
            status = self._process.wait(_DRAIN_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise UserError(f"the scoring job did not end within {_DRAIN_SECONDS} s of Ctrl-C") from error
        if status or not self._report.exists():
            raise UserError(self.last_words())
        summary: dict[str, Any] = json.loads(self._report.read_text(encoding="utf-8"))
        return summary
