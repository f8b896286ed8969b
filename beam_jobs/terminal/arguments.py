"""The command lines of what one begins with; without what those commands import, for ``--help`` and errors."""

from __future__ import annotations

import argparse


def broker(parser: argparse.ArgumentParser) -> None:
    """Adds those of ``highbeam broker``."""
    add = parser.add_argument
    add("--port", type=int, default=9092, help="of the broker, on 127.0.0.1; default: %(default)s")
    add("--registry_port", type=int, default=8081, help="of the Schema Registry; default: %(default)s")
    add("--topic", default="sensor-data", help="where the cars' events go; default: %(default)s")
    add("--past", type=int, default=100_000, metavar="N", help="events on it from the start; default: %(default)s")
    add(
        "--rate",
        type=float,
        default=200,
        metavar="N",
        help="events/s that go on coming; default: %(default)s",
    )
    _verbose(parser)


def watch(parser: argparse.ArgumentParser) -> None:
    """Adds those of ``highbeam watch``."""
    add = parser.add_argument
    add("topic", metavar="URI", help="the topic: kafka://host:9092/alerts")
    add(
        "--from",
        dest="start_from",
        default="earliest",
        metavar="WHERE",
        help="start at: earliest, latest or a time (2026-11-22T07:00:00Z or epoch milliseconds); default: %(default)s",
    )
    add("--until", metavar="WHERE", help="end there (latest = the end as of now); default: until Ctrl-C")
    add("--count", type=int, metavar="N", help="end after so many")
    add(
        "--format",
        choices=("auto", "table", "json"),
        default="auto",
        help="a table for people, or a line of JSON each; auto: a table on a terminal",
    )
    _connection(parser)
    _verbose(parser)


def _connection(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--schema_registry", metavar="URL", help="the Schema Registry of the topic, if it has one")
    add("--kafka_config", metavar="FILE", help="client.properties, as jobs take it (docs/kafka.md)")


def _verbose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--verbose", action="store_true", help="show stack traces")
