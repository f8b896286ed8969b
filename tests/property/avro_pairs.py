"""Pairs of Avro schemas as they come about: somebody writes with one, and reads with what became of it.

``python -m tests.property.avro_pairs CLASSPATH`` asks Apache Avro for Java about some thousands of them, and keeps its
verdicts in ``java/verdicts.json.xz``. The class path: ``mvn dependency:copy-dependencies`` for a pom with
org.apache.avro:avro:1.12.0.
"""

from __future__ import annotations

import copy
import json
import lzma
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

HERE = Path(__file__).parent / "java"
VERDICTS = HERE / "verdicts.json.xz"
HOW_MANY = 3_300

PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
WIDER = {"int": ("long", "float", "double"), "long": ("float", "double"), "float": ("double",), "string": ("bytes",)}
LOGICALS = (
    ("int", "date"),
    ("int", "time-millis"),
    ("long", "time-micros"),
    ("long", "timestamp-millis"),
    ("long", "timestamp-micros"),
    ("long", "local-timestamp-millis"),
    ("string", "uuid"),
)
DEFAULTS = {
    "null": None,
    "boolean": True,
    "int": 1,
    "long": 2,
    "float": 0.5,
    "double": 1.5,
    "bytes": "x",
    "string": "y",
}
NAMES = ("Reading", "Kind", "Part")
SPACES = ("", "a", "b")


class Pairs:
    """Draws (writer, reader) from a source of random numbers."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def pair(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Two record schemas; the reader's came about from the writer's, by a few changes."""
        self._used: set[str] = set()
        writer = self.record(2, "Event")
        self._used = set(_names(writer))
        return writer, self.evolved_record(writer, 2)

    def chance(self, one_in: int) -> bool:
        return self.random.randrange(one_in) == 0

    def pick(self, items: Any) -> Any:
        return items[self.random.randrange(len(items))]

    def name(self) -> dict[str, str]:
        """A name that is not taken, in a namespace or in that of the record around it."""
        short, space = self.pick(NAMES), self.pick(SPACES)
        while f"{space}.{short}" in self._used:
            short += "2"
        self._used.add(f"{space}.{short}")
        if space and self.chance(2):
            return {"name": f"{space}.{short}"}
        return {"name": short, "namespace": space}

    def type(self, depth: int, union: bool = True) -> Any:
        kinds = ["primitive"] * 4 + ["logical", "decimal", "enum", "fixed"]
        if depth > 0:
            kinds += ["array", "map", "record", "record"] + (["union", "nullable", "nullable"] if union else [])
        match self.pick(kinds):
            case "logical":
                kind, logical = self.pick(LOGICALS)
                return {"type": kind, "logicalType": logical}
            case "decimal":
                return self.decimal()
            case "enum":
                symbols = ["A", "B", "C"][: 1 + self.random.randrange(3)]
                return {"type": "enum", **self.name(), "symbols": symbols} | (
                    {"default": symbols[0]} if self.chance(3) else {}
                )
            case "fixed":
                return {"type": "fixed", **self.name(), "size": self.pick([2, 4])}
            case "array":
                return {"type": "array", "items": self.type(depth - 1)}
            case "map":
                return {"type": "map", "values": self.type(depth - 1)}
            case "record":
                return self.record(depth - 1)
            case "nullable":
                inner = self.type(depth - 1, union=False)
                return ["null", inner] if inner != "null" else inner
            case "union":
                return self.union(depth)
            case _:
                return self.pick(PRIMITIVES)

    def decimal(self) -> Any:
        logical = {"logicalType": "decimal", "precision": self.pick([4, 9]), "scale": self.pick([0, 2])}
        if self.chance(4):
            return {"type": "fixed", **self.name(), "size": 4, **logical}
        return {"type": "bytes", **logical}

    def union(self, depth: int) -> list[Any]:
        branches: dict[str, Any] = {}
        for _ in range(2 + self.random.randrange(3)):
            branch = self.type(depth - 1, union=False)
            branches.setdefault(_key(branch), branch)
        return list(branches.values())

    def record(self, depth: int, name: str = "") -> dict[str, Any]:
        fields = [self.field(f"f{i}", depth) for i in range(self.random.randrange(1 if depth < 2 else 2, 4))]
        out = {"type": "record", **({"name": name} if name else self.name()), "fields": fields}
        if self.chance(8):
            fields.append({"name": "next", "type": ["null", _full(out)], "default": None})
        return out

    def field(self, name: str, depth: int) -> dict[str, Any]:
        return self.with_default({"name": name, "type": self.type(depth)})

    def with_default(self, field: dict[str, Any]) -> dict[str, Any]:
        kind = field["type"]
        first = kind[0] if isinstance(kind, list) and kind else kind
        if isinstance(first, str) and first in DEFAULTS and self.chance(2):
            field["default"] = DEFAULTS[first]
        return field

    def evolved(self, schema: Any, depth: int) -> Any:
        """What became of a type."""
        if self.chance(12):
            return self.type(depth)
        if isinstance(schema, list):
            return self.evolved_union(schema, depth)
        if isinstance(schema, str):
            wider = WIDER.get(schema, ())
            return self.pick([schema, schema, schema, *wider, ["null", schema] if schema != "null" else schema])
        out = copy.deepcopy(schema)
        match out["type"]:
            case "array":
                out["items"] = self.evolved(out["items"], depth - 1)
            case "map":
                out["values"] = self.evolved(out["values"], depth - 1)
            case "record":
                out = self.evolved_record(out, depth - 1)
            case "enum" if self.chance(2):
                out["symbols"] = self.random.sample(["A", "B", "C", "D"], 1 + self.random.randrange(4))
                out.pop("default", None)
                if self.chance(2):
                    out["default"] = out["symbols"][0]
            case "fixed" if self.chance(5):
                out["size"] = self.pick([2, 4])
        if out.get("logicalType") == "decimal" and self.chance(2):
            out |= {"precision": self.pick([4, 9]), "scale": self.pick([0, 2])}
        elif "logicalType" in out and self.chance(4):
            return out["type"] if isinstance(out["type"], str) and out["type"] in PRIMITIVES else schema
        elif out.get("logicalType", "").startswith("timestamp") and self.chance(3):
            out["logicalType"] = self.pick(["timestamp-millis", "timestamp-micros"])
        if "name" in out and self.chance(5):
            out = self.renamed(out)
        if self.chance(6):
            return ["null", out]
        if out["type"] == "bytes" and self.chance(6):
            return self.pick(["bytes", "string"])
        return out

    def renamed(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Under another name, in another namespace, with or without an alias; recursive types stay."""
        old = _full(schema)
        if any(isinstance(f["type"], list) and old in f["type"] for f in schema.get("fields", ())):
            return schema
        out = {**schema, **self.name()} if self.chance(2) else {**schema, **self.moved(schema)}
        if "namespace" in schema and "." in out["name"]:
            out.pop("namespace", None)
        if self.chance(2):
            out["aliases"] = [self.pick([old, old.rpartition(".")[2]])]
        return out

    def moved(self, schema: dict[str, Any]) -> dict[str, str]:
        short, space = _full(schema).rpartition(".")[2], self.pick(SPACES)
        if f"{space}.{short}" in self._used:
            return {}
        self._used.add(f"{space}.{short}")
        return {"name": short, "namespace": space}

    def evolved_union(self, schema: list[Any], depth: int) -> Any:
        match self.random.randrange(6):
            case 0:
                branches = [*schema, self.type(0, union=False)]
            case 1:
                branches = schema[:-1] or schema
            case 2:
                branches = self.random.sample(schema, len(schema))
            case 3:
                return self.evolved(self.pick(schema), depth - 1)
            case 4:
                branches = schema
            case _:
                branches = [branch if self.chance(2) else self.evolved(branch, depth - 1) for branch in schema]
        flat = [branch for branch in branches if not isinstance(branch, list)]
        return list({_key(branch): branch for branch in flat}.values()) or schema

    def evolved_record(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        fields = []
        for entry in schema["fields"]:
            if self.chance(10):
                continue
            new = {"name": entry["name"], "type": entry["type"]}
            if entry["name"] != "next" and not self.chance(3):
                new["type"] = self.evolved(entry["type"], depth)
            if self.chance(6):
                new["name"] = f"{entry['name']}_new"
                if self.chance(2):
                    new["aliases"] = [entry["name"]]
            fields.append(self.with_default(new))
        if self.chance(3):
            fields.append(self.field("added", 0))
        if fields and self.chance(12):  # an alias that may be another field's name
            fields[0]["aliases"] = [self.pick(schema["fields"])["name"]] if schema["fields"] else []
        return {**schema, "fields": self.random.sample(fields, len(fields)) if self.chance(3) else fields}


def _full(schema: dict[str, Any]) -> str:
    name, space = schema["name"], schema.get("namespace", "")
    return f"{space}.{name}" if space and "." not in name else str(name)


def _key(branch: Any) -> str:
    if isinstance(branch, dict):
        return _full(branch) if "name" in branch else str(branch["type"])
    return str(branch)


def _names(schema: Any) -> Iterator[str]:
    if isinstance(schema, list):
        for item in schema:
            yield from _names(item)
    elif isinstance(schema, dict):
        if "name" in schema and schema["type"] in ("record", "enum", "fixed"):
            full = _full(schema)
            yield full if "." in full else f".{full}"
        for key in ("type", "items", "values", "fields"):
            if isinstance(schema.get(key), dict | list):
                yield from _names(schema[key])


@cache
def verdicts() -> list[tuple[dict[str, Any], dict[str, Any], bool]]:
    """(writer, reader, whether Java's SchemaCompatibility lets the reader read the writer)."""
    return [tuple(entry) for entry in json.loads(lzma.decompress(VERDICTS.read_bytes()))]


def ask_java(jars: str) -> None:
    """Writes ``VERDICTS``; ``jars``: a class path with Avro and what it needs."""
    pairs, random = {}, Random(20_261_129)
    while len(pairs) < HOW_MANY:
        writer, reader = Pairs(random).pair()
        pairs[json.dumps([writer, reader])] = (writer, reader)
    program = ["java", "-cp", jars, str(HERE / "Verdicts.java")]
    done = subprocess.run(program, input="\n".join(pairs), capture_output=True, text=True, check=True)
    answers = done.stdout.split()
    print({answer: answers.count(answer) for answer in set(answers)})
    kept = [
        [*pair, answer == "COMPATIBLE"]
        for pair, answer in zip(pairs.values(), answers, strict=True)
        if answer != "INVALID"
    ]
    VERDICTS.write_bytes(lzma.compress(json.dumps(kept, separators=(",", ":")).encode(), preset=9))


if __name__ == "__main__":
    ask_java(sys.argv[1])
