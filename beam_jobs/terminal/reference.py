"""Writes docs/options.md, every option of every job, from the option classes.

python -m beam_jobs.terminal.reference            rewrites the page
python -m beam_jobs.terminal.reference --check    writes nothing; exit status 1 if the page is not up to date
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from beam_jobs.errors import UserError
from beam_jobs.terminal.cli import Parser, run
from beam_jobs.terminal.commands import BEGIN, JOBS, MODELS, Command

PAGE = Path(__file__).resolve().parents[2] / "docs" / "options.md"
COMMANDS = (*JOBS.values(), *BEGIN.values(), MODELS["train"], MODELS["threshold"])

_INTRO = """\
# Options

Made from the option classes by `python -m beam_jobs.terminal.reference`; `--help` of a command says the same.

Jobs take every option of Beam as well, such as `--runner=PrismRunner` or `--direct_num_workers=2`; those for
Dataflow are in [dataflow.md](dataflow.md#options). Exit codes, secrets and failures of services are in
[operations.md](operations.md), the settings that `--kafka_config` takes in [kafka.md](kafka.md#connecting).
"""


def page() -> str:
    """The text of docs/options.md."""
    return "\n".join([_INTRO, *(_section(command) for command in COMMANDS)])


def example(command: Command, action: argparse.Action) -> str:
    """An option with a value that it takes, as it is typed."""
    value = command.example_of(action)
    if not action.option_strings:
        return value or ""
    if action.nargs == 0:
        return action.option_strings[-1]  # --no-… of what is on by default
    if action.choices:
        value = next(choice for choice in action.choices if choice != action.default)
    return f"{action.option_strings[0]} {value}"


def options_of(parser: argparse.ArgumentParser) -> Iterator[tuple[str, list[argparse.Action]]]:
    """The options of a parser that --help shows, by their groups, without it; what stands without a flag as well."""
    for group in parser._action_groups:
        actions = [a for a in group._group_actions if a.dest != "help" and a.help != argparse.SUPPRESS]
        if actions:
            yield group.title or "", actions


def _section(command: Command) -> str:
    parser = command.parser()
    lines = [f"## {command.module.removeprefix('beam_jobs.')}"]
    lines += [
        f"`highbeam {command.name}` or `python -m {command.module}`: {(parser.description or '').splitlines()[0]}",
        "",
    ]
    lines += ["```bash", command.typed(f"python -m {command.module}"), "```", ""]
    for title, actions in options_of(parser):
        if command.flags:
            lines += [f"**{title}**", ""]
        lines += ["| Option | Type | Default | Example | |", "|---|---|---|---|---|"]
        lines += [_row(command, action) for action in actions]
        lines.append("")
    return "\n".join(lines)


def _row(command: Command, action: argparse.Action) -> str:
    flag = f"{', '.join(action.option_strings)} {action.metavar or ''}".strip()
    text, default = (action.help or "").replace("%(default)s", _text(action.default)).replace("%%", "%"), ""
    if action.required or action.dest in command.required:
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
