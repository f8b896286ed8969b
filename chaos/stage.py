"""One scenario's own topics, jobs and ledgers, and what happens between two faults."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chaos.events import USE_CASE, Event
from chaos.feed import Feed
from chaos.job import ACCOUNTED, Job
from chaos.ledger import Ledger, Position, Verdict
from chaos.outputs import CloudArchive, Entries, LocalArchive, Output, Place
from chaos.world import STORAGE, World

Kind = Literal["score", "archive"]

_READ_S = 120.0  # for a job to begin to read, on a machine that does something else too
_STUCK_S = 30.0  # without anything coming out, when nothing is in its way any more
_FILE_AGE_S = "0.7"


@dataclass(frozen=True)
class JobSpec:
    """A job of a scenario.

    Attributes:
      cloud: its archive is on gs://.
      proxied: it reaches the broker, or the service, over a network that has trouble.
    """

    kind: Kind
    runner: str = "DirectRunner"
    more: tuple[str, ...] = ()
    cloud: bool = False
    proxied: bool = False

    @property
    def name(self) -> str:
        return self.kind + ("-prism" if self.runner == "PrismRunner" else "")


class Stage:
    """Jobs under faults, and the accounts of what they put out. Subclasses bring the bus.

    Args:
      folder: for logs and archives of this run.
      tell: takes what happens, a line each.
    """

    def __init__(self, world: World, specs: Sequence[JobSpec], folder: Path, tell: Callable[[str], None]) -> None:
        self.world, self.folder, self.tell = world, folder, tell
        self.run = folder.name
        self.ledgers: list[Ledger] = []
        self.outputs: list[Output] = []
        self.feed = self._open()
        self.jobs = [self._job(spec) for spec in specs]
        self._looked = 0.0
        self.progress: Callable[[], None] = lambda: None  # called about once a second

    # What a bus has of its own.

    def _open(self) -> Feed:
        """Makes the topic of the events, and what sends them."""
        raise NotImplementedError

    def _addresses(self, spec: JobSpec) -> list[str]:
        """The flags that name the job's input and where it starts."""
        raise NotImplementedError

    def _outputs(self, name: str, kinds: Mapping[str, str], entries: Entries) -> list[str]:
        """Makes the topics of a job's outputs, reads them, and gives the flags that name them.

        Args:
          kinds: kind of entry by flag, {"--alerts": "alert"}.
        """
        raise NotImplementedError

    def _environment(self, spec: JobSpec) -> dict[str, str]:
        return {}

    def _place(self) -> Place:
        raise NotImplementedError

    def uncommitted(self, job: Job) -> int:
        """Records behind the position the job's group has, now that all came out."""
        return 0

    @property
    def use_case(self) -> str:
        return USE_CASE

    @property
    def content(self) -> list[str]:
        """The flags that say what an archive holds."""
        return ["--raw", "--keep_keys"]

    # What all have.

    def events(self) -> Iterator[Event]:
        yield from self.world.events

    def taken(self, position: Position, event: Event) -> None:
        """An event is on the topic: each job owes something for it."""
        for ledger in self.ledgers:
            kind = ledger.output.split()[-1]
            content = {"score": event.score, "alert": event.alert, "row": event.row, "dead_letter": event.letter}[kind]
            if content is not None:
                ledger.expect(position, content)

    def _job(self, spec: JobSpec) -> Job:
        kinds = {"--dead_letters": "dead_letter"}
        if spec.kind == "score":
            kinds |= {"--alerts": "alert", "--scores": "score"}
        of_archive = {"row"} if spec.kind == "archive" else set()
        ledgers = {k: Ledger(f"{spec.name} {k}", exactly_once=k == "row") for k in (*kinds.values(), *of_archive)}
        self.ledgers += ledgers.values()
        entries = Entries(self._place(), ledgers)
        command = [sys.executable, "-m", f"beam_jobs.{spec.kind}", "--use_case", self.use_case, "--progress", "json"]
        command += [*self._addresses(spec), *self._outputs(spec.name, kinds, entries)]
        environment = self._environment(spec)
        if spec.kind == "score":
            command += ["--model", str(self.world.model)]
        else:
            command += [*self.content, "--max_file_age", _FILE_AGE_S, "--output"]
            command.append(self._archive(spec, entries, environment))
        if spec.runner == "PrismRunner":
            command += ["--runner", "PrismRunner", "--prism_location", str(self.world.prism)]
        return Job(spec.name, [*command, *spec.more], self.folder, self.group(spec), environment)

    def group(self, spec: JobSpec) -> str:
        return f"{spec.name}-{self.run}"

    def _archive(self, spec: JobSpec, entries: Entries, environment: dict[str, str]) -> str:
        if not spec.cloud:
            self.outputs.append(LocalArchive(entries, self.folder / "archive"))
            return str(self.folder / "archive")
        bucket = self.world.bucket()
        emulator, proxy = self.world.storage
        environment[STORAGE] = emulator.url
        self.outputs.append(CloudArchive(entries, bucket, lambda: emulator.away or proxy.trouble != "none"))
        return f"gs://{bucket}/archive"

    def begin(self) -> None:
        """Starts the jobs and the events; returns when every job reads."""
        self.feed.burst(500)
        self.feed.go()
        for job in self.jobs:
            job.start()
        for job in self.jobs:
            self.until_reading(job)

    def pass_time(self, seconds: float) -> None:
        """Lets time pass; jobs that ended are started again."""
        end = time.monotonic() + seconds
        while True:
            for job in self.jobs:
                before = job.run
                if job.look_after() and before.process.returncode:
                    last = (before.said().splitlines() or ["it said nothing"])[-1]
                    self.tell(f"{job.name} ended with status {before.process.returncode}, started again: {last[:300]}")
            if time.monotonic() - self._looked > 1:
                for output in self.outputs:
                    output.look()
                self._looked = time.monotonic()
                self.progress()
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(0.2, left))

    def until_reading(self, job: Job) -> None:
        """Returns when the job reads, or has ended in good order: a bounded one."""
        deadline, first = time.monotonic() + _READ_S, job.run
        while not (job.run.reads(not self.feed.exhausted) or first.process.poll() == 0):
            if time.monotonic() > deadline:
                self.tell(f"{job.name} does not read after {_READ_S:.0f} s; see {job.run.log}")
                return
            self.pass_time(0.2)

    def finish(self) -> tuple[list[Verdict], list[str]]:
        """Waits until all has come out, or nothing comes any more; ends the jobs.

        Returns:
          The accounts, and a line for each thing a job said that is not so.
        """
        self.pass_time(1)
        self.feed.hold()
        before, since = -1, time.monotonic()
        while missing := sum(ledger.missing for ledger in self.ledgers):
            if missing != before:
                before, since = missing, time.monotonic()
            if time.monotonic() - since > _STUCK_S:
                self.tell(f"{missing} records have not come out, and nothing has for {_STUCK_S:.0f} s")
                break
            self.pass_time(0.3)
        said = [line for job in self.jobs for line in self._end(job)]
        for output in self.outputs:
            output.look_again()
        said += [f"harness: {failure}" for failure in self.feed.sender.failed[:3]]
        return [ledger.verdict() for ledger in self.ledgers], said

    def _end(self, job: Job) -> list[str]:
        job.wanted = False
        if not job.run.running:
            return []
        status = job.run.end(None if job.bounded else signal.SIGINT)
        text = job.run.said()
        if status != 0:
            what = "did not end within a minute" if status is None else f"ended with status {status}"
            return [f"{job.name} {what} at its end: {(text.splitlines() or [''])[-1][:300]}"]
        owed = sum(ledger.missing for ledger in self.ledgers if ledger.output.startswith(f"{job.name} "))
        left = self.uncommitted(job)
        if ACCOUNTED in text and (owed or left):
            return [f'{job.name} says "{ACCOUNTED}": {owed} records have not come out, {left} are not committed']
        return []

    def close(self) -> None:
        """Ends everything the scenario has started."""
        for job in self.jobs:
            with suppress(ProcessLookupError):
                job.close()
        self.feed.close()
        for output in self.outputs:
            output.close()
