"""The options of the jobs, one class a concern; Beam's own are in its ``pipeline_options``.

Nothing here imports Beam, which takes seconds: ``--help`` and a mistyped option must not wait for it. ``options.py``
makes Beam's option classes of these.
"""

from __future__ import annotations

import argparse

_BLOCK_ROWS = 32768  # block.MAX_BLOCK_ROWS, whose module needs Beam

_REFERENCE = "env:NAME, file:PATH or secret://projects/P/secrets/S/versions/V"
MODEL_KEY_HELP = (
    f"public key (Ed25519, PEM) that must have signed the version, as {_REFERENCE}. Default: none is asked for"
)
SIGNING_KEY_HELP = f"private key (Ed25519, PEM) to sign the version with, as {_REFERENCE}"

# Numbers that Beam's Flink runner takes and Beam in Python does not know (docs/operations.md).
OF_FLINK = ("checkpointing_interval", "max_bundle_size", "max_bundle_time_mills")

# Beam puts the flags of all option classes into one parser: each flag is declared once, for all jobs that have it. What
# it means for one job alone is said in commands.py.


class Input:
    """Where events come from and which part of it."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse._ActionsContainer) -> None:
        parser.add_argument(
            "--input",
            metavar="URI",
            help="events: kafka://host:9092[,host2:9092]/topic, pubsub://project/subscription-or-topic, or an archive: "
            "gs://bucket/folder, file:///folder",
        )
        parser.add_argument(
            "--from",
            dest="start_from",
            metavar="WHERE",
            help="start at: earliest, latest, a time (2026-11-22T07:00:00Z or epoch milliseconds) or "
            "partition:offset pairs (0:100,1:250). Offsets committed for --group_id win over it. "
            "Default: latest; earliest when --until is given. Of an archive: a time, the events' own. A Pub/Sub "
            "subscription goes on where it stands; a time sets a new one, or with --until any, to that time",
        )
        parser.add_argument(
            "--until",
            metavar="WHERE",
            help="stop there (same forms; latest = the end as of now) and exit; without it the job runs on. Pub/Sub: "
            "latest or a time, by publish time",
        )
        parser.add_argument(
            "--group_id",
            metavar="ID",
            help="consumer group: its offsets are committed, and a restarted job resumes from them. "
            "Default: highbeam.JOB.USE_CASE when streaming, none for a bounded run. With a Pub/Sub topic as --input: "
            "the subscription, made if it is missing (default: highbeam.JOB.USE_CASE.TOPIC)",
        )
        parser.add_argument(
            "--fetch",
            choices=["auto", "client", "wire"],
            default="auto",
            help="how records are fetched: wire reads Kafka's protocol, client goes through confluent-kafka; auto "
            "takes wire where it understands the settings of --kafka_config",
        )
        parser.add_argument(
            "--kafka_io",
            choices=["native", "java"],
            default="native",
            help="who reads Kafka: this source, on every runner, or Beam's ReadFromKafka in Java, for live scoring on "
            "Dataflow and Flink (docs/kafka.md)",
        )
        parser.add_argument(
            "--max_latency_ms",
            type=float,
            default=100.0,
            metavar="MS",
            help="what a live job aims at from a record's timestamp to its output: blocks are kept small enough for it "
            "(default 100)",
        )
        parser.add_argument(
            "--block_rows",
            type=int,
            default=_BLOCK_ROWS,
            metavar="N",
            help=f"most records in one block (default {_BLOCK_ROWS})",
        )


class Connection:
    """How brokers and the Schema Registry are reached."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse._ActionsContainer) -> None:
        parser.add_argument(
            "--kafka_config",
            metavar="FILE",
            help="client.properties with the client's own names (security.protocol, sasl.*, ssl.*); "
            "secrets as env:NAME, file:PATH or secret://projects/P/secrets/S/versions/V",
        )
        parser.add_argument(
            "--input_kafka_config",
            metavar="FILE",
            help="client.properties for --input alone, where it is another cluster than the outputs. Default: that of "
            "--kafka_config",
        )
        parser.add_argument(
            "--output_kafka_config",
            metavar="FILE",
            help="client.properties for all that is written to, dead letters too, where it is another cluster than "
            "--input. Default: that of --kafka_config",
        )
        parser.add_argument(
            "--schema_registry",
            metavar="URL",
            help="Confluent Schema Registry; without it the schema of the use case is taken for every schema id",
        )
        parser.add_argument(
            "--preflight",
            choices=["strict", "reachable", "off"],
            help="what is asked of brokers, registry and Pub/Sub before the start: strict wants every answer, "
            "reachable says who does not answer this machine and leaves them to the workers, off asks nobody. Default: "
            "strict; on Dataflow reachable",
        )
        parser.add_argument(
            "--create_topics", action="store_true", help="create missing output topics (1 partition) instead of failing"
        )


class PubSub:
    """Pub/Sub as the input."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse._ActionsContainer) -> None:
        parser.add_argument(
            "--timestamp_attribute",
            metavar="NAME",
            help="attribute with a message's time (epoch milliseconds or RFC 3339). Default: its publish time",
        )
        parser.add_argument(
            "--quiet_seconds",
            type=float,
            default=30.0,
            metavar="S",
            help="with --until: the end is where no message has come for so long (default 30; leases of a killed job "
            "take 20 to run out)",
        )
        parser.add_argument(
            "--dedupe_seconds",
            type=float,
            default=600.0,
            metavar="S",
            help="a message that comes again within this time is dropped (default 600)",
        )
        parser.add_argument(
            "--pull_streams",
            type=int,
            default=1,
            metavar="N",
            help="streams that messages come over, about 10 MB/s each (default 1)",
        )


class UseCase:
    """What kind of events."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse._ActionsContainer) -> None:
        parser.add_argument(
            "--use_case", metavar="NAME", help="a shipped use case (car_sensors) or a folder with use_case.yaml"
        )


class Output:
    """Where the output goes."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse._ActionsContainer) -> None:
        parser.add_argument(
            "--output",
            metavar="URI",
            help="topic the records are put on",
        )


class Score:
    """What scores events, and where the results go."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse._ActionsContainer) -> None:
        parser.add_argument(
            "--model",
            metavar="DIR[@WHICH]",
            help="a model registry folder, with an alias or a version: models@champion (the default alias)",
        )
        parser.add_argument("--model_key", metavar="REFERENCE", help=MODEL_KEY_HELP)
        parser.add_argument("--alerts", metavar="URI", help="topic for alerts")
        parser.add_argument(
            "--alerts_also", metavar="URI", help="a second topic for all alerts, on the same bus or another (optional)"
        )
        parser.add_argument(
            "--alert_webhook",
            metavar="URL",
            help="where each alert is posted as well, as JSON: https://…, or a reference to it where it is a secret of "
            "its own, as " + _REFERENCE + ". What it does not take is a dead letter (docs/alerts.md)",
        )
        parser.add_argument(
            "--alert_webhook_secret",
            metavar="REFERENCE",
            help="with which posts are signed (HMAC-SHA256, Standard Webhooks), 16 bytes or more, as "
            + _REFERENCE
            + "; further ones on further lines sign too",
        )
        parser.add_argument("--scores", metavar="URI", help="topic for every score (optional)")
        parser.add_argument(
            "--alerts_format",
            choices=["avro", "json"],
            default="avro",
            help="of alerts: avro, with the id of alert.avsc in front, or json, an object with its fields for webhooks "
            "and people: times in epoch milliseconds, null for what is not a number (default avro)",
        )
        parser.add_argument(
            "--alert_budget",
            metavar="N/WHAT",
            help="at most so many alerts, whatever the scores do: 1/1000 of the scored records, 100/day, or 5/1000keys "
            "a day; the threshold then follows the scores of late (docs/alerts.md). Default: the model's threshold",
        )
        parser.add_argument(
            "--alert_cooldown",
            metavar="INTERVAL",
            help="after an alert of a key, write no other one of it for so long in event time, unless it is more "
            "severe; what is kept back is counted. Default: every alert is written",
        )


class Archive:
    """What is archived, and how."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse._ActionsContainer) -> None:
        parser.add_argument(
            "--raw",
            action="store_true",
            help="archive the events as they came, without personal data, instead of what preprocessing makes of them",
        )
        parser.add_argument(
            "--keep_keys",
            action="store_true",
            help="with --raw: keep the records' keys as they came; otherwise the text of the key field stands for a "
            "key that is another, for no schema tells what is personal in it",
        )
        parser.add_argument("--file_format", choices=["avro", "parquet"], default="avro", help="default avro")
        parser.add_argument(
            "--compression",
            choices=["deflate", "zstd", "snappy", "none"],
            help="of the files: deflate (default) or none in Avro, zstd (default), snappy or none in Parquet",
        )
        parser.add_argument(
            "--enrich",
            metavar="FILE",
            help="a lookup table, .csv or .parquet, on gs:// or local: its columns are put beside the rows of its key",
        )
        parser.add_argument(
            "--enrich_on",
            metavar="COLUMN",
            help="the column that rows and lookup table have in common (default: the use case's key)",
        )
        parser.add_argument(
            "--enrich_every",
            type=float,
            default=30.0,
            metavar="SECONDS",
            help="how often the lookup table is looked at; one that changed is loaded anew (default 30)",
        )
        parser.add_argument(
            "--partition_by",
            choices=["hour", "day", "month"],
            help="how much of event time, in UTC, a folder and its files hold; history makes fewer files by day or "
            "month. Default: as the archive has it, hour in a new one",
        )
        parser.add_argument(
            "--route_by",
            metavar="COLUMN",
            help="a text column whose values get folders of their own, above those of event time. Default: as the "
            "archive has it",
        )
        parser.add_argument(
            "--max_file_age",
            type=float,
            default=60.0,
            metavar="SECONDS",
            help="files are finished, and offsets committed, at least this often (default 60)",
        )
        parser.add_argument(
            "--max_file_mb", type=float, default=128.0, metavar="MB", help="a file this large is finished (default 128)"
        )


class Storage:
    """How Cloud Storage (gs://) is reached."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse._ActionsContainer) -> None:
        parser.add_argument(
            "--gcs_anonymous", action="store_true", help="read public gs:// buckets without Google credentials"
        )


class Replay:
    """How fast an archive is put back."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse._ActionsContainer) -> None:
        parser.add_argument(
            "--speed",
            metavar="FACTOR",
            help="pace by event time: 1x as it happened, 10x ten times as fast. Default: as fast as it goes",
        )


class Events:
    """Which records are events."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse._ActionsContainer) -> None:
        parser.add_argument(
            "--tombstones",
            choices=["skip", "dead_letter"],
            default="skip",
            help="records without a value, which say in a compacted topic that their key is deleted: skip counts them "
            "(default), dead_letter makes dead letters of them",
        )
        parser.add_argument(
            "--json_strict",
            action="store_true",
            help="of JSON take integers for times, never ISO 8601, no 1.0 for an int or long, decimals in strings "
            "alone, and no byte order mark",
        )


class Windows:
    """SQL with windows over the past of a key."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse._ActionsContainer) -> None:
        parser.add_argument(
            "--short_history",
            choices=["refuse", "warn"],
            default="refuse",
            help="where the retention of a topic is shorter than the windows of the SQL: refuse (default) ends the "
            "job, warn goes on with what is there, and counts it",
        )
        parser.add_argument(
            "--window_memory_mb",
            type=float,
            default=2048.0,
            metavar="MB",
            help="most that windows of the SQL may hold in the memory of a process (default 2048)",
        )
        parser.add_argument(
            "--window_snapshots",
            default="",
            metavar="FOLDER",
            help="folder, local or gs://, for what windows of the SQL hold, by partition: a rebuild then reads the log "
            "from the newest snapshot on, not from where the windows begin. As private as an archive (default: none "
            "are written)",
        )
        parser.add_argument(
            "--window_snapshot_seconds",
            type=float,
            default=300.0,
            metavar="S",
            help="seconds between two snapshots of a partition (default 300)",
        )
        parser.add_argument(
            "--repartition_topic",
            metavar="URI",
            help="topic through which rows come to the second key of an SQL with windows by two (default: one named "
            "after the group, the key and the SQL, on the brokers of the input); created where it is missing, with as "
            "many partitions as the input",
        )
        parser.add_argument(
            "--label_topic",
            metavar="URI",
            help="topic on which labels come days after their events, on the brokers of the input: records with the "
            "label, the event's time and keys, and whatever else a window that reads the label needs (default: the "
            "events have their labels)",
        )
        lateness(parser)


def lateness(parser: argparse._ActionsContainer) -> None:
    """Adds what says how late rows may be that windows see; whatever computes features takes it."""
    default = "default: the use case's, else"
    parser.add_argument(
        "--window_lateness",
        metavar="INTERVAL",
        help=f"how far behind the newest row of its key a row may be that windows see ({default} 10 minutes)",
    )
    parser.add_argument(
        "--window_delay",
        metavar="INTERVAL",
        help=f"how far behind the newest record the rows of a device may come that was silent ({default} 1 hour)",
    )
    parser.add_argument(
        "--window_clock_skew",
        metavar="INTERVAL",
        help=f"how far ahead of its record's timestamp the time of a row may be ({default} 5 minutes)",
    )
    parser.add_argument(
        "--window_key_rows",
        type=int,
        metavar="N",
        help=f"most rows of a key that windows hold; more end the run ({default} 100,000). Of windows in hop form only "
        "those count that may still have late ones before them",
    )


class DeadLetter:
    """Where records go that no step can handle."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse._ActionsContainer) -> None:
        parser.add_argument("--dead_letters", metavar="URI", help="topic for records that cannot be handled")
        parser.add_argument(
            "--dead_letter_payload",
            choices=["keep", "encrypt", "drop"],
            default="keep",
            help="what they hold of their records, which may be personal data: everything (default), everything "
            "encrypted with --dead_letter_key, or nothing (docs/security.md)",
        )
        parser.add_argument(
            "--max_dead_letter_rate",
            type=float,
            default=0.9,
            metavar="SHARE",
            help="stop the job when more than this share of the last 1,000 or more records is bad (default 0.9; "
            "1 never stops)",
        )


class DeadLetterKey:
    """With what dead letters are encrypted."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse._ActionsContainer) -> None:
        parser.add_argument(
            "--dead_letter_key",
            metavar="REFERENCE",
            help=f"key of encrypted dead letters, 64 hexadecimal digits, as {_REFERENCE}; older ones on further lines",
        )


class Report:
    """What the job says while it runs and at its end."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse._ActionsContainer) -> None:
        parser.add_argument(
            "--progress",
            choices=["auto", "line", "json", "none"],
            default="auto",
            help="once a second on stderr: a status line (auto: only on a terminal) or one JSON object",
        )
        parser.add_argument("--report", metavar="FILE", help="write the closing summary as JSON")
        parser.add_argument(
            "--wait",
            choices=["auto", "yes", "no"],
            default="auto",
            help="Dataflow: wait for the end of the job that was submitted (auto: of one that has an end). Ctrl-C ends "
            "the waiting, not the job",
        )
        parser.add_argument("--verbose", action="store_true", help="log more; show stack traces")


class Redrive:
    """Which dead letters go back, and where."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse._ActionsContainer) -> None:
        parser.add_argument(
            "--reason",
            action="append",
            metavar="NAME",
            help="only dead letters with this reason (may be repeated; default: all)",
        )
        parser.add_argument("--count_only", action="store_true", help="count by reason, write and commit nothing")
