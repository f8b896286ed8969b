"""The rows of an archive: which columns, and the Avro schema that says so.

An archive holds *features* (the rows preprocessing lets through, as the model sees them) or *events* (decoded, without
the fields that are tagged as personal data). Either way each row carries where it came from and the label, if there is
one; events their record's key as well. No tag says what is in a record's key: unless asked otherwise, a key that is not
the text of the key field is not kept, that text stands for it. The schema's property ``highbeam`` names the use case,
the content and the fingerprint of the preprocessing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.block import SOURCE_PREFIX, Block
from beam_jobs.codec.schema import arrow_schema
from beam_jobs.errors import UserError
from beam_jobs.origin import origin
from beam_jobs.preprocessing.fields import fields_of
from beam_jobs.use_case import UseCase

Content = Literal["features", "events"]

PROPERTY = "highbeam"
CUT = "truncated"  # of the event time: the unit it was cut to, for exact times are personal

_MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
SOURCE_FIELDS: tuple[dict[str, Any], ...] = (
    {"name": "source_topic", "type": "string", "doc": "topic the event came from"},
    {"name": "source_partition", "type": "int"},
    {"name": "source_offset", "type": "long"},
    {"name": "source_timestamp", "type": _MILLIS, "doc": "the record's own time"},
)
SOURCE_KEY: dict[str, Any] = {
    "name": "source_key",
    "type": ["null", "bytes"],
    "default": None,
    "doc": "the record's key; null: it had none",
}


def archive_schema(use_case: UseCase, content: Content, lookup: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The Avro schema of the archive's rows.

    Args:
      lookup: fields that a lookup table adds; readers of the archive need not know them.

    Raises:
      UserError: two fields have one name, or one of the lookup table is called like personal data.
    """
    fields = _features(use_case) if content == "features" else _events(use_case)
    if content == "events":
        fields = [SOURCE_KEY, *fields]
    _check_lookup(use_case, [*SOURCE_FIELDS, *fields], lookup)
    clash = {f["name"] for f in fields} & {f["name"] for f in SOURCE_FIELDS}
    if clash:
        raise UserError(f"use case {use_case.name}: a field is called {min(clash)!r}, which the archive uses itself")
    return {
        "type": "record",
        "name": f"{use_case.name}_{content}",
        PROPERTY: {
            "use_case": use_case.name,
            "content": content,
            "preprocessing": use_case.preprocessor().fingerprint,
            **({"keys": True} if content == "events" else {}),
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
        cut = preprocessor.time_unit if column.name == use_case.event_time else None
        fields.append(
            {
                "name": column.name,
                "type": ["null", avro] if column.nullable else avro,
                **({"unit": unit} if unit else {}),
                **({CUT: cut} if cut else {}),
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
    fields = [f for f in use_case.schema["fields"] if f["name"] not in personal]
    if any(f["name"] == SOURCE_KEY["name"] for f in fields):
        raise UserError(f"use case {use_case.name}: a field is called source_key, which the archive uses itself")
    return fields


def carried(use_case: UseCase) -> str | None:
    """The label where preprocessing does not put it out itself: it is carried past it."""
    label = use_case.label
    return label if label and label not in use_case.preprocessor().output_schema.names else None


def archive_rows(block: Block, schema: Mapping[str, Any], key: str | None = None) -> Block:
    """The rows of a block, features or events with their source, in the columns of the archive.

    The position is the origin's: an event that came from a replay is archived under the one it had at first.

    Args:
      key: the event's key field, whose text stands for the record's key; None: the record's key as it came.
    """
    arrow = arrow_schema(schema)
    own = {f"source_{name}": column for name, column in origin(block)._asdict().items()}
    cut = next((f["name"] for f in schema["fields"] if CUT in f), None)
    own["source_timestamp"] = block.column(cut or SOURCE_PREFIX + "timestamp")  # a record's own time says as much
    if SOURCE_KEY["name"] in arrow.names:
        own[SOURCE_KEY["name"]] = source_keys(block, key)
    columns = [own[f.name] if f.name in own else block.column(f.name) for f in arrow]
    cast = [c if c.type == f.type else c.cast(f.type) for c, f in zip(columns, arrow, strict=True)]
    return pa.RecordBatch.from_arrays(cast, schema=arrow)


def source_keys(block: Block, key: str | None) -> pa.Array:
    """The records' keys as the archive holds them, binary [n]: null where there was none; for ``key``: archive_rows."""
    own = block.column(SOURCE_PREFIX + "key")
    if key is None:
        return own
    text = block.column(key).cast(pa.string()).cast(pa.binary())
    return pc.if_else(own.is_valid(), text, None) if own.null_count else text


def other_keys(block: Block, key: str) -> bool:
    """Whether some record's key is another than the text of its event's key field."""
    own = block.column(SOURCE_PREFIX + "key")
    return bool(pc.any(pc.not_equal(own, source_keys(block, key))).as_py())
