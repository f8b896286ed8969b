"""The command lines of what one begins with; without what those commands import, for ``--help`` and errors."""

from __future__ import annotations

import argparse

from beam_jobs.terminal import flags


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


def init(parser: argparse.ArgumentParser) -> None:
    """Adds those of ``highbeam init``."""
    add = parser.add_argument
    add(
        "source",
        metavar="SOURCE",
        help="a file (.csv, .tsv, .jsonl, .ndjson, .parquet, .avro), a topic (kafka://host:9092/topic) or a registry's "
        "subject (http://registry:8081/subjects/NAME)",
    )
    add("--output", required=True, metavar="FOLDER", help="the use case's folder, whose name is the use case's")
    add("--overwrite", action="store_true", help="write over the files of a use case that is there already")
    add("--key", metavar="COLUMN", help="names the device or account; none: all rows are of one. Default: guessed")
    add("--event_time", metavar="COLUMN", help="the time of the event; default: guessed")
    add("--label", metavar="COLUMN", help="says what failed, never a feature; none: there is none. Default: guessed")
    add(
        "--delimiter",
        metavar="CHARACTER",
        help="what parts the columns of a CSV file; default: what makes most of them",
    )
    add("--time_format", metavar="FORMAT", help="of the times in a CSV file; default: ISO 8601 or since 1970")
    add("--events", action="store_true", help="write the rows of a file as events too, to be replayed")
    _connection(parser)
    _verbose(parser)


def preview(parser: argparse.ArgumentParser) -> None:
    """Adds those of ``highbeam preview``."""
    add = parser.add_argument
    add("--use_case", required=True, metavar="NAME", help="a use case that ships (car_sensors), or the folder of one")
    add(
        "--input",
        required=True,
        metavar="URI",
        help="events: a topic (kafka://host:9092/topic), an archive, or files, as training takes them",
    )
    flags.lateness(parser)
    add("--rows", type=int, default=20_000, metavar="N", help="to look at; of a topic the newest; default: %(default)s")
    add(
        "--history",
        type=int,
        default=1_000_000,
        metavar="N",
        help="of a topic, records before them that are read at most where the SQL has windows; default: %(default)s",
    )
    add(
        "--max_refused",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="exit status 1 where more than this share of the rows is refused; default: %(default)s",
    )
    add("--explain", action="store_true", help="say how each expression and window was compiled, and what it takes")
    add("--html", metavar="FILE", help="write a page with all of it, which needs nothing beside it")
    add("--watch", action="store_true", help="run again whenever a file of the use case is saved, until Ctrl-C")
    _connection(parser)
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


def feedback(parser: argparse.ArgumentParser) -> None:
    """Adds those of ``highbeam feedback``."""
    add = parser.add_argument
    add("topic", metavar="URI", help="what people said of alerts: kafka://host:9092/feedback")
    add("--use_case", required=True, metavar="NAME", help="of the events, whose schema tags a field as the label")
    add(
        "--output",
        required=True,
        metavar="FOLDER",
        help="folder of labels, local or gs://, for highbeam train --labels; what it holds is not written again",
    )
    add("--events", metavar="URI", help="topic of the events, for labels that windows of a job are to see")
    add("--label_topic", metavar="URI", help="topic for those labels, as --label_topic of score and archive reads it")
    _connection(parser)
    _verbose(parser)


def _connection(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--schema_registry", metavar="URL", help="the Schema Registry of the topic, if it has one")
    add("--kafka_config", metavar="FILE", help="client.properties, as jobs take it (docs/kafka.md)")


def _verbose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--verbose", action="store_true", help="show stack traces")
