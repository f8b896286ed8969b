"""The scenarios: which jobs, under which faults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from chaos import faults
from chaos.buses import KafkaStage, PubSubStage, WindowsStage
from chaos.faults import Fault, Planned
from chaos.stage import JobSpec, Stage
from chaos.world import World

SCORE, ARCHIVE = JobSpec("score"), JobSpec("archive")
BOTH = (SCORE, ARCHIVE)
TWO = ("--direct_num_workers=2",)
CLIENT = ("--fetch", "client")
UNTIL = ("--until", "latest")


@dataclass(frozen=True)
class Scenario:
    """Attributes:
    rounds: how many times the faults are run through, each time in another order.
    """

    name: str
    jobs: Sequence[JobSpec]
    faults: Sequence[Fault]
    rounds: int = 1
    stage: type[Stage] = KafkaStage

    def prepare(self, world: World) -> None:
        """Starts what it needs, so that this takes none of its time; skips it (NotHereError) where that is not here."""
        _ = world.cluster
        _ = world.remembered if self.stage is WindowsStage else world.events
        if self.stage is PubSubStage:
            _ = world.pubsub
        if any(job.cloud for job in self.jobs):
            _ = world.storage
        if any(job.runner == "PrismRunner" for job in self.jobs):
            _ = world.prism

    def __str__(self) -> str:
        jobs = ", ".join(" ".join([job.name, *(["on gs://"] if job.cloud else []), *job.more]) for job in self.jobs)
        return f"{jobs}: {', '.join(str(Planned(0, fault, 0)) for fault in self.faults)}"

    def plan(self, chance: Random) -> list[Planned]:
        """The schedule: a function of the seed alone."""
        return [
            Planned(chance.uniform(0.2, 2.5), fault, chance.random())
            for _ in range(self.rounds)
            for fault in chance.sample(self.faults, len(self.faults))
        ]


SCENARIOS = [
    Scenario("job-killed", BOTH, [faults.kill_jobs], 2),
    Scenario("child-killed", (JobSpec("score", more=TWO), JobSpec("archive", more=TWO)), [faults.kill_children]),
    Scenario("job-paused", BOTH, [faults.pause_jobs], 2),
    Scenario("rolling-restart", BOTH, [faults.rolling_restart], 2),
    Scenario("two-at-once", (ARCHIVE,), [faults.second_instance], 2),
    Scenario("elections", BOTH, [faults.kill_leader, faults.elect, faults.pause_leader]),
    Scenario(
        "elections-client",
        (JobSpec("score", more=CLIENT), JobSpec("archive", more=CLIENT)),
        [faults.kill_leader, faults.pause_leader],
    ),
    Scenario("broker-restarted", BOTH, [faults.restart_broker]),
    Scenario("brokers-killed", BOTH, [faults.kill_brokers]),
    Scenario("topic-anew", BOTH, [faults.topic_anew, faults.topic_anew_paused]),
    Scenario("topic-anew-down", BOTH, [faults.topic_anew_down]),
    Scenario("group-moved", BOTH, [faults.group_back, faults.group_deleted]),
    Scenario("group-shared", BOTH, [faults.foreign_member]),
    Scenario(
        "network",
        (JobSpec("score", proxied=True), JobSpec("archive", proxied=True, more=CLIENT)),
        [partial(faults.network, what) for what in ("reset", "half", "delay", "silence")],
    ),
    Scenario("backfill-in-parts", (JobSpec("score", more=UNTIL), JobSpec("archive", more=UNTIL)), [faults.kill_jobs]),
    Scenario(
        "storage-away",
        (JobSpec("archive", cloud=True),),
        [faults.kill_storage, *(partial(faults.storage, what) for what in ("unavailable", "reset", "half"))],
    ),
    Scenario("storage-rolling", (JobSpec("archive", cloud=True),), [faults.rolling_restart, faults.kill_jobs]),
    Scenario("prism", (JobSpec("score", "PrismRunner"),), [faults.kill_jobs, faults.kill_leader]),
    Scenario("prism-archive", (JobSpec("archive", "PrismRunner"),), [faults.kill_children, faults.pause_jobs]),
    Scenario(
        "windows",
        (ARCHIVE,),
        [
            *(5 * [faults.kill_one, faults.archive_away]),
            *(faults.other_workers, faults.restart_broker, faults.kill_leader, faults.rolling_restart),
        ],
        stage=WindowsStage,
    ),
    Scenario("windows-child-killed", (JobSpec("archive", more=TWO),), [faults.kill_children], 2, stage=WindowsStage),
    Scenario("pubsub-killed", BOTH, [faults.kill_jobs], stage=PubSubStage),
    Scenario(
        "pubsub-away",
        (JobSpec("score", proxied=True), JobSpec("archive", proxied=True)),
        [partial(faults.service, what) for what in ("reset", "delay", "silence")],
        stage=PubSubStage,
    ),
    Scenario("pubsub-rolling", BOTH, [faults.rolling_restart], stage=PubSubStage),
]
