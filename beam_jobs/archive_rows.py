"""The rows of an archive: which columns, and the Avro schema that says so.

An archive holds *features* (the rows preprocessing lets through, as the model sees them) or *events* (decoded, without
the fields that are tagged as personal data). Either way each row carries where it came from and the label, if there is
one. The schema's property ``highbeam`` names the use case, the content and the fingerprint of the preprocessing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa

from beam_jobs.block import SOURCE_PREFIX, Block
from beam_jobs.codec.schema import arrow_schema
from beam_jobs.errors import UserError
from beam_jobs.preprocessing.fields import fields_of
from use_cases import UseCase

Content = Literal["features", "events"]

PROPERTY = "highbeam"

_MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
SOURCE_FIELDS: tuple[dict[str, Any], ...] = (
    {"name": "source_topic", "type": "string", "doc": "topic the event came from"},
    {"name": "source_partition", "type": "int"},
    {"name": "source_offset", "type": "long"},
    {"name": "source_timestamp", "type": _MILLIS, "doc": "the record's own time"},
)
_RAW = {f["name"]: SOURCE_PREFIX + f["name"].removeprefix("source_") for f in SOURCE_FIELDS}


def archive_schema(use_case: UseCase, content: Content, lookup: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The Avro schema of the archive's rows.

    Args:
      lookup: fields that a lookup table adds; readers of the archive need not know them.

    Raises:
      UserError: two fields have one name, or one of the lookup table is called like personal data.
    """
    fields = _features(use_case) if content == "features" else _events(use_case)
    _check_lookup(use_case, [*SOURCE_FIELDS, *fields], lookup)
    clash = {f["name"] for f in fields} & _RAW.keys()
    if clash:
        raise UserError(f"use case {use_case.name}: a field is called {min(clash)!r}, which the archive uses itself")
    return {
        "type": "record",
        "name": f"{use_case.name}_{content}",
        PROPERTY: {
            "use_case": use_case.name,
            "content": content,
            "preprocessing": use_case.preprocessor().fingerprint,
        },
        "fields": [*SOURCE_FIELDS, *fields, *lookup],
    }


def _check_lookup(use_case: UseCase, fields: Sequence[Mapping[str, Any]], lookup: Sequence[Mapping[str, Any]]) -> None:
    known = fields_of(use_case.schema)
    taken = {f["name"].lower() for f in fields}
    for name in (f["name"] for f in lookup):
        if name in known and known[name].pii is not None:
            raise UserError(
                f"the lookup table has a column {name!r}, which is personal data in the events (pii: "
                f"{known[name].pii}); leave it out"
            )
        if name.lower() in taken:
            raise UserError(f"the lookup table has a column {name!r}, as the archive's rows have; rename it")


def _features(use_case: UseCase) -> list[dict[str, Any]]:
    preprocessor = use_case.preprocessor()
    fields: list[dict[str, Any]] = []
    for column in preprocessor.output_schema:
        avro: Any = "float" if column.name in preprocessor.features else "string"
        if column.name == use_case.event_time:
            avro = _MILLIS
        unit = preprocessor.units.get(column.name)
        fields.append(
            {
                "name": column.name,
                "type": ["null", avro] if column.nullable else avro,
                **({"unit": unit} if unit else {}),
            }
        )
    label = carried(use_case)
    if label:
        fields += [f for f in use_case.schema["fields"] if f["name"] == label]
    return fields


def _events(use_case: UseCase) -> list[dict[str, Any]]:
    personal = {name for name, f in fields_of(use_case.schema).items() if f.pii is not None}
    if use_case.key in personal or use_case.event_time in personal:
        raise UserError(f"use case {use_case.name}: the key or the event time is personal data; archive features")
    return [f for f in use_case.schema["fields"] if f["name"] not in personal]


def carried(use_case: UseCase) -> str | None:
    """The label where preprocessing does not put it out itself: it is carried past it."""
    label = use_case.label
    return label if label and label not in use_case.preprocessor().output_schema.names else None


def archive_rows(block: Block, schema: Mapping[str, Any]) -> Block:
    """The rows of a block, features or events with their source, in the columns of the archive."""
    arrow = arrow_schema(schema)
    columns = [block.column(_RAW.get(f.name, f.name)) for f in arrow]
    cast = [c if c.type == f.type else c.cast(f.type) for c, f in zip(columns, arrow, strict=True)]
    return pa.RecordBatch.from_arrays(cast, schema=arrow)
