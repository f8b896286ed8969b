"""All commands there are, by the name that ``highbeam`` has for them: what each is for, its parser, and an example.

Nothing here imports Beam, and a command's parser is made without it (``flags.py``).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from beam_jobs.terminal import flags
from beam_jobs.terminal.cli import Parser, as_flags, refuse_unknown, require

EXAMPLES = {  # a value for each option that takes one of its own; choices and switches are examples themselves
    "input": "kafka://localhost:9092/sensor-data",
    "from": "2026-11-22T07:00:00Z",
    "until": "latest",
    "group_id": "team-a.scores",
    "max_latency_ms": "250",
    "block_rows": "8192",
    "kafka_config": "client.properties",
    "input_kafka_config": "edge.properties",
    "output_kafka_config": "centre.properties",
    "schema_registry": "http://localhost:8081",
    "timestamp_attribute": "sent_at",
    "quiet_seconds": "60",
    "dedupe_seconds": "1200",
    "pull_streams": "4",
    "use_case": "car_sensors",
    "model": "models@champion",
    "model_key": "file:keys/model.pub",
    "signing_key": "env:MODEL_SIGNING_KEY",
    "alerts": "kafka://localhost:9092/alerts",
    "scores": "kafka://localhost:9092/scores",
    "repartition_topic": "kafka://localhost:9092/by-merchant",
    "label_topic": "kafka://localhost:9092/labels",
    "enrich": "gs://bucket/cars.csv",
    "enrich_on": "car_id",
    "enrich_every": "300",
    "route_by": "fleet",
    "max_file_age": "600",
    "max_file_mb": "64",
    "speed": "10x",
    "alerts_also": "pubsub://my-project/alerts",
    "alert_webhook": "https://hooks.example.com/alerts",
    "alert_webhook_secret": "env:ALERT_WEBHOOK_SECRET",
    "alert_cooldown": "10m",
    "dead_letters": "kafka://localhost:9092/dead-letters",
    "max_dead_letter_rate": "0.2",
    "dead_letter_key": "env:DEAD_LETTER_KEY",
    "report": "report.json",
    "reason": "unknown_schema_id",
    "data": "archive/car_sensors",
    "registry": "models",
    "epochs": "40",
    "alert_budget": "0.001",
    "seed": "11",
    "limit": "100000",
    "validation_fraction": "0.1",
    "labels": "labels/payment_fraud",
    "normal": "'speed = 0'",
    "alias": "challenger",
    "logdir": "runs/logs",
    "output": "kafka://localhost:9092/sensor-data",
    "port": "19092",
    "registry_port": "18081",
    "topic": "cars",
    "past": "10000",
    "rate": "50",
    "count": "10",
    "rows": "5000",
    "history": "50000",
    "html": "preview.html",
    "max_refused": "0.001",
    "source": "readings.csv",
    "event_time": "time",
    "key": "room",
    "label": "failure",
    "delimiter": "';'",
    "time_format": "'%d.%m.%Y %H:%M'",
    "window_memory_mb": "4096",
    "window_snapshots": "gs://my-bucket/snapshots",
    "window_snapshot_seconds": "600",
    "window_lateness": "30m",
    "window_delay": "6h",
    "window_clock_skew": "1m",
    "window_key_rows": "300000",
}


class Flags(Protocol):
    """Options of a job that have one concern: a class of ``flags.py``."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse._ActionsContainer) -> None: ...


@dataclass(frozen=True)
class Command:
    """One command; ``python -m MODULE`` and ``highbeam NAME`` are the same."""

    name: str
    module: str  # whose main(argv) does it, or the package of such a __main__
    summary: str
    example: Sequence[str] = ()  # options, whose values are examples too, and other words as they are typed
    flags: Sequence[type[Flags]] = ()  # of a job
    required: Sequence[str] = ()  # options without which a job does not start
    arguments: str = ""  # of another command: "module:function" that adds its arguments to a parser
    examples: Mapping[str, str] = field(default_factory=dict)  # where EXAMPLES mean something else
    meaning: Mapping[str, str] = field(default_factory=dict)  # help where an option means something else here
    hidden: Sequence[str] = ()  # options that are taken and have no effect here

    def parser(self) -> Parser:
        """The parser of the command's own options; of a job, a group for each of its concerns."""
        parser = Parser(
            prog=f"python -m {self.module}",
            description=f"{self.summary}.",
            formatter_class=partial(_Help, command=self),
            epilog="Every Beam option works as well: --runner=DataflowRunner --project=…, --runner=PrismRunner, …"
            if self.flags
            else "",
        )
        parser.epilog = f"Example:\n  {self.typed(parser.prog)}\n\n{parser.epilog}"
        for concern in self.flags:
            title = (concern.__doc__ or "").strip().splitlines()[0].rstrip(".")
            concern._add_argparse_args(parser.add_argument_group(title))
        for action in parser._actions:
            name = action.option_strings[0].removeprefix("--")
            action.help = argparse.SUPPRESS if name in self.hidden else self.meaning.get(name, action.help)
        if self.arguments:
            module, _, function = self.arguments.partition(":")
            getattr(importlib.import_module(module), function)(parser)
        return parser

    def main(self) -> Callable[[Sequence[str]], int | None]:
        """What does it, imported now; as with ``python -m``, of a package its ``__main__``."""
        found = importlib.util.find_spec(self.module)
        package = found is not None and found.submodule_search_locations is not None
        main: Callable[[Sequence[str]], int | None]
        main = importlib.import_module(f"{self.module}.__main__" if package else self.module).main
        return main

    def example_of(self, action: argparse.Action) -> str | None:
        """A value that an option takes, as it is typed; None: it has none of its own, or there is no example."""
        if action.nargs == 0 or action.choices:
            return None
        name = action.option_strings[-1].removeprefix("--") if action.option_strings else action.dest
        return self.examples.get(name, EXAMPLES.get(name))

    def typed(self, prog: str) -> str:
        """A whole command line as an example, an option a line where it is long."""
        values = {**EXAMPLES, **self.examples}
        words = [f"--{word} {values[word]}" if word in values else word for word in self.example]
        line = " ".join([prog, *words])
        return line if len(line) <= 100 else " \\\n      ".join([prog, *words])

    def check(self, argv: Sequence[str]) -> None:
        """Refuses a wrong command line without importing what the command needs; ``--help`` prints and exits.

        Raises:
          UserError: as the command itself would.
        """
        parser = self.parser()
        if not self.flags:
            parser.parse_args(argv)
            return
        values, rest = parser.parse_known_args(as_flags(argv, parser))
        refuse_unknown(rest, parser, _beam_flags())
        require(vars(values), *self.required)


class _Help(argparse.RawDescriptionHelpFormatter):
    """Adds an example to the help of each option that takes a value."""

    def __init__(self, prog: str, *, command: Command) -> None:
        super().__init__(prog)
        self._command = command

    def _get_help_string(self, action: argparse.Action) -> str | None:
        example = self._command.example_of(action) if action.option_strings else None
        if example is None:
            return action.help
        return f"{action.help or ''} (e.g. {example.replace('%', '%%')})".lstrip()


def _beam_flags() -> set[str]:
    """The names of Beam's options, as its source says them: to import it takes seconds."""
    found = importlib.util.find_spec("apache_beam")
    assert found is not None
    assert found.submodule_search_locations is not None
    source = Path(found.submodule_search_locations[0], "options", "pipeline_options.py").read_text(encoding="utf-8")
    return {*re.findall(r"""["'](--?[A-Za-z][\w-]*)["']""", source), *(f"--{name}" for name in flags.OF_FLINK)}


_NOT_OF_ARCHIVES = ("group_id", "fetch", "kafka_io", "max_latency_ms", "block_rows")
_ARCHIVE = "the archive: gs://bucket/folder, file:///folder or a path"

JOBS = {
    command.name: command
    for command in (
        Command(
            "score",
            "beam_jobs.score",
            "Scores events and raises alerts: Kafka -> decode -> preprocess -> RunInference -> alerts",
            ("use_case", "input", "model", "alerts", "dead_letters"),
            (
                flags.UseCase,
                flags.Score,
                flags.Input,
                flags.PubSub,
                flags.Connection,
                flags.Storage,
                flags.Events,
                flags.Windows,
                flags.DeadLetter,
                flags.DeadLetterKey,
                flags.Report,
            ),
            ("use_case", "input", "model", "alerts", "dead_letters"),
            examples={"alert_budget": "1/1000"},
        ),
        Command(
            "archive",
            "beam_jobs.archive",
            "Archives events as training data: Kafka -> decode -> preprocess -> files by event time, each row in "
            "exactly one",
            ("use_case", "input", "output", "dead_letters"),
            (
                flags.UseCase,
                flags.Output,
                flags.Archive,
                flags.Input,
                flags.PubSub,
                flags.Connection,
                flags.Storage,
                flags.Events,
                flags.Windows,
                flags.DeadLetter,
                flags.DeadLetterKey,
                flags.Report,
            ),
            ("use_case", "input", "output", "dead_letters"),
            examples={"output": "gs://bucket/car_sensors"},
            meaning={"output": _ARCHIVE},
            hidden=("kafka_io",),
        ),
        Command(
            "replay",
            "beam_jobs.replay",
            "Puts an archive of events back on a topic, with its keys, timestamps and order; as fast as it goes, or "
            "paced",
            ("use_case", "input", "output", "speed"),
            (
                flags.UseCase,
                flags.Output,
                flags.Replay,
                flags.Input,
                flags.Connection,
                flags.Storage,
                flags.Report,
            ),
            ("use_case", "input", "output"),
            examples={"input": "archive/events", "until": "2026-11-22T08:00:00Z"},
            meaning={
                "input": _ARCHIVE,
                "from": "event time of the first records: 2026-11-22T07:00:00Z, or epoch milliseconds",
                "until": "event time of the first records not wanted any more",
            },
            hidden=_NOT_OF_ARCHIVES,
        ),
        Command(
            "redrive",
            "beam_jobs.redrive",
            "Puts dead letters back on a topic as the records they were, with their keys, bytes and headers",
            ("input", "output", "reason"),
            (
                flags.Output,
                flags.Redrive,
                flags.DeadLetterKey,
                flags.Input,
                flags.PubSub,
                flags.Connection,
                flags.Report,
            ),
            ("input",),
            examples={"input": "kafka://localhost:9092/dead-letters"},
            meaning={"input": "dead letters: kafka://host:9092[,host2:9092]/topic or pubsub://project/subscription"},
            hidden=("kafka_io", "max_latency_ms"),
        ),
    )
}

BEGIN = {
    command.name: command
    for command in (
        Command(
            "broker",
            "beam_jobs.broker",
            "A broker, a Schema Registry and a simulated fleet's events on this machine, in memory, until Ctrl-C",
            ("port", "rate"),
            arguments="beam_jobs.terminal.arguments:broker",
        ),
        Command(
            "init",
            "beam_jobs.init",
            "Makes a use case of a file, a topic or a registry's subject: its schema, its SQL and its settings",
            ("readings.csv", "key", "event_time", "output"),
            arguments="beam_jobs.terminal.arguments:init",
            examples={"output": "cold_rooms"},
        ),
        Command(
            "preview",
            "beam_jobs.preview",
            "Shows what a use case's schema and SQL make of some events: rows, statistics, and what is refused and why",
            ("use_case", "input"),
            arguments="beam_jobs.terminal.arguments:preview",
        ),
        Command(
            "watch",
            "beam_jobs.watch",
            "Shows the alerts, scores or dead letters on a topic, as a table or as JSON",
            ("kafka://localhost:9092/alerts", "count"),
            arguments="beam_jobs.terminal.arguments:watch",
            examples={"topic": "kafka://localhost:9092/alerts", "from": "latest"},
        ),
        Command(
            "feedback",
            "beam_jobs.feedback",
            "Makes labels of what people say of alerts: for training, and for windows of a job",
            ("kafka://localhost:9092/feedback", "use_case", "output"),
            arguments="beam_jobs.terminal.arguments:feedback",
            examples={
                "topic": "kafka://localhost:9092/feedback",
                "output": "labels/payment_fraud",
                "use_case": "payment_fraud",
                "events": "kafka://localhost:9092/payments",
            },
        ),
    )
}

MODELS = {
    command.name: command
    for command in (
        Command(
            "train",
            "model.train",
            "Train a model and register it",
            ("use_case", "data", "registry"),
            arguments="model.training.arguments:arguments",
        ),
        Command(
            "threshold",
            "model.threshold",
            "Fit the threshold of a model to another alert budget, without training",
            ("models", "alert_budget"),
            arguments="model.threshold:arguments",
        ),
        Command(
            "models",
            "model.registry",
            "Model versions and their aliases",
            ("list", "models"),
            arguments="model.registry:arguments",
        ),
        Command(
            "evaluate",
            "model.evaluate",
            "Judge a use case's kind of model by its past: train on some days, judge by later ones, round after round",
            ("use_case", "data", "from"),
            arguments="model.evaluate:arguments",
            examples={"use_case": "fraud_benchmark", "data": "runs/payments.parquet", "from": "2018-07-25T00:00:00Z"},
        ),
        Command(
            "registry compare",
            "model.compare",
            "Two versions of a model side by side: data, features, threshold, alert budget, figures",
            ("models@champion", "models@challenger", "data"),
            arguments="model.compare:arguments",
            examples={"data": "held_out/"},
        ),
    )
}

SCHEMAS = {
    command.name: command
    for command in (
        Command(
            "schemas check",
            "schemas.check",
            "Checks that a change of the schemas breaks nobody",
            arguments="schemas.check:arguments",
        ),
        Command(
            "schemas compatibility",
            "schemas.compatibility",
            "Checks whether an Avro schema may follow others; exit status 1 and one line a reason if not",
            ("new.avsc", "earlier.avsc"),
            arguments="schemas.compatibility:arguments",
        ),
        Command(
            "schemas docs",
            "schemas.docs",
            "Writes the tables of docs/schemas.md from the .avsc files",
            ("--check",),
            arguments="schemas.docs:arguments",
        ),
        Command(
            "schemas publish",
            "schemas.publish",
            "Registers schemas in a Schema Registry, before the jobs that need them",
            ("registry", "--dry_run"),
            arguments="schemas.publish:arguments",
            examples={"registry": "http://localhost:8081"},
        ),
        Command(
            "schemas registry",
            "schemas.registry",
            "A Schema Registry for laptops and tests",
            ("--dir runs/schemas",),
            arguments="schemas.registry.server:arguments",
        ),
    )
}

DEMO = {
    command.name: command
    for command in (
        Command(
            "demo",
            "demo",
            "A simulated fleet, a broker: events archived, a model trained on the archive, live anomalies",
            ("--cars 200", "--seconds 60", "--headless"),
            arguments="demo.arguments:arguments",
        ),
        Command(
            "demo history",
            "demo.history",
            "A simulated history of the fleet, to train on",
            ("--rows 120000", "output"),
            arguments="demo.history:arguments",
            examples={"output": "runs/history.parquet"},
        ),
        Command(
            "demo payments",
            "demo.payments",
            "Simulated payments, to train on, and labels that come later; or those of the public fraud benchmark",
            ("output", "labels"),
            arguments="demo.payments:arguments",
            examples={
                "output": "runs/payments.parquet",
                "labels": "runs/labels.parquet",
                "cards": "5000",
                "days": "90",
                "start": "2026-01-01",
                "prevalence": "0.005",
                "label_days": "14",
            },
        ),
    )
}

PRIVACY = {
    command.name: command
    for command in (
        Command(
            "privacy report",
            "beam_jobs.privacy.report",
            "Counts how many persons an archive tells apart by quasi-identifiers, and says what to generalise",
            ("archive/payments", "quasi_identifiers", "key", "k"),
            arguments="beam_jobs.privacy.report:arguments",
            examples={"quasi_identifiers": "zip,birth_year", "key": "card", "k": "10", "memory_mb": "4096"},
        ),
        Command(
            "privacy decrypt",
            "beam_jobs.privacy.decrypt",
            "Shows what encrypted texts were, for a reason, and writes down who asked",
            ("2026-11:AbC…", "use_case", "field", "reason", "audit_log"),
            arguments="beam_jobs.privacy.decrypt:arguments",
            examples={"field": "card", "reason": "chargeback-4711", "audit_log": "/var/log/highbeam/decrypted.jsonl"},
        ),
    )
}

GROUPS: Mapping[str, Mapping[str, Command]] = {
    "To begin with": BEGIN,
    "Jobs, here or on Dataflow": JOBS,
    "Models": MODELS,
    "Schemas": SCHEMAS,
    "Personal data": PRIVACY,
    "In a checkout": DEMO,
}
COMMANDS: Mapping[str, Command] = {name: command for group in GROUPS.values() for name, command in group.items()}
