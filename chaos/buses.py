"""Stages on Kafka and on Pub/Sub."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from chaos.events import Event
from chaos.feed import RATE, Feed, KafkaSender, PubSubSender
from chaos.job import Job
from chaos.outputs import Entries, KafkaOutputs, Place, PubSubOutputs, of_kafka, of_pubsub
from chaos.proxy import Proxy
from chaos.stage import JobSpec, Stage
from tests.integration.pubsub_topics import PubSubTopics
from tests.services.pubsub import EMULATOR, PROJECT

Answer = TypeVar("Answer")

PARTITIONS = 3
_ANSWER_S = 60.0


class KafkaStage(Stage):
    """Jobs that read a topic of three partitions on three brokers."""

    rate: float = RATE

    def _open(self) -> Feed:
        cluster = self.world.cluster
        self.topic = f"events-{self.run}"
        self.admin = AdminClient({"bootstrap.servers": cluster.bootstrap_servers, "log_level": 0})
        self._read: dict[str, tuple[Entries, str]] = {}
        cluster.create(self.topic, PARTITIONS)
        return Feed(self._sender(), self.events(), self.taken, self.rate)

    def _sender(self) -> KafkaSender:
        return KafkaSender(self.world.cluster.bootstrap_servers, self.topic, PARTITIONS)

    def _servers(self, spec: JobSpec) -> str:
        if spec.proxied:
            return ",".join(proxy.address for proxy in self.world.proxies)
        return self.world.cluster.bootstrap_servers

    def _addresses(self, spec: JobSpec) -> list[str]:
        return [
            *("--input", f"kafka://{self._servers(spec)}/{self.topic}"),
            *("--from", "earliest", "--group_id", self.group(spec)),
        ]

    def _outputs(self, name: str, kinds: Mapping[str, str], entries: Entries) -> list[str]:
        flags = []
        topics = {flag: f"{kind}-{name}-{self.run}" for flag, kind in kinds.items()}
        wanted = [NewTopic(topic, 1) for topic in topics.values()]
        for done in self.admin.create_topics(wanted).values():
            done.result(_ANSWER_S)
        self.world.cluster.settle()
        servers = self.world.cluster.bootstrap_servers
        for flag, topic in topics.items():
            flags += [flag, f"kafka://{servers}/{topic}"]
        self.outputs.append(KafkaOutputs(servers, {topics[flag]: (entries, kind) for flag, kind in kinds.items()}))
        return flags

    def _place(self) -> Place:
        return of_kafka

    @property
    def positions(self) -> list[TopicPartition]:
        return [TopicPartition(self.topic, partition) for partition in range(PARTITIONS)]

    def committed(self, group: str) -> dict[int, int]:
        """The group's position in each partition; -1 where it has none."""
        asked = ConsumerGroupTopicPartitions(group, self.positions)
        answer = _insist(lambda: self.admin.list_consumer_group_offsets([asked])[group].result(_ANSWER_S))
        return {p.partition: p.offset for p in answer.topic_partitions}

    def ends(self) -> dict[int, int]:
        """The end of each partition."""

        def ask() -> dict[int, int]:
            asked = self.admin.list_offsets(dict.fromkeys(self.positions, OffsetSpec.latest()))
            return {p.partition: done.result(_ANSWER_S).offset for p, done in asked.items()}

        return _insist(ask)

    def uncommitted(self, job: Job) -> int:
        assert job.group is not None
        committed = self.committed(job.group)
        return sum(end - max(committed[p], 0) for p, end in self.ends().items())

    def move_group(self, job: Job, to: Mapping[int, int]) -> None:
        """Sets the group's offsets, as an operator does while the job is down."""
        assert job.group is not None
        wanted = [TopicPartition(self.topic, p, offset) for p, offset in to.items()]
        asked = ConsumerGroupTopicPartitions(job.group, wanted)
        _insist(lambda: self.admin.alter_consumer_group_offsets([asked])[job.group].result(_ANSWER_S))

    def make_anew(self) -> None:
        """Deletes the topic with all that is on it, and makes one of the same name."""
        self.feed.hold()
        self.admin.delete_topics([self.topic])[self.topic].result(_ANSWER_S)
        new = [NewTopic(self.topic, PARTITIONS)]
        _insist(lambda: self.admin.create_topics(new)[self.topic].result(_ANSWER_S))  # the old one is on its way out
        for ledger in self.ledgers:
            ledger.pardon()
        self.world.cluster.settle()
        self.feed.sender = self._sender()


def _insist(ask: Callable[[], Answer]) -> Answer:
    """The answer, once the cluster gives it: leaders and coordinators move."""
    deadline = time.monotonic() + _ANSWER_S
    while True:
        try:
            return ask()
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


class WindowsStage(KafkaStage):
    """Jobs whose SQL has windows, and that write features; events last longer than the faults."""

    rate = 50

    def _sender(self) -> KafkaSender:
        return KafkaSender(self.world.cluster.bootstrap_servers, self.topic, PARTITIONS, by_key=True)

    def events(self) -> Iterator[Event]:
        yield from self.world.remembered

    @property
    def use_case(self) -> str:
        return str(self.world.memory)

    @property
    def content(self) -> list[str]:
        return []


class PubSubStage(Stage):
    """Jobs that each have a subscription of their own to one topic."""

    def _open(self) -> Feed:
        self.proxy = Proxy(self.world.pubsub.address)
        self.topics = PubSubTopics(PROJECT)
        return Feed(PubSubSender(self.topics), self.events(), self.taken)

    def _addresses(self, spec: JobSpec) -> list[str]:
        name = self.group(spec)
        self.topics.subscribe(name, "events")
        return ["--input", self.topics.uri(name)]

    def _outputs(self, name: str, kinds: Mapping[str, str], entries: Entries) -> list[str]:
        flags = []
        for flag, kind in kinds.items():
            topic = f"{kind}-{name}"
            self.topics.create(topic)
            flags += [flag, self.topics.uri(topic)]
        self.outputs.append(PubSubOutputs(self.topics, {f"{kind}-{name}": (entries, kind) for kind in kinds.values()}))
        return flags

    def _environment(self, spec: JobSpec) -> dict[str, str]:
        return {EMULATOR: self.proxy.address} if spec.proxied else {}

    def _place(self) -> Place:
        return of_pubsub

    def close(self) -> None:
        super().close()
        self.proxy.close()
