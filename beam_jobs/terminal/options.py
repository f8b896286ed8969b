"""The options of the jobs as Beam's, and the one place where the command line of a job is parsed and checked.

Beam walks direct subclasses of ``PipelineOptions`` only and drops what it does not know without a word; :func:`parse`
refuses unknown flags instead, with the nearest known one as the remedy.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs.terminal import flags
from beam_jobs.terminal.cli import Parser, as_flags, refuse_unknown

# Each has the flags of the class that it is named for.


class InputOptions(flags.Input, PipelineOptions): ...


class ConnectionOptions(flags.Connection, PipelineOptions): ...


class PubSubOptions(flags.PubSub, PipelineOptions): ...


class UseCaseOptions(flags.UseCase, PipelineOptions): ...


class OutputOptions(flags.Output, PipelineOptions): ...


class ScoreOptions(flags.Score, PipelineOptions): ...


class ArchiveOptions(flags.Archive, PipelineOptions): ...


class StorageOptions(flags.Storage, PipelineOptions): ...


class ReplayOptions(flags.Replay, PipelineOptions): ...


class EventOptions(flags.Events, PipelineOptions): ...


class WindowOptions(flags.Windows, PipelineOptions): ...


class DeadLetterOptions(flags.DeadLetter, PipelineOptions): ...


class DeadLetterKeyOptions(flags.DeadLetterKey, PipelineOptions): ...


class ReportOptions(flags.Report, PipelineOptions): ...


class RedriveOptions(flags.Redrive, PipelineOptions): ...


class FlinkOptions(PipelineOptions):
    """What Beam's Flink runner takes, in Java, and Beam's own classes in Python do not know."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse._ActionsContainer) -> None:
        for name in flags.OF_FLINK:
            parser.add_argument(f"--{name}", type=int)


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> PipelineOptions:
    """Parses a job's command line; ``--help`` prints the job's own options and exits. An empty value is none.

    Args:
      parser: of the job's own options (``Command.parser``).

    Raises:
      UserError: an unknown flag, or a value its type or choices refuse.
    """
    every = _every_option()
    given, argv = list(argv), as_flags(argv, every)
    if given == sys.argv[1:]:
        sys.argv[1:] = argv  # Beam parses it again wherever it was handed no options
    _, rest = parser.parse_known_args(list(argv))
    refuse_unknown(rest, parser, every._option_string_actions)
    every.parse_known_args(argv)  # Beam's own parser would print its usage for a value it refuses, and exit
    parsed = PipelineOptions(list(argv))
    FileSystems.set_options(parsed)  # the checks before the start open files as the pipeline will
    return parsed


def _every_option() -> argparse.ArgumentParser:
    """A parser of the options of all classes, Beam's as well."""
    parser = Parser(add_help=False, conflict_handler="resolve")
    for concern in PipelineOptions.__subclasses__():
        concern._add_argparse_args(parser)
    return parser
