"""Writes docs/options.md, every option of every job, from the option classes.

python -m beam_jobs.terminal.reference            rewrites the page
python -m beam_jobs.terminal.reference --check    writes nothing; exit status 1 if the page is not up to date
"""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from beam_jobs.errors import UserError
from beam_jobs.terminal.cli import Parser, run
from beam_jobs.terminal.options import job_parser

PAGE = Path(__file__).resolve().parents[2] / "docs" / "options.md"
JOBS = ("beam_jobs.score", "beam_jobs.archive", "beam_jobs.replay", "beam_jobs.redrive")
OTHERS = ("model.train", "model.threshold")  # with a parser of their own

_INTRO = """\
# Options

Made from the option classes by `python -m beam_jobs.terminal.reference`; `--help` of a command says the same.

Jobs take every option of Beam as well, such as `--runner=PrismRunner` or `--direct_num_workers=2`; those for
Dataflow are in [dataflow.md](dataflow.md#options). Exit codes, secrets and what happens when something is away are in
[operations.md](operations.md), the settings that `--kafka_config` takes in [kafka.md](kafka.md#connecting).
"""

EXAMPLES = {  # a value for each option that takes one of its own; choices and switches are examples themselves
    "input": "kafka://localhost:9092/sensor-data",
    "from": "2026-11-22T07:00:00Z",
    "until": "latest",
    "group_id": "team-a.scores",
    "max_latency_ms": "250",
    "block_rows": "8192",
    "kafka_config": "client.properties",
    "schema_registry": "http://localhost:8081",
    "timestamp_attribute": "sent_at",
    "quiet_seconds": "60",
    "dedupe_seconds": "1200",
    "pull_streams": "4",
    "use_case": "car_sensors",
    "model": "models@champion",
    "alerts": "kafka://localhost:9092/alerts",
    "scores": "kafka://localhost:9092/scores",
    "enrich": "gs://bucket/cars.csv",
    "enrich_on": "car_id",
    "enrich_every": "300",
    "route_by": "fleet",
    "max_file_age": "600",
    "max_file_mb": "64",
    "speed": "10x",
    "dead_letters": "kafka://localhost:9092/dead-letters",
    "max_dead_letter_rate": "0.2",
    "report": "report.json",
    "reason": "unknown_schema_id",
    "data": "archive/car_sensors",
    "registry": "models",
    "epochs": "40",
    "alert_budget": "0.001",
    "seed": "11",
    "limit": "100000",
    "validation_fraction": "0.1",
    "normal": "'speed = 0'",
    "alias": "challenger",
    "logdir": "runs/logs",
    "output": "kafka://localhost:9092/sensor-data",
}
OWN_EXAMPLES = {  # where an option of several commands means something else
    ("beam_jobs.archive", "output"): "gs://bucket/car_sensors",
    ("beam_jobs.replay", "input"): "archive/events",
    ("beam_jobs.redrive", "input"): "kafka://localhost:9092/dead-letters",
}


def page() -> str:
    """The text of docs/options.md."""
    return "\n".join([_INTRO, *(_section(command) for command in (*JOBS, *OTHERS))])


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of a command's own options."""
    module = importlib.import_module(command)
    if command in OTHERS:
        own: argparse.ArgumentParser = module.parser()
        return own
    return job_parser(f"python -m {command}", (module.__doc__ or "").splitlines()[0], module.CONCERNS)


def example(command: str, action: argparse.Action) -> str:
    """An option with a value that it takes, as it is typed."""
    if not action.option_strings:
        return EXAMPLES[action.dest]
    flag = action.option_strings[0]
    if action.nargs == 0:
        return action.option_strings[-1]  # --no-… of what is on by default
    if action.choices:
        return f"{flag} {next(choice for choice in action.choices if choice != action.default)}"
    name = flag.removeprefix("--")
    return f"{flag} {OWN_EXAMPLES.get((command, name), EXAMPLES[name])}"


def options_of(parser: argparse.ArgumentParser) -> Iterator[tuple[str, list[argparse.Action]]]:
    """The options of a parser by their groups, without --help; what stands without a flag as well."""
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.dest != "help"]
        if actions:
            yield group.title or "", actions


def _section(command: str) -> str:
    parser = parser_of(command)
    name = command.removeprefix("beam_jobs.")
    lines = [f"## {name}", f"`python -m {command}`: {parser.description}", ""]
    typed = [line for line in (importlib.import_module(command).__doc__ or "").splitlines() if line.startswith("    ")]
    if typed:
        lines += ["```bash", *(line.removeprefix("    ") for line in typed), "```", ""]
    for title, actions in options_of(parser):
        if command in JOBS:
            lines += [f"**{title}**", ""]
        lines += ["| Option | Type | Default | Example | |", "|---|---|---|---|---|"]
        lines += [_row(command, action) for action in actions]
        lines.append("")
    return "\n".join(lines)


def _row(command: str, action: argparse.Action) -> str:
    flag = f"{', '.join(action.option_strings)} {action.metavar or ''}".strip()
    text, default = (action.help or "").replace("%(default)s", _text(action.default)).replace("%%", "%"), ""
    if action.required:
        default = "required"
    elif action.default not in (None, False, []):
        default = f"`{_text(action.default)}`"
        text = re.sub(rf"(^|; | \()default:? {re.escape(_text(action.default))}\)?$", "", text)  # it has its own column
    cells = [f"`{flag}`", _type(action), default, f"`{example(command, action)}`", text]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _text(default: object) -> str:
    return f"{default:g}" if isinstance(default, float) else str(default)


def _type(action: argparse.Action) -> str:
    if action.nargs == 0:
        return "switch"
    if action.choices:
        return ", ".join(f"`{choice}`" for choice in action.choices)
    kind = {int: "whole number", float: "number"}.get(action.type, "text")  # type: ignore[call-overload]
    return f"{kind}, any number of times" if isinstance(action, argparse._AppendAction) else kind


def main(argv: Sequence[str]) -> int:
    """Parses, writes or compares."""
    parser = Parser(
        prog="python -m beam_jobs.terminal.reference",
        description=(__doc__ or "").strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if it is not up to date")
    parser.add_argument("--verbose", action="store_true", help="show stack traces")
    args = parser.parse_args(argv)
    wanted = page()
    try:
        current = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
        if args.check and wanted != current:
            print(f"{PAGE} is not what the options say: run python -m beam_jobs.terminal.reference")
            return 1
        PAGE.write_text(wanted, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{PAGE}: {error}; it is a page of a checkout") from error
    print(f"{PAGE} is up to date")
    return 0


if __name__ == "__main__":
    run(main)
