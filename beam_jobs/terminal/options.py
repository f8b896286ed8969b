"""The options of the jobs, one class a concern, and the one place where command lines are parsed and checked.

Beam walks direct subclasses of ``PipelineOptions`` only and drops what it does not know without a word; :func:`parse`
refuses unknown flags instead, with the nearest known one as the remedy.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from typing import TypeVar

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs.block import MAX_BLOCK_ROWS
from beam_jobs.errors import UserError
from beam_jobs.terminal.cli import Parser, say, without_empty

_SWITCH = re.compile(r"(--\w+)=(true|false)", re.IGNORECASE)

OptionsT = TypeVar("OptionsT", bound=PipelineOptions)


class InputOptions(PipelineOptions):
    """Where events come from and which part of it."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
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
            default=MAX_BLOCK_ROWS,
            metavar="N",
            help=f"most records in one block (default {MAX_BLOCK_ROWS})",
        )


class ConnectionOptions(PipelineOptions):
    """How brokers and the Schema Registry are reached."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--kafka_config",
            metavar="FILE",
            help="client.properties with the client's own names (security.protocol, sasl.*, ssl.*); "
            "secrets as env:NAME, file:PATH or secret://projects/P/secrets/S/versions/V",
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


# Beam puts the flags of all option classes into one parser: each flag is declared once, for all jobs that have it.


class PubSubOptions(PipelineOptions):
    """Pub/Sub as the input."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
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


class UseCaseOptions(PipelineOptions):
    """What kind of events."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--use_case", metavar="NAME", help="a shipped use case (car_sensors) or a folder with use_case.yaml"
        )


class OutputOptions(PipelineOptions):
    """Where the output goes."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--output",
            metavar="URI",
            help="redrive, replay: topic the records are put on; archive: its folder, gs://bucket/folder, "
            "file:///folder or a path",
        )


class ScoreOptions(PipelineOptions):
    """What scores events, and where the results go."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--model",
            metavar="DIR[@WHICH]",
            help="a model registry folder, with an alias or a version: models@champion (the default alias)",
        )
        parser.add_argument("--alerts", metavar="URI", help="topic for alerts")
        parser.add_argument("--scores", metavar="URI", help="topic for every score (optional)")


class ArchiveOptions(PipelineOptions):
    """What is archived, and how."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
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
            "--route_by",
            metavar="COLUMN",
            help="a text column whose values get folders of their own, above date and hour",
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


class StorageOptions(PipelineOptions):
    """How Cloud Storage (gs://) is reached."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--gcs_anonymous", action="store_true", help="read public gs:// buckets without Google credentials"
        )


class ReplayOptions(PipelineOptions):
    """How fast an archive is put back."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--speed",
            metavar="FACTOR",
            help="pace by event time: 1x as it happened, 10x ten times as fast. Default: as fast as it goes",
        )


class DeadLetterOptions(PipelineOptions):
    """Where records go that no step can handle."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--dead_letters", metavar="URI", help="topic for records that cannot be handled")
        parser.add_argument(
            "--max_dead_letter_rate",
            type=float,
            default=0.9,
            metavar="SHARE",
            help="stop the job when more than this share of the last 1,000 or more records is bad (default 0.9; "
            "1 never stops)",
        )


class ReportOptions(PipelineOptions):
    """What the job says while it runs and at its end."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
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


class RedriveOptions(PipelineOptions):
    """Which dead letters go back, and where."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--reason",
            action="append",
            metavar="NAME",
            help="only dead letters with this reason (may be repeated; default: all)",
        )
        parser.add_argument("--count_only", action="store_true", help="count by reason, write and commit nothing")


def parse(
    prog: str, description: str, argv: Sequence[str], *concerns: type[PipelineOptions], epilog: str = ""
) -> PipelineOptions:
    """Parses a job's command line; ``--help`` prints the job's own options and exits. An empty value is none.

    Args:
      prog: as the user types it, "python -m beam_jobs.score".
      concerns: the option classes of this job.

    Raises:
      UserError: an unknown flag, or a value its type or choices refuse.
    """
    parser = job_parser(prog, description, concerns, epilog)
    given, argv = list(argv), _as_beam_reads_it(argv)
    if given == sys.argv[1:]:
        sys.argv[1:] = argv  # Beam parses it again wherever it was handed no options
    _, rest = parser.parse_known_args(list(argv))
    _refuse_unknown(rest, parser)
    _every_option().parse_known_args(argv)  # Beam's own parser would print its usage for a value it refuses, and exit
    parsed = PipelineOptions(list(argv))
    FileSystems.set_options(parsed)  # the checks before the start open files as the pipeline will
    return parsed


def job_parser(
    prog: str, description: str, concerns: Sequence[type[PipelineOptions]], epilog: str = ""
) -> argparse.ArgumentParser:
    """The parser of a job's own options, a group for each of its option classes."""
    parser = Parser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(epilog + "\n\n" if epilog else "")
        + "Every Beam option works as well: --runner=DataflowRunner --project=…, --runner=PrismRunner, …",
    )
    for concern in concerns:
        title = (concern.__doc__ or "").strip().splitlines()[0].rstrip(".")
        concern._add_argparse_args(parser.add_argument_group(title))
    return parser


def require(options: PipelineOptions, *names: str) -> None:
    """Checks that each of the named options has a value.

    Raises:
      UserError: naming every missing flag.
    """
    values = options.get_all_options()
    missing = [f"--{name}" for name in names if values.get(name) in (None, "")]
    if missing:
        raise UserError(f"missing {', '.join(missing)}; --help explains {'it' if len(missing) == 1 else 'them'}")


def _as_beam_reads_it(argv: Sequence[str]) -> list[str]:
    """Empty options left out, ``--raw=true`` as ``--raw``, ``--raw=false`` as its opposite or not at all.

    Templates give each flag a value.
    """
    actions = _every_option()._option_string_actions
    words = []
    for word in without_empty(argv, actions):
        value = _SWITCH.fullmatch(word)
        action = actions.get(value[1]) if value else None
        if value is None or action is None or action.nargs != 0:
            words.append(word)
            continue
        stored = action.const == (value[2].lower() == "true")
        same = (f for f, other in actions.items() if other.dest == action.dest and other.const is stored)
        words += [value[1]] if stored == action.const else list(same)[:1]
    return words


def _every_option() -> argparse.ArgumentParser:
    """A parser of the options of all classes, Beam's as well."""
    parser = Parser(add_help=False, conflict_handler="resolve")
    for concern in PipelineOptions.__subclasses__():
        concern._add_argparse_args(parser)
    return parser


def _refuse_unknown(rest: Sequence[str], parser: argparse.ArgumentParser) -> None:
    flags = [word.split("=", 1)[0] for word in rest if word.startswith("-")]
    if not flags:
        if rest:
            raise UserError(f"{rest[0]!r} is not an option; options start with --, as in --use_case car_sensors")
        return
    known = set(_every_option()._option_string_actions)
    for flag in flags:
        if flag not in known and "--template_location" in flags:
            say(f"unknown option {flag} left out")  # the Flex Template launcher's own, newer than this Beam
        elif flag not in known:
            near = difflib.get_close_matches(flag, [*parser._option_string_actions, *known], 1)
            hint = f"did you mean {near[0]}?" if near else "--help lists the options"
            raise UserError(f"unknown option {flag}; {hint}")
