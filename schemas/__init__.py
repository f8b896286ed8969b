"""The Avro schemas that ship with Highbeam: the contract of its topics, for other tools as well.

Besides what Avro asks for, a field may carry

* ``unit``: unit of the value, such as "psi";
* ``min``, ``max``: physical limits; a value outside is an error of the sensor, so the record is a dead letter;
* ``pii``: "direct" (identifies a person) or "quasi" (does so together with other data);
* ``label``: true for the truth a model is judged by, which is never an input of a model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from beam_jobs.errors import UserError

TAGS = ("unit", "min", "max", "pii", "label")


def names() -> list[str]:
    """The shipped schemas, sorted."""
    entries = resources.files(__name__).iterdir()
    return sorted(entry.name.removesuffix(".avsc") for entry in entries if entry.name.endswith(".avsc"))


def load(name: str) -> dict[str, Any]:
    """The shipped schema ``name``, such as "car_sensor", as a fresh dict; UserError if there is none."""
    path = resources.files(__name__) / f"{name}.avsc"
    if "/" in name or not path.is_file():
        raise UserError(f"schema {name!r} does not ship with Highbeam; it is one of {', '.join(names())}")
    schema: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return schema


def tags(field: Mapping[str, Any]) -> dict[str, Any]:
    """The tags of a field of a record schema, those beside its own type among them.

    >>> tags({"name": "speed", "type": {"type": "double", "unit": "m/s"}, "min": 0})
    {'unit': 'm/s', 'min': 0}
    """
    kind = field["type"]
    branches = [branch for branch in (kind if isinstance(kind, list) else [kind]) if branch != "null"]
    beside = branches[0] if len(branches) == 1 and isinstance(branches[0], Mapping) else {}
    found = {**beside, **field}
    return {name: found[name] for name in TAGS if found.get(name) is not None}
