"""The faults. Each takes the stage and a number in [0, 1) that decides everything that is chance in it, and leaves the
world whole: what it took away is back."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer

from chaos.buses import PARTITIONS, KafkaStage, PubSubStage
from chaos.job import Job
from chaos.proxy import Proxy, Trouble
from chaos.stage import Stage

Fault = Callable[[Any, float], None]


@dataclass(frozen=True)
class Planned:
    """A fault of a schedule."""

    after_s: float  # since the fault before it was over
    fault: Fault
    chance: float

    def __str__(self) -> str:
        name = getattr(self.fault, "func", self.fault).__name__
        return f"{name}({', '.join(map(str, getattr(self.fault, 'args', ())))})".removesuffix("()")


def _one(stage: Stage, chance: float) -> Job:
    return stage.jobs[int(chance * len(stage.jobs))]


# The job.


def kill_jobs(stage: Stage, chance: float) -> None:
    """kill -9, each of the jobs; started again at once. Three in ten die while they start as well."""
    for job in stage.jobs:
        job.run.kill()
    stage.pass_time(0)
    if chance < 0.3:
        stage.pass_time(1 + 20 * chance)
        for job in stage.jobs:
            job.run.kill()
        stage.pass_time(0)
    for job in stage.jobs:
        stage.until_reading(job)


def kill_children(stage: Stage, chance: float) -> None:
    """kill -9 of one process that works for the job: a worker, or Prism. The job notices, and ends."""
    before = [job.run for job in stage.jobs]
    for job in stage.jobs:
        children = job.run.children()
        if not children:
            raise RuntimeError(f"{job.name} has no children to kill")
        with suppress(ProcessLookupError):
            os.kill(children[int(chance * len(children))], signal.SIGKILL)
    for job, run in zip(stage.jobs, before, strict=True):
        if not _within(60, lambda job=job, run=run: job.run is not run, stage):  # type: ignore[misc]
            stage.tell(f"{job.name} goes on without its child")
        stage.until_reading(job)


def kill_one(stage: Stage, chance: float) -> None:
    """kill -9 of one process that works for the jobs, every other time where they have such, else of the jobs."""
    of_children = chance < 0.5 and all(job.run.children() for job in stage.jobs)
    (kill_children if of_children else kill_jobs)(stage, 2 * chance % 1)


def pause_jobs(stage: Stage, chance: float) -> None:
    """SIGSTOP for 2 to 10 s."""
    runs = [job.run for job in stage.jobs]
    for run in runs:
        run.send(signal.SIGSTOP)
    stage.pass_time(2 + 8 * chance)
    for run in runs:
        run.send(signal.SIGCONT)


def rolling_restart(stage: Stage, chance: float) -> None:
    """Another instance starts, then the first gets SIGTERM: before the other reads, or some seconds later."""
    for job in stage.jobs:
        first = job.run
        job.start()
        if chance < 0.3:
            stage.pass_time(10 * chance)
        else:
            _within(12, job.run.reads, stage)  # it may wait until the first one is gone
            stage.pass_time(4 * chance)
        status = first.end(signal.SIGTERM)
        if status != 0:
            last = (first.said().splitlines() or ["nothing"])[-1]
            stage.tell(f"{job.name}: the first instance ended with status {status}: {last[:300]}")
        stage.until_reading(job)


def other_workers(stage: Stage, chance: float) -> None:
    """The jobs are ended, killed or in good order, and start again with two processes, or with one."""
    for job in stage.jobs:
        job.wanted = False
        job.run.kill() if chance < 0.5 else job.run.end(signal.SIGTERM)
        kept = [word for word in job.command if not word.startswith("--direct_num_workers")]
        job.command = kept if len(kept) < len(job.command) else [*kept, "--direct_num_workers=2"]
    _up(stage)


def second_instance(stage: Stage, chance: float) -> None:
    """A second instance beside the first, for some seconds; then it is killed, or ended in good order."""
    for job in stage.jobs:
        second = job.start_beside()
        _within(15, lambda run=second: not run.running or "writing" in run.said(), stage)  # type: ignore[misc]
        stage.pass_time(1 + 5 * chance)
        if chance < 0.5:
            second.kill()
        else:
            second.end(signal.SIGTERM)
    for job in stage.jobs:
        stage.until_reading(job)


# Brokers.


def kill_leader(stage: KafkaStage, chance: float) -> None:
    """kill -9 of the broker that leads a partition, for 2 to 6 s; then leaders go back to it."""
    partition = int(chance * PARTITIONS)
    broker = stage.world.cluster.leader(stage.topic, partition) or stage.world.cluster.brokers[partition]
    broker.kill()
    stage.pass_time(2 + 4 * chance)
    broker.start()
    stage.world.cluster.settle()
    elect(stage, chance)


def pause_leader(stage: KafkaStage, chance: float) -> None:
    """SIGSTOP of the broker that leads a partition, for longer than an election takes; it comes back as a follower."""
    partition = int(chance * PARTITIONS)
    broker = stage.world.cluster.leader(stage.topic, partition) or stage.world.cluster.brokers[partition]
    broker.pause()
    try:
        stage.pass_time(4 + 4 * chance)
    finally:
        broker.resume()
    stage.world.cluster.settle()


def elect(stage: KafkaStage, chance: float) -> None:
    """Leaders go back to where they were at first."""
    for partition in range(PARTITIONS):
        stage.world.cluster.elect(stage.topic, partition)


def restart_broker(stage: KafkaStage, chance: float) -> None:
    """A broker is stopped in good order and started again, as an upgrade does it."""
    stage.world.cluster.brokers[int(chance * len(stage.world.cluster.brokers))].restart()
    stage.world.cluster.settle()


def kill_brokers(stage: KafkaStage, chance: float) -> None:
    """kill -9 of all brokers at once, for 1 to 4 s."""
    for broker in stage.world.cluster.brokers:
        broker.kill()
    stage.pass_time(1 + 3 * chance)
    stage.world.cluster.start()


# Topics and groups.


def _fill_anew(stage: KafkaStage, chance: float) -> None:
    """Makes the topic anew and fills it, past the old positions where ``chance`` is 0.5 or more."""
    old = max(stage.ends().values()) * PARTITIONS
    stage.make_anew()
    stage.feed.burst(old + 300 if chance >= 0.5 else 100 + int(old * chance))
    stage.feed.go()


def topic_anew(stage: KafkaStage, chance: float) -> None:
    """The topic is deleted and made anew under the live jobs; then fewer, or more, records than it had before."""
    _fill_anew(stage, chance)
    stage.pass_time(3)
    for job in stage.jobs:
        stage.until_reading(job)


def topic_anew_paused(stage: KafkaStage, chance: float) -> None:
    """As before, while the jobs are stopped (SIGSTOP): at once, for them."""
    runs = [job.run for job in stage.jobs]
    for run in runs:
        run.send(signal.SIGSTOP)
    try:
        _fill_anew(stage, chance)
    finally:
        for run in runs:
            run.send(signal.SIGCONT)
    stage.pass_time(3)


def _down(stage: Stage, chance: float) -> None:
    """Ends the jobs, killed or in good order; they stay down."""
    for job in stage.jobs:
        job.wanted = False
        if chance < 0.5:
            job.run.kill()
        else:
            job.run.end()


def _up(stage: Stage) -> None:
    for job in stage.jobs:
        job.wanted = True
    stage.pass_time(0)
    for job in stage.jobs:
        stage.until_reading(job)


def topic_anew_down(stage: KafkaStage, chance: float) -> None:
    """The topic is made anew, and filled past the old position, while the jobs are down."""
    _down(stage, chance)
    _fill_anew(stage, 0.5 + chance / 2)
    _up(stage)


def group_back(stage: KafkaStage, chance: float) -> None:
    """The groups' offsets are set back while the jobs are down."""
    _down(stage, chance)
    for job in stage.jobs:
        assert job.group is not None
        committed = stage.committed(job.group)
        stage.move_group(job, {p: int(max(offset, 0) * chance) for p, offset in committed.items()})
    _up(stage)


def group_deleted(stage: KafkaStage, chance: float) -> None:
    """The groups are deleted while the jobs are down: they begin at --from."""
    _down(stage, chance)
    groups = [job.group for job in stage.jobs if job.group]
    for done in stage.admin.delete_consumer_groups(groups).values():
        with suppress(Exception):  # it has none yet
            done.result(30)
    _up(stage)


def foreign_member(stage: KafkaStage, chance: float) -> None:
    """Another consumer is in the job's group for some seconds, on another topic: no commit of the job succeeds."""
    job = _one(stage, chance)
    settings = {"bootstrap.servers": stage.world.cluster.bootstrap_servers, "session.timeout.ms": 6000, "log_level": 0}
    foreign = Consumer({**settings, "group.id": job.group, "enable.auto.commit": False})
    foreign.subscribe(["reference"])
    end = time.monotonic() + 6 + 6 * chance
    while time.monotonic() < end:
        foreign.poll(0.1)
        stage.pass_time(0.2)
    foreign.close()


# The network, services.


def network(what: Trouble, stage: KafkaStage, chance: float) -> None:
    """Trouble between the jobs and every broker, for 2 to 6 s."""
    _trouble(stage.world.proxies, what, stage, chance)


def service(what: Trouble, stage: PubSubStage, chance: float) -> None:
    """Trouble between the jobs and Pub/Sub, for 2 to 6 s."""
    _trouble([stage.proxy], what, stage, chance)


def storage(what: Trouble, stage: Stage, chance: float) -> None:
    """Trouble between the job and Cloud Storage, for 2 to 6 s."""
    _trouble([stage.world.storage[1]], what, stage, chance)


def archive_away(stage: Stage, chance: float) -> None:
    """An archive's folder is gone, as a mount that is lost, until the bundle that writes there has failed."""
    (job,) = stage.jobs
    folder, aside = stage.folder / "archive", stage.folder / "aside"
    job.wanted = False  # not started again while nothing can be written
    folder.rename(aside)
    folder.touch()
    try:
        failed = _within(60, lambda: not job.run.running, stage)
    finally:
        folder.unlink()
        aside.rename(folder)
    if not failed or not job.run.process.returncode:
        raise RuntimeError(f"{job.name} goes on without its archive: {job.run.said().splitlines()[-1:]}")
    stage.tell(f"{job.name}: a bundle failed: {job.run.said().splitlines()[-1][:200]}")
    _up(stage)


def kill_storage(stage: Stage, chance: float) -> None:
    """Cloud Storage is killed, and started again after 2 to 6 s."""
    emulator, _ = stage.world.storage
    emulator.stop()
    stage.pass_time(2 + 4 * chance)
    emulator.start()


def _trouble(proxies: list[Proxy], what: Trouble, stage: Stage, chance: float) -> None:
    for proxy in proxies:
        proxy.trouble = what
    try:
        stage.pass_time(2 + 4 * chance)
    finally:
        for proxy in proxies:
            proxy.trouble = "none"


def _within(seconds: float, done: Callable[[], bool], stage: Stage) -> bool:
    """Whether it is done within the time."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        stage.pass_time(0.2)
    return True
