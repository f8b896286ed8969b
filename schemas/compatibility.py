"""Can readers of one Avro schema read what writers of another wrote? BACKWARD, FORWARD, FULL, each also TRANSITIVE.

    >>> old = {"type": "record", "name": "Car", "fields": [{"name": "id", "type": "string"}]}
    >>> new = {"type": "record", "name": "Car", "fields": old["fields"] + [{"name": "speed", "type": "double"}]}
    >>> check(new, [old], "BACKWARD")
    ["field 'speed' was added without a default: give it a default"]
    >>> check(new, [old], "FORWARD")
    []

The rules are those of the Avro specification's "Schema Resolution". The ``avro`` package's ``avro.compatibility`` is
not used because it is wrong in both directions, and its messages do not say what to do:

* decimals of another precision or scale pass, though the specification says they do not match and 1.23 would be read
  as 0.123; so do two different units of time (timestamp-millis as timestamp-micros), refused here for the same reason;
* an alias may take a field that another field already reads by its name, which no reader can do;
* inside a union any branch may save the day, where readers take the first that matches and then fail.

So it may refuse what a registry built on Java's checker lets in, for those reasons alone, and never the other way
round: ``tests/property/test_resolution.py`` compares the two, and what the decoder makes of the same schemas. ``python
-m schemas.compatibility NEW OLD`` runs it on files.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from beam_jobs.codec.resolution import (
    NAMED,
    PROMOTIONS,
    candidates,
    logical_name,
    may_match,
    misread,
    pair_fields,
)
from beam_jobs.codec.schema import NO_DEFAULT, AvroType, Schema, parse_schema
from beam_jobs.codec.valid import check_valid
from beam_jobs.errors import UserError
from beam_jobs.terminal.cli import run
from beam_jobs.terminal.commands import SCHEMAS

LEVELS = ("BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE", "NONE")

T = TypeVar("T")


def check(new: Schema | str, earlier: Sequence[Schema | str], level: str = "BACKWARD") -> list[str]:
    """What forbids ``new`` as the next schema after ``earlier``; empty if nothing does.

    Args:
      new: a dict, a list (union) or JSON text.
      earlier: the schemas before it, oldest first.
      level: one of ``LEVELS``; without _TRANSITIVE only the newest of ``earlier`` counts.

    Returns:
      One sentence a reason, newest earlier schema first, each naming the field and what to do.

    Raises:
      UserError: a schema is not valid Avro, or the level is unknown.
    """
    if level not in LEVELS:
        raise UserError(f"compatibility level {level!r} is unknown; use one of {', '.join(LEVELS)}")
    candidate = parse_schema(new)
    problems: list[str] = []
    for schema in compared(earlier, level):
        problems += incompatibilities(candidate, parse_schema(schema), level)
    return list(dict.fromkeys(problems))


def compared(earlier: Sequence[T], level: str) -> list[T]:
    """The part of ``earlier`` (oldest first) that ``level`` compares with, newest first."""
    if level == "NONE":
        return []
    return list(reversed(earlier if level.endswith("_TRANSITIVE") else earlier[-1:]))


def incompatibilities(new: AvroType, earlier: AvroType, level: str) -> list[str]:
    """What forbids ``new`` beside one earlier schema, one sentence a reason."""
    direction = level.removesuffix("_TRANSITIVE")
    problems: list[str] = []
    if direction in ("BACKWARD", "FULL"):
        problems += _Comparison(new_reads=True).run(new, earlier)
    if direction in ("FORWARD", "FULL"):
        problems += _Comparison(new_reads=False).run(earlier, new)
    return list(dict.fromkeys(problems))


class _Comparison:
    """One reader against one writer. All conditions must hold, so every pair of types is looked at once."""

    def __init__(self, new_reads: bool) -> None:
        self.new_reads = new_reads  # True: the new schema reads data of the earlier one; False: the other way round
        self.problems: list[str] = []
        self.seen: set[tuple[int, int]] = set()

    def run(self, reader: AvroType, writer: AvroType) -> list[str]:
        self.compare(reader, writer, "")
        return self.problems

    def compare(self, reader: AvroType, writer: AvroType, path: str) -> None:
        if (id(reader), id(writer)) in self.seen:
            return
        self.seen.add((id(reader), id(writer)))
        if writer.kind == "union":
            for branch in writer.branches:
                self.compare(reader, branch, path)
        elif reader.kind == "union":
            self.compare_branches(reader, writer, path)
        elif not may_match(reader, writer):
            self.type_mismatch(reader, writer, path)
        elif misread(reader, writer):
            new, old = self.sides(logical_name(reader) or reader.kind, logical_name(writer) or writer.kind)
            self.add(path, f"is {new} where the earlier schema has {old}: keep it, its values would be misread")
        elif reader.kind == "record":
            self.compare_fields(reader, writer, path)
        elif reader.kind == "enum":
            self.compare_symbols(reader, writer, path)
        elif reader.kind == "fixed" and reader.size != writer.size:
            new_size, old_size = self.sides(reader.size, writer.size)
            self.add(path, f"is a fixed of {new_size} bytes where the earlier schema has {old_size}: keep the size")
        elif reader.kind in ("array", "map"):
            self.compare(reader.item, writer.item, path + ("[]" if reader.kind == "array" else "{}"))

    def compare_branches(self, reader: AvroType, writer: AvroType, path: str) -> None:
        found = candidates(reader.branches, writer)
        for branch in found:  # readers differ in which one they take: each of them has to do
            self.compare(branch, writer, path)
        if not found:
            branches = ", ".join(branch.label for branch in reader.branches)
            if self.new_reads:
                text = f"no longer takes {writer.label} (it takes {branches}): keep {writer.label} in the union"
            else:
                text = f"now takes {writer.label}, which readers of the earlier schema cannot read: leave it out"
            self.add(path, text)

    def compare_fields(self, reader: AvroType, writer: AvroType, path: str) -> None:
        for entry, source in pair_fields(reader.fields, writer.fields):
            inner = f"{path}.{entry.name}" if path else entry.name
            if source is not None:
                self.compare(entry.type, source.type, inner)
            elif entry.default is NO_DEFAULT:
                if self.new_reads:
                    self.add(inner, "was added without a default: give it a default")
                else:
                    self.add(inner, "was removed, and the earlier schema has no default for it: keep it")

    def compare_symbols(self, reader: AvroType, writer: AvroType, path: str) -> None:
        unknown = [symbol for symbol in writer.symbols if symbol not in reader.symbols]
        if unknown and reader.symbol_default is None:
            names = ", ".join(unknown)
            if self.new_reads:
                self.add(path, f"lost the enum symbols {names}: keep them, or give the enum a default")
            else:
                self.add(path, f"has new enum symbols {names}, and the earlier enum has no default: leave them out")

    def type_mismatch(self, reader: AvroType, writer: AvroType, path: str) -> None:
        new, old = self.sides(reader, writer)
        if reader.kind == writer.kind and reader.kind in NAMED:
            remedy = f"keep the name, or give it the alias {old.name!r}" if self.new_reads else "keep the name"
        elif self.new_reads:
            wider = ", ".join(PROMOTIONS.get(old.kind, ()))
            remedy = f"keep {old.label}" + (f", or widen it to {wider}" if wider else "")
        else:
            remedy = f"keep {old.label}, which readers of the earlier schema expect"
        self.add(path, f"is {new.label} where the earlier schema has {old.label}: {remedy}")

    def sides(self, reader: T, writer: T) -> tuple[T, T]:
        """(of the new schema, of the earlier one)."""
        return (reader, writer) if self.new_reads else (writer, reader)

    def add(self, path: str, text: str) -> None:
        self.problems.append(f"field {path!r} {text}" if path else f"the schema {text}")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command line's to a parser."""
    parser.add_argument("new", type=Path, metavar="NEW.avsc")
    parser.add_argument("earlier", type=Path, nargs="+", metavar="EARLIER.avsc", help="oldest first")
    parser.add_argument("--level", choices=LEVELS, default="BACKWARD")


def main(argv: Sequence[str]) -> int:
    args = SCHEMAS["schemas compatibility"].parser().parse_args(argv)
    texts = []
    for path in (args.new, *args.earlier):
        try:
            texts.append(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as e:
            raise UserError(f"schema file {path} cannot be read ({e}); give the path of an .avsc file") from e
        try:
            check_valid(parse_schema(texts[-1]))
        except UserError as e:
            raise UserError(f"{path}: {e}") from e
    problems = check(texts[0], texts[1:], args.level)
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    run(main)
