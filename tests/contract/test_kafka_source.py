"""The contract of the Kafka source, on every cluster and fetch path there is."""

from __future__ import annotations

import pytest

from beam_jobs.sandbox.process import Tansu
from tests.contract.batches import BatchesContract
from tests.contract.positions import PositionsContract
from tests.contract.suite import KafkaContract
from tests.services.fake_kafka import FakeCluster
from tests.services.kafka import SharedBroker
from tests.services.kafka_cluster import Cluster, RealCluster

PATHS = ["wire", "client"]


class TestFake(KafkaContract, PositionsContract):
    @pytest.fixture
    def cluster(self) -> Cluster:
        return FakeCluster()


@pytest.mark.parametrize("fetch", PATHS)
class TestTansu(KafkaContract, PositionsContract):
    transactions = False
    exact_ends = False
    topic_ids = False
    members = False

    @pytest.fixture
    def cluster(self, embedded: Tansu, fetch: str) -> Cluster:
        return RealCluster(embedded.bootstrap_servers, fetch)


@pytest.mark.integration
@pytest.mark.parametrize("fetch", PATHS)
class TestApacheKafka(KafkaContract, PositionsContract, BatchesContract):
    @pytest.fixture
    def cluster(self, apache_kafka: SharedBroker, fetch: str) -> Cluster:
        return RealCluster(apache_kafka.bootstrap_servers, fetch, apache_kafka.logs)
