"""Fixtures of every test: brokers and runners are started on first use only."""

from tests.kafka_broker import apache_kafka, embedded, own_apache_kafka, prism_binary

__all__ = ["apache_kafka", "embedded", "own_apache_kafka", "prism_binary"]
