"""Where an epoch ends: told, never to be had, or not to be had now."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from confluent_kafka import KafkaError, KafkaException

from beam_jobs.io.kafka.wire import protocol
from beam_jobs.io.kafka.wire.epochs import epoch_end
from tests.services.wire_broker import Broker
from tests.unit.io.kafka.wire.test_fetcher import once, settings


@pytest.fixture
def broker() -> Iterator[Broker]:
    broker = Broker(once({}))
    yield broker
    broker.close()


def asked(broker: Broker, **more: str) -> int | None:
    return epoch_end({**settings(broker.port), **more}, "t", 0, 5, 0.3)


def test_it_is_told(broker: Broker) -> None:
    assert asked(broker) == 80


def test_it_is_never_to_be_had(broker: Broker) -> None:
    broker.epoch_end = 0, -1  # the records of that epoch are deleted
    assert asked(broker) is None
    broker.epoch_end = 0, 80
    assert asked(broker, **{"security.protocol": "sasl_plaintext", "sasl.mechanisms": "GSSAPI"}) is None
    for versions in ((0, 2), (4, 9)):
        broker.versions[protocol.EPOCH_END] = versions
        assert asked(broker) is None
    del broker.versions[protocol.EPOCH_END]
    assert asked(broker) is None


def test_any_code_is_no_answer_yet(broker: Broker) -> None:
    for code in [-1, *range(1, 136)]:
        broker.epoch_end = code, 80
        with pytest.raises(KafkaException) as raised:
            asked(broker)
        assert raised.value.args[0].code() == code


@pytest.mark.parametrize("leader", ["nobody", "refuses", "silent", "hangs up", "leaves it out", "all are away"])
def test_no_answer_is_no_answer_yet(broker: Broker, leader: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as gone:
        broker.others = {2: gone.getsockname()[1], 3: silent.getsockname()[1]}
        gone.close()
        broker.leaders = {"nobody": {0: -1}, "refuses": {0: 2}, "silent": {0: 3}}.get(leader, {})
        broker.hang_up = leader == "hangs up"
        if leader == "leaves it out":
            broker.epoch_end = None
        if leader == "all are away":
            broker.close()
        with pytest.raises(KafkaException) as raised:
            asked(broker)
    assert raised.value.args[0].code() == KafkaError._TRANSPORT
    assert "\n" not in raised.value.args[0].str()
