"""Registers schemas in a Schema Registry, before the jobs that need them, and says what the registry thinks of them.

    python -m schemas.publish --registry http://localhost:8081 --dry_run
    python -m schemas.publish --registry http://localhost:8081 --compatibility FULL_TRANSITIVE
    python -m schemas.publish --registry http://localhost:8081 --use_case my_case --subject my_case=pumps-value

Everything is checked before anything is written. Exit status 2, with the registry's reason, if a schema is refused.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from urllib.parse import quote

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

import schemas
from beam_jobs.errors import UserError, one_line
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.terminal.cli import run
from beam_jobs.terminal.commands import SCHEMAS
from beam_jobs.use_case import load_use_case
from schemas.client import FAILURES, RegistrySchemas
from schemas.compatibility import LEVELS, check
from schemas.writers import for_registry

T = TypeVar("T")

OUTPUTS = ("score", "alert", "dead_letter")  # what jobs write
SUBJECTS = {  # TopicNameStrategy on the topics of the documentation and the demo
    "car_sensor": "sensor-data-value",
    "score": "scores-value",
    "alert": "alerts-value",
    "dead_letter": "dead-letters-value",
}


@dataclass(frozen=True)
class Publication:
    """A schema and where it goes."""

    name: str  # of the schema: "alert"
    subject: str  # "alerts-value"
    schema: Mapping[str, Any]

    @property
    def wire(self) -> Schema:
        """As jobs register it, so that they find it."""
        return Schema(json.dumps(self.schema), "AVRO")


@dataclass(frozen=True)
class Verdict:
    """What the registry makes of a publication."""

    state: Literal["new", "unchanged", "refused"]
    detail: str  # version and id; why it is refused


def publications(use_case: str | None, subjects: Sequence[str]) -> list[Publication]:
    """What is to be published.

    Args:
      use_case: name or folder: its event schema and what its jobs write; None: every shipped schema.
      subjects: "SCHEMA=SUBJECT" each, instead of the defaults; several of one schema are fine.

    Raises:
      UserError: a subject for no schema of these, or a schema without a subject.
    """
    if use_case is None:
        wanted = {name: schemas.load(name) for name in schemas.names()}
    else:
        found = load_use_case(use_case)
        shipped = (name for name in schemas.names() if schemas.load(name) == found.schema)
        wanted = {next(shipped, found.name): found.schema, **{name: schemas.load(name) for name in OUTPUTS}}
    chosen: dict[str, list[str]] = {}
    for pair in subjects:
        name, _, subject = pair.partition("=")
        if name not in wanted or not subject:
            raise UserError(f"--subject {pair}: write SCHEMA=SUBJECT, with one of {', '.join(wanted)}")
        chosen.setdefault(name, []).append(subject)
    for name in wanted:
        if name not in chosen and name not in SUBJECTS:
            raise UserError(f"schema {name} has no usual topic: add --subject {name}=TOPIC-value")
    return [
        Publication(name, subject, schema)
        for name, schema in wanted.items()
        for subject in chosen.get(name, [SUBJECTS.get(name, "")])
    ]


def judge(client: SchemaRegistryClient, item: Publication, level: str | None) -> Verdict:
    """What would happen to a publication; writes nothing.

    Args:
      level: the compatibility level the subject is to have; None: it keeps its own.

    Raises:
      One of ``FAILURES``: the registry does not answer, or does not let us read.
    """
    versions = _or_none(lambda: client.get_versions(item.subject))
    if not versions:
        return Verdict("new", "the subject's first version")
    known = _or_none(lambda: client.lookup_schema(item.subject, item.wire))
    if known is not None:
        newest = "" if known.version == versions[-1] else f", not the newest, which is {versions[-1]}"
        return Verdict("unchanged", f"version {known.version}, id {known.schema_id}{newest}")
    if level and level != _level(client, item.subject):  # the registry judges by the level it has
        earlier = [client.get_version(item.subject, number).schema for number in versions]
        if other := {schema.schema_type for schema in earlier} - {"AVRO"}:
            return Verdict("refused", f"the subject holds {', '.join(map(str, other))}; use another subject")
        reasons = check(item.schema, [str(schema.schema_str) for schema in earlier], level)
    else:
        # The client's own call drops the messages.
        path = f"compatibility/subjects/{quote(item.subject, safe='')}/versions?verbose=true"
        try:
            answer = client._rest_client.post(path, body=item.wire.to_dict())
        except SchemaRegistryError as e:
            if e.http_status_code != 422:
                raise
            return Verdict("refused", one_line(e.error_message))
        reasons = (
            [] if answer["is_compatible"] else [one_line(m) for m in answer.get("messages", ())] or ["no reason given"]
        )
    return Verdict("refused", "; ".join(reasons)) if reasons else Verdict("new", f"follows version {versions[-1]}")


def publish(client: SchemaRegistryClient, item: Publication, level: str | None) -> str:
    """Sets the level, registers the schema; says under which version and id.

    Raises:
      UserError: the registry refuses it after all.
      One of ``FAILURES``: as :func:`judge`.
    """
    if level and level != _or_none(lambda: client.get_compatibility(item.subject)):
        client.set_compatibility(item.subject, level)
    try:
        schema_id = client.register_schema(item.subject, item.wire)
    except SchemaRegistryError as e:
        if e.http_status_code not in (409, 422):
            raise
        raise UserError(f"{item.subject}: refused: {one_line(e.error_message)}") from e
    return f"version {client.lookup_schema(item.subject, item.wire).version}, id {schema_id}"


def _level(client: SchemaRegistryClient, subject: str) -> str:
    """The level that is in force for a subject."""
    return str(_or_none(lambda: client.get_compatibility(subject)) or client.get_compatibility())


def _or_none(ask: Callable[[], T]) -> T | None:
    """The answer, or None where the registry has no such thing."""
    try:
        return ask()
    except SchemaRegistryError as e:
        if e.http_status_code != 404 or e.error_code == 404:  # the latter: no registry at that URL
            raise
        return None


def _publish_all(client: SchemaRegistryClient, items: Sequence[Publication], level: str | None, dry: bool) -> None:
    """Judges, prints, writes.

    Raises:
      UserError: something is refused.
    """
    names, subjects = (max(len(getattr(item, part)) for item in items) for part in ("name", "subject"))
    verdicts = [judge(client, item, level) for item in items]
    refused = [item for item, verdict in zip(items, verdicts, strict=True) if verdict.state == "refused"]
    for item, verdict in zip(items, verdicts, strict=True):
        detail = verdict.detail
        if not dry and not refused and (verdict.state == "new" or level):
            detail = publish(client, item, level)
        print(f"{item.name:{names}}  {item.subject:{subjects}}  {verdict.state:9}  {detail}", flush=True)
    if refused:
        which = ", ".join(item.subject for item in refused)
        raise UserError(
            f"{len(refused)} of {len(items)} refused ({which}), nothing was written: keep the schema compatible, "
            "or take another subject (--subject) or level (--compatibility)"
        )
    if dry:
        print("dry run: nothing was written")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command line's to a parser."""
    parser.description = (__doc__ or "").strip()
    parser.add_argument(
        "--registry", "--schema_registry", metavar="URL", help="default: schema.registry.url of --kafka_config"
    )
    parser.add_argument(
        "--kafka_config",
        metavar="FILE",
        help="client.properties with schema.registry.* (docs/schemas.md); secrets as env:NAME, file:PATH or secret://…",
    )
    parser.add_argument(
        "--use_case",
        metavar="NAME",
        help="only the event schema of a use case (name or folder) and what its jobs write; default: all shipped",
    )
    parser.add_argument(
        "--subject",
        action="append",
        default=[],
        metavar="SCHEMA=SUBJECT",
        help="where a schema goes, TOPIC-value by convention; may be repeated. Default: "
        + ", ".join(f"{name}={subject}" for name, subject in SUBJECTS.items()),
    )
    parser.add_argument(
        "--compatibility", type=str.upper, choices=LEVELS, metavar="LEVEL", help=f"set it: {', '.join(LEVELS)}"
    )
    parser.add_argument("--dry_run", action="store_true", help="ask the registry, write nothing")
    parser.add_argument("--verbose", action="store_true", help="show stack traces")


def main(argv: Sequence[str]) -> int:
    """Parses, connects, publishes."""
    args = SCHEMAS["schemas publish"].parser().parse_args(argv)
    items = publications(args.use_case, args.subject)
    registry = for_registry(args.registry, {}, dict(KafkaConfig.from_file(args.kafka_config).settings))
    if not isinstance(registry, RegistrySchemas):
        raise UserError("no registry: give --registry URL, or schema.registry.url in the file of --kafka_config")
    try:
        with registry.connect() as client:
            _publish_all(client, items, args.compatibility, args.dry_run)
    except FAILURES as e:
        raise registry.unusable(e) from e
    return 0


if __name__ == "__main__":
    run(main)
