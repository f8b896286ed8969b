"""Fixtures of every test: brokers and runners are started on first use only."""

from hypothesis import HealthCheck, settings

from tests.services.dataflow import dataflow_service
from tests.services.gcs import bucket, gcs_emulator
from tests.services.google import no_credentials, secret_server, tokens
from tests.services.kafka import apache_kafka, embedded, kafka_cluster, own_apache_kafka
from tests.services.prism import prism_binary
from tests.services.pubsub import pubsub, pubsub_server

__all__ = [
    "apache_kafka",
    "bucket",
    "dataflow_service",
    "embedded",
    "gcs_emulator",
    "kafka_cluster",
    "no_credentials",
    "own_apache_kafka",
    "prism_binary",
    "pubsub",
    "pubsub_server",
    "secret_server",
    "tokens",
]

# Tests share two cores with brokers and runners: how long an example takes says nothing.
settings.register_profile("highbeam", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("highbeam")
