"""Several owners and workers of one archive's log, interleaved at every call of storage, paused and killed anywhere."""

from __future__ import annotations

import fnmatch
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_jobs.archives import log as archive_log
from beam_jobs.archives.held import Held, Ranges
from beam_jobs.archives.log import ArchiveLog, Finished, new_id
from beam_jobs.errors import UserError

TOPIC = ("t", 0)
RECORDS = 24  # of the topic
BUNDLE = 3
ROOT = "/archive"


class Killed(BaseException):
    """As kill -9: nothing after it runs."""


class Storage:
    """Files in memory, an operation a step; ``turn`` is called before each."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.turn: Callable[[], None] = lambda: None

    def list_files(self, pattern: str) -> list[str]:
        self.turn()
        return sorted(fnmatch.filter(self.files, pattern))

    def read_bytes(self, path: str) -> bytes:
        self.turn()
        if path not in self.files:
            raise FileNotFoundError(2, "none", path)
        return self.files[path]

    def create(self, path: str, data: bytes) -> bool:
        self.turn()
        return self.files.setdefault(path, data) == data

    def write(self, path: str, data: bytes) -> None:
        self.turn()
        self.files[path] = data

    def move(self, source: str, target: str) -> None:
        self.turn()
        if source in self.files:
            self.files[target] = self.files.pop(source)
        elif target not in self.files:
            raise FileNotFoundError(2, "none", source)

    def remove(self, paths: Iterable[str]) -> None:
        for path in paths:
            self.turn()
            self.files.pop(path, None)


class World:
    """A topic, its committed offset, an archive; and actors that take a step when they are told to."""

    def __init__(self, storage: Storage) -> None:
        self.storage, self.committed = storage, 0
        self.actors: list[Actor] = []
        self.failures: list[BaseException] = []
        self.jobs: list[tuple[str, str]] = []  # token, and whose place it takes
        self.here = threading.local()
        storage.turn = self._turn

    def _turn(self) -> None:
        actor: Actor | None = getattr(self.here, "actor", None)
        if actor is not None:
            actor.rest()

    def job(self) -> None:
        """Starts a job, which takes the place of whoever owns the log now, with one worker."""
        self.jobs.append((new_id(), ArchiveLog(ROOT, "job").current_owner()))
        self.worker(len(self.jobs) - 1)

    def worker(self, job: int) -> None:
        self.actors.append(Actor(self, *self.jobs[job % len(self.jobs)]))

    def rows(self) -> list[int]:
        """The offsets a reader of the data files finds."""
        return [row for path, data in self.storage.files.items() if "/hour=" in path for row in json.loads(data)]

    def counting(self) -> set[int]:
        """And those of committed files that are still to be put in place."""
        files = self.storage.files
        named = [f["from"] for path in files if "/commits/" in path for f in json.loads(files[path])["files"]]
        return {*self.rows(), *(row for path in named if path in files for row in json.loads(files[path]))}

    def end(self) -> None:
        for actor in self.actors:
            actor.kill()


class Actor:
    """A worker: takes the log over for its job if none has, then archives from the committed offset on."""

    def __init__(self, world: World, owner: str, replaces: str) -> None:
        self._world = world
        self._go, self._rested = threading.Semaphore(0), threading.Semaphore(0)
        self._killed, self.done = False, False
        self._log, self._replaces = ArchiveLog(ROOT, "job", owner), replaces
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._rested.acquire()

    def rest(self) -> None:
        """Waits for the next turn."""
        self._rested.release()
        self._go.acquire()
        if self._killed:
            raise Killed

    def step(self) -> None:
        if not self.done:
            self._go.release()
            self._rested.acquire()

    def kill(self) -> None:
        self._killed = True
        self.step()
        self._thread.join()

    def _run(self) -> None:
        self._world.here.actor = self
        try:
            self.rest()
            self._log.recover(self._replaces)
            for _ in range(3):  # a service tries a bundle again
                with suppress(UserError):
                    self._work()
        except (Killed, UserError):
            pass  # as a job that has ended
        except BaseException as error:
            self._world.failures.append(error)
        self.done = True
        self._rested.release()

    def _work(self) -> None:
        world, log = self._world, self._log
        at = world.committed
        while at < RECORDS:
            held = log.held()
            offsets = np.arange(at, min(at + BUNDLE, RECORDS))
            mine = offsets[~held.holds(TOPIC, offsets)]
            if len(mine):
                bundle = new_id()
                files = []
                for number, rows in enumerate(np.array_split(mine, 2)):
                    if len(rows):
                        temporary = log.temporary(bundle, number)
                        world.storage.write(temporary, json.dumps(rows.tolist()).encode())
                        files.append(Finished(temporary, f"{ROOT}/hour=1/{bundle}-{number}.avro", len(rows)))
                log.commit(bundle, files, Held(Ranges.span(TOPIC, mine)))
            at = int(offsets[-1]) + 1
            assert set(range(at)) <= world.counting(), "an offset is committed whose record is nowhere"
            world.committed = max(world.committed, at)


@pytest.fixture
def fold_often() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive_log, "_FOLD_AT", 3)
        yield


WHAT = st.sampled_from(["step", "step", "step", "step", "kill", "job", "worker"])


@pytest.mark.usefixtures("fold_often")
@settings(max_examples=150)
@given(
    jobs=st.integers(1, 3),
    steps=st.lists(st.tuples(WHAT, st.integers(0, 7)), max_size=300),
    runs=st.lists(st.integers(1, 40), min_size=1),
)
def test_each_record_is_in_one_row_whoever_is_paused_or_killed(
    jobs: int, steps: list[tuple[str, int]], runs: list[int]
) -> None:
    """Jobs and workers of one partition that begin at any time: nothing but the log keeps them apart."""
    storage = Storage()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("list_files", "read_bytes", "create", "move", "remove"):
            patch.setattr(archive_log, name, getattr(storage, name))
        world = World(storage)
        for _ in range(jobs):
            world.job()
        for number, (what, which) in enumerate(steps):
            actor = world.actors[which % len(world.actors)]
            if what == "job" and len(world.actors) < 8:
                world.job()
            elif what == "worker" and len(world.actors) < 8:
                world.worker(which)
            elif what == "kill":
                actor.kill()
            else:
                for _ in range(runs[number % len(runs)]):
                    actor.step()
        world.end()
        storage.turn = lambda: None
        world.job()
        last = world.actors[-1]
        while not last.done:
            last.step()
    assert world.failures == []
    assert world.committed == RECORDS
    assert Counter(world.rows()) == Counter(range(RECORDS))
    assert not [path for path in storage.files if "/unfinished/" in path]
