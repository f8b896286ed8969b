"""The lease of an archive's log: who waits for whom, and for how long."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from beam_jobs.archives import owner as archive_owner
from beam_jobs.archives.log import ArchiveLog, FencedError, new_id
from beam_jobs.archives.owner import Lease, Owner, join, take_over

LEASE_S = 3.0  # of which a busy machine may sleep more than one


@pytest.fixture
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder that isn't there yet, local where a test does not ask for another."""
    if getattr(request, "param", "local") == "local":
        return str(tmp_path / "archive")
    return f"{request.getfixturevalue('bucket')}/archive"


BOTH = pytest.mark.parametrize("root", ["local", "gs"], indirect=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("BEAT_S", 0.1), ("LEASE_S", LEASE_S), ("_LOOK_S", 0.02)):
        monkeypatch.setattr(archive_owner, name, seconds)


class Job:
    """What a job does with its log."""

    def __init__(self, root: str) -> None:
        self.log = ArchiveLog(root, "job")
        self.lease = Lease(self.log.folder, self.log.owner)
        self.said: list[str] = []
        self.began = 0.0

    def begin(self) -> Job:
        take_over(self.log, self.lease, self.said.append, dict)
        self.began = time.monotonic()
        return self

    def later(self) -> threading.Thread:
        thread = threading.Thread(target=self.begin)
        thread.start()
        return thread

    def dies(self) -> None:
        """As if its machine were gone: no beat any more, and nothing is released."""
        self.lease._stop.set()


@pytest.fixture
def jobs(root: str) -> Iterator[list[Job]]:
    made = [Job(root) for _ in range(3)]
    yield made
    for job in made:
        job.lease.release()


def test_the_next_job_goes_on_when_the_first_ends(jobs: list[Job]) -> None:
    first, second, _ = jobs
    first.begin()
    assert first.said == []
    waiting = second.later()
    waiting.join(1.2 * LEASE_S)
    assert waiting.is_alive()  # as long as the first one lives
    assert ["waiting until it ends" in line for line in second.said] == [True]
    ended = time.monotonic()
    first.lease.release()
    waiting.join(30)
    assert second.began - ended < LEASE_S
    assert "the other job has ended" in second.said[-1]
    second.log.held()
    with pytest.raises(FencedError):
        first.log.held()


@BOTH
def test_a_job_that_gives_no_sign_of_life_is_replaced_by_one_of_those_that_wait(jobs: list[Job]) -> None:
    first, *others = jobs
    first.begin()
    threads = [job.later() for job in others]
    first.dies()
    since = time.monotonic()
    while not any(job.began for job in others):
        assert time.monotonic() - since < 60
        time.sleep(0.01)
    winner, other = sorted(others, key=lambda job: -job.began)
    assert winner.began - since > LEASE_S - 0.3
    assert "has ended without a word: taking it over" in winner.said[-1]
    with pytest.raises(FencedError):
        first.log.held()
    assert not other.began
    winner.log.held()
    winner.lease.release()
    for thread in threads:
        thread.join(30)
    other.log.held()
    with pytest.raises(FencedError):
        winner.log.held()


def test_one_that_was_paused_does_not_take_its_lease_back(jobs: list[Job]) -> None:
    first, second, _ = jobs
    first.begin()
    first.dies()
    second.begin()
    first.lease._stop.clear()
    first.lease.keep()
    first.lease._thread.join(30)  # type: ignore[union-attr]  # it finds the other's beat, and ends
    assert not first.lease._thread.is_alive()  # type: ignore[union-attr]
    first.lease.release()
    assert second.lease._read().startswith(second.log.owner.encode())


CHILD = """
import sys
from beam_jobs.archives.log import ArchiveLog
from beam_jobs.archives.owner import Lease, take_over
log = ArchiveLog(sys.argv[1], "job")
lease = Lease(log.folder, log.owner)
lease.hold_here()
take_over(log, lease, print, dict)
print("mine", flush=True)
sys.stdin.read()
"""


def test_a_killed_job_of_this_machine_is_not_waited_for(
    root: str, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_owner, "LEASE_S", 60.0)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", CHILD, root], text=True, **pipes) as child:  # type: ignore[call-overload]
        assert child.stdout.readline() == "mine\n"
        waiting = jobs[0].later()
        waiting.join(0.5)
        assert waiting.is_alive()
        child.kill()
    waiting.join(10)
    assert not waiting.is_alive()
    jobs[0].log.held()


def test_workers_take_the_log_for_their_job_once_and_keep_it(root: str) -> None:
    before = Job(root).begin()
    before.dies()
    owner = Owner(by_workers=True, replaces=before.log.owner)
    workers = [ArchiveLog(root, "job", owner.token) for _ in range(3)]
    threads = [threading.Thread(target=join, args=(log, owner, dict)) for log in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for log in workers:
        log.held()
    waits = Job(root).later()
    waits.join(1.2 * LEASE_S)
    assert waits.is_alive()  # the workers' process keeps the lease
    lease = archive_owner._KEPT.pop((workers[0].folder, owner.token))
    lease.release()
    waits.join(30)
    with pytest.raises(FencedError):
        join(workers[0], owner, dict)
    archive_owner._KEPT.pop((workers[0].folder, owner.token)).release()


@BOTH
def test_an_update_takes_the_place_of_the_job_that_the_service_has_ended(root: str) -> None:
    running = Job(root).begin()
    owner = Owner(by_workers=True, replaces=running.log.owner, waits=False)
    began = time.monotonic()
    log = ArchiveLog(root, "job", owner.token)
    join(log, owner, dict)
    assert time.monotonic() - began < LEASE_S
    log.held()
    with pytest.raises(FencedError):
        running.log.held()
    late = Owner(by_workers=True, replaces=running.log.owner)  # submitted at the same time, and later
    with pytest.raises(FencedError):
        join(ArchiveLog(root, "job", late.token), late, dict)
    for key in [key for key in archive_owner._KEPT if key[0] == log.folder]:
        archive_owner._KEPT.pop(key).release()
    running.lease.release()


def test_a_job_of_the_name_of_nobody_is_free(root: str) -> None:
    """What a lease of a strange content says: nothing that may lead to a file."""
    assert not archive_owner._ended_here("../../etc/passwd")
    assert not archive_owner._ended_here(new_id())
