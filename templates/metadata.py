"""Writes the metadata of the Flex Templates from the option classes of their jobs.

python -m templates.metadata            # writes templates/*.json
python -m templates.metadata --check    # writes nothing; status 2 when one of them is out of date
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from beam_jobs.errors import UserError
from beam_jobs.terminal.cli import Parser, run, say
from templates.jobs import TEMPLATES, Template

FOLDER = Path(__file__).parent

# Of use on a terminal only: the process that has them ends when the job is submitted, and workers have an account.
_LOCAL = {"help", "progress", "report", "wait", "gcs_anonymous"}
_LABELS = {"from": "Start at", "until": "Stop at", "group_id": "Consumer group", "max_file_mb": "Max file size (MB)"}
_UNITS = {"ms": "(ms)", "mb": "(MB)", "seconds": "(seconds)"}
# Credentials (user@host) have no place in an address.
_TOPIC = r"^(kafka://[^@\s]+|pubsub://\S+)$"
_REGEXES = {"input": r"^(kafka://[^@\s]+|pubsub://\S+|gs://\S+)$", "schema_registry": r"^https?://[^@\s]+$"}
_REFERENCE = r"^(env:|file:|secret://)\S+$"
_NUMBERS = {int: r"^[0-9]+$", float: r"^[0-9]+(\.[0-9]+)?$"}
_BY_REFERENCE = (
    " A parameter is never a secret itself: it is shown in the console and kept with the job. "
    "Name secrets by reference."
)
_MAY_NEED_SECRETS = {"kafka_config", "input_kafka_config", "output_kafka_config", "schema_registry"}
_SDK_IMAGE = {
    "name": "sdk_container_image",
    "label": "Worker image",
    "helpText": "Image of the workers. Default: the template's own, which has everything a worker needs.",
    "isOptional": True,
    "paramType": "TEXT",
    "groupName": "Workers",
}


def metadata(template: Template) -> dict[str, Any]:
    """The template's metadata, as Google's TemplateMetadata has it."""
    return {
        "name": template.title,
        "description": template.description + _BY_REFERENCE,
        "streaming": template.streaming,
        "supportsAtLeastOnce": template.at_least_once,
        "supportsExactlyOnce": True,
        **({"defaultStreamingMode": "EXACTLY_ONCE"} if template.at_least_once else {}),
        "parameters": [*_parameters(template), _SDK_IMAGE],
    }


def text(template: Template) -> str:
    """The metadata as its file has it."""
    return json.dumps(metadata(template), indent=2, ensure_ascii=False) + "\n"


def _parameters(template: Template) -> Iterator[dict[str, Any]]:
    found = []
    for concern in template.command.flags:
        parser = argparse.ArgumentParser(add_help=False)
        concern._add_argparse_args(parser)
        group = (concern.__doc__ or "").strip().splitlines()[0].rstrip(".")
        for action in parser._actions:
            name = action.option_strings[0].removeprefix("--")
            if name not in _LOCAL:
                found.append(_parameter(name, action, group, template))
    # The console shows them in this order: what must be given comes first.
    yield from sorted(found, key=lambda parameter: parameter["isOptional"])


def _parameter(name: str, action: argparse.Action, group: str, template: Template) -> dict[str, Any]:
    help_text = (action.help or "").rstrip(".")
    if help_text.split()[0].isalpha():
        help_text = help_text[0].upper() + help_text[1:]
    parameter: dict[str, Any] = {
        "name": name,
        "label": _LABELS.get(name) or _label(name),
        "helpText": help_text + "." + (_BY_REFERENCE if name in _MAY_NEED_SECRETS else ""),
        "isOptional": name not in template.command.required,
    }
    if action.nargs == 0:
        parameter |= {"paramType": "BOOLEAN", "defaultValue": str(action.default).lower()}
    elif action.choices:
        parameter |= {"paramType": "ENUM", "enumOptions": [{"value": c, "label": c} for c in action.choices]}
    elif action.metavar == "REFERENCE":
        parameter |= {"paramType": "TEXT", "regexes": [_REFERENCE]}
    elif isinstance(action.type, type) and action.type in _NUMBERS:
        parameter |= {"paramType": "NUMBER", "regexes": [_NUMBERS[action.type]]}
    else:
        regex = _REGEXES.get(name) or (_TOPIC if action.metavar == "URI" else None)
        parameter |= {"paramType": "TEXT"} | ({"regexes": [regex]} if regex else {})
    if action.default is not None and action.nargs != 0:
        parameter["defaultValue"] = f"{action.default:g}" if isinstance(action.default, float) else str(action.default)
    special = template.special.get(name, {})
    return parameter | ({} if "parentName" in special else {"groupName": group}) | dict(special)


def _label(name: str) -> str:
    words = [_UNITS.get(word, word) for word in name.split("_")]
    return " ".join([words[0].capitalize(), *words[1:]])


def main(argv: Sequence[str]) -> int:
    """Writes the files, or checks them."""
    parser = Parser(prog="python -m templates.metadata", description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is out of date")
    check = parser.parse_args(argv).check
    for template in TEMPLATES.values():
        path = FOLDER / f"{template.job}.json"
        if path.exists() and path.read_text(encoding="utf-8") == text(template):
            continue
        if check:
            raise UserError(f"templates/{path.name} is out of date; run python -m templates.metadata and commit it")
        path.write_text(text(template), encoding="utf-8")
        say(f"wrote templates/{path.name}")
    return 0


if __name__ == "__main__":
    run(main)
