import pytest

from beam_jobs.errors import UserError
from beam_jobs.io.bus import parse
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.pubsub.address import PubSubAddress


def test_servers_and_topic() -> None:
    assert parse("kafka://a:9092,b:9093/sensor-data") == KafkaAddress("a:9092,b:9093", "sensor-data")
    assert parse("kafka://a/t") == KafkaAddress("a:9092", "t")
    assert parse("KAFKA://[::1]:19092/t").bootstrap_servers == "[::1]:19092"


def test_the_uri_comes_back() -> None:
    assert str(parse("kafka://a:1,b/t.x_y-z")) == "kafka://a:1,b:9092/t.x_y-z"


@pytest.mark.parametrize(
    ("uri", "telling"),
    [
        ("a:9092/t", "expected kafka://"),
        ("http://a/t", "expected kafka://"),
        ("kafka://a:9092", "not a topic name"),
        ("kafka://a:9092/", "not a topic name"),
        ("kafka://a:9092/t/u", "not a topic name"),
        ("kafka://a:9092/..", "not a topic name"),
        ("kafka:///t", "not host:port"),
        ("kafka://a:port/t", "not host:port"),
        ("kafka://a:70000/t", "not in 1..65535"),
        ("kafka://a,,b/t", "not host:port"),
        ("pubsub://abc/name", "6 to 30"),
        ("pubsub://Project/name", "not a project id"),
        ("pubsub://my-project-/name", "not a project id"),
        ("pubsub://my-project", "not the name"),
        ("pubsub://my-project/ab", "3 to 255"),
        ("pubsub://my-project/goog-name", "not goog"),
        ("pubsub://my-project/a/b", "not the name"),
        ("pubsub://key@my-project/name", "GOOGLE_APPLICATION_CREDENTIALS"),
    ],
)
def test_what_is_no_address(uri: str, telling: str) -> None:
    with pytest.raises(UserError, match=telling) as raised:
        parse(uri)
    assert "\n" not in str(raised.value)


def test_credentials_are_refused_and_not_repeated() -> None:
    with pytest.raises(UserError, match="--kafka_config") as raised:
        parse("kafka://user:hunter2@a:9092/t")
    assert "hunter2" not in str(raised.value)


def test_pubsub() -> None:
    address = parse("pubsub://my-project/car.events")
    assert address == PubSubAddress("my-project", "car.events")
    assert isinstance(address, PubSubAddress)
    assert str(address) == "pubsub://my-project/car.events"
    assert address.topic_path == "projects/my-project/topics/car.events"
    assert address.subscription_path == "projects/my-project/subscriptions/car.events"
    assert str(parse("pubsub://example.com:my-project/events")) == "pubsub://example.com:my-project/events"


def test_kafka_only() -> None:
    with pytest.raises(UserError, match="expected kafka://"):
        KafkaAddress.parse("pubsub://my-project/events")
