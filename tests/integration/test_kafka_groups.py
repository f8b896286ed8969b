"""Groups a user may not commit to, and groups that others are in: said before the start, or ending the job."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from beam_jobs.errors import UserError
from beam_jobs.io.kafka import source as kafka_source
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.client import KafkaTransport, check_group
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.source import SESSIONS, KafkaReader, KafkaSource
from beam_jobs.io.position import EARLIEST
from tests.contract.reads import numbered, opened, read
from tests.services.kafka import SASL_PASSWORD, SASL_USER, SharedBroker
from tests.services.kafka_cluster import RealCluster

pytestmark = pytest.mark.integration


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KafkaConfig]:
    """Of a user with no more rights than it is given."""
    monkeypatch.setenv("KAFKA_PASSWORD", SASL_PASSWORD)
    properties = tmp_path / "client.properties"
    properties.write_text(
        f"security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.username={SASL_USER}\n"
        "sasl.password=env:KAFKA_PASSWORD\n"
    )
    yield KafkaConfig.from_file(properties)
    SESSIONS.close_all()


@pytest.fixture
def deny(apache_kafka: SharedBroker) -> Callable[[str], None]:
    """Takes READ on a group from the user."""
    admin = AdminClient({"bootstrap.servers": apache_kafka.bootstrap_servers})

    def now(group_id: str) -> None:
        denied = AclBinding(
            ResourceType.GROUP,
            group_id,
            ResourcePatternType.LITERAL,
            f"User:{SASL_USER}",
            "*",
            AclOperation.READ,
            AclPermissionType.DENY,
        )
        admin.create_acls([denied])[denied].result()

    return now


def read_and_commit(reader: KafkaReader) -> None:
    """For ever."""
    while True:
        read(reader, lambda rows: True)
        reader.get_checkpoint_mark().finalize_checkpoint()


def test_a_group_one_may_not_commit_to_is_refused_before_the_start(
    apache_kafka: SharedBroker, config: KafkaConfig, deny: Callable[[str], None]
) -> None:
    address, group_id = KafkaAddress(apache_kafka.sasl_servers, "any"), f"denied-{uuid.uuid4().hex[:8]}"
    check_group(address, config, group_id)
    deny(group_id)
    with pytest.raises(UserError, match=f"no permission to commit offsets; grant this user READ on group {group_id}"):
        check_group(address, config, group_id)


def test_a_group_with_members_is_refused_before_the_start(apache_kafka: SharedBroker) -> None:
    cluster, group_id = RealCluster(apache_kafka.bootstrap_servers, "wire"), f"taken-{uuid.uuid4().hex[:8]}"
    topic = cluster.create()
    address = KafkaAddress(apache_kafka.bootstrap_servers, topic)
    with cluster.join(group_id, topic), pytest.raises(UserError, match=rf"group {group_id} has 1 members \(rdkafka on"):
        check_group(address, KafkaConfig(), group_id)


def test_a_right_that_is_taken_away_ends_the_job(
    apache_kafka: SharedBroker, config: KafkaConfig, deny: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_source, "_REFUSED_S", 0.0)
    cluster, group_id = RealCluster(apache_kafka.bootstrap_servers, "wire"), f"lost-{uuid.uuid4().hex[:8]}"
    topic = cluster.create()
    cluster.write(topic, numbered(10))
    transport = KafkaTransport(KafkaAddress(apache_kafka.sasl_servers, topic), config, group_id)
    reader = opened(KafkaSource(transport, start=EARLIEST, discover_s=0.1))
    read(reader, lambda rows: len(rows) >= 10)
    reader.get_checkpoint_mark().finalize_checkpoint()
    with transport.control() as control:
        control.commit(None, 10)
    assert cluster.group_offsets(group_id, topic) == {0: 10}
    deny(group_id)
    cluster.write(topic, numbered(5))
    with pytest.raises(UserError, match=r"grant this user READ on the group .*; a restart reads on from 0:10"):
        read_and_commit(reader)
    reader.close()
    with pytest.raises(UserError, match="access denied"):
        opened(KafkaSource(transport, start=EARLIEST))
