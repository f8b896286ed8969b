"""Several Apache Kafka brokers on this machine: replicated topics, elections, a broker that dies or hangs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from confluent_kafka import ElectionType, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ClusterMetadata, NewTopic

from beam_jobs.errors import UserError
from beam_jobs.sandbox.process import START_TIMEOUT_S
from demo.broker import ApacheKafka

_HEAP_MB = 256


class ApacheKafkaCluster:
    """Brokers that are controllers too: a majority of them keeps the cluster alive. A context manager::

        with ApacheKafkaCluster() as cluster:
            cluster.brokers[0].kill()  # or stop, pause, resume, start
            cluster.settle()

    New topics, the offsets of groups among them, are on three brokers and take writes while two have them.

    Args:
      count: of brokers.
      settings: broker properties on top of ours, for each of them.
    """

    def __init__(self, count: int = 3, settings: Mapping[str, str] | None = None) -> None:
        copies, in_sync = str(min(3, count)), str(min(2, count))
        common = {
            "default.replication.factor": copies,
            "min.insync.replicas": in_sync,
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": in_sync,
            "broker.session.timeout.ms": "3000",
            "replica.lag.time.max.ms": "3000",
            "leader.imbalance.check.interval.seconds": "5",  # leaders go back to a broker that came back
            **(settings or {}),
        }
        self.brokers = [ApacheKafka(common, heap_mb=_HEAP_MB) for _ in range(count)]
        voters = ",".join(f"{i}@127.0.0.1:{broker.controller_port}" for i, broker in enumerate(self.brokers, 1))
        for i, broker in enumerate(self.brokers, 1):
            broker.settings |= {"node.id": str(i), "controller.quorum.voters": voters}
            broker.cluster_id = self.brokers[0].cluster_id

    @property
    def bootstrap_servers(self) -> str:
        """All brokers: any one of them may be away."""
        return ",".join(broker.bootstrap_servers for broker in self.brokers)

    def start(self) -> None:
        """Starts all brokers and returns when each knows the others.

        Raises:
          UserError: one ended or did not answer within a minute.
        """
        with ThreadPoolExecutor(len(self.brokers)) as pool:
            list(pool.map(ApacheKafka.launch, self.brokers))
            list(pool.map(ApacheKafka.wait, self.brokers))
        self.settle()

    def settle(self) -> None:
        """Returns when every broker knows of all others, and of the leader and all replicas of every partition.

        Raises:
          UserError: not within a minute.
        """
        self._until(lambda _: True)

    def _until(self, more: Callable[[ClusterMetadata], bool]) -> None:
        """Returns when each broker by itself says that the cluster has settled, and what ``more`` asks for."""
        deadline = time.monotonic() + START_TIMEOUT_S
        for broker in self.brokers:
            while True:
                try:
                    found = _admin(broker.bootstrap_servers).list_topics(timeout=5)
                except KafkaException:
                    found = None
                if found is not None and len(found.brokers) == len(self.brokers) and more(found):
                    partitions = [p for topic in found.topics.values() for p in topic.partitions.values()]
                    if all(p.leader >= 0 and len(p.isrs) == len(p.replicas) for p in partitions):
                        break
                if time.monotonic() > deadline:
                    raise UserError(f"the cluster did not settle; see {', '.join(str(b.log) for b in self.brokers)}")
                time.sleep(0.1)

    def create(self, topic: str, partitions: int = 1) -> None:
        """Makes a topic, and returns when it can be written to."""
        admin = _admin(self.bootstrap_servers)  # kept until its answer has come
        admin.create_topics([NewTopic(topic, partitions)])[topic].result(30)
        self._until(lambda found: topic in found.topics and len(found.topics[topic].partitions) == partitions)

    def leader(self, topic: str, partition: int = 0) -> ApacheKafka | None:
        """The broker that leads a partition, as the cluster tells now; None while an election is on."""
        found = _admin(self.bootstrap_servers).list_topics(topic, 10).topics[topic].partitions[partition].leader
        return self.brokers[found - 1] if found > 0 else None

    def elect(self, topic: str, partition: int = 0) -> None:
        """Gives a partition back to its first replica; does nothing where that one leads."""
        admin = _admin(self.bootstrap_servers)
        admin.elect_leaders(ElectionType.PREFERRED, [TopicPartition(topic, partition)]).result(30)

    def close(self) -> None:
        """Kills all brokers and deletes their data."""
        for broker in self.brokers:
            broker.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _admin(bootstrap_servers: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
