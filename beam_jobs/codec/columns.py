"""Columns from elsewhere (a Parquet file, a dataframe) as the fields of a schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from beam_jobs.errors import UserError


def find_columns(where: str, there: Sequence[str], schema: Mapping[str, Any], wanted: pa.Schema) -> dict[str, str]:
    """Field to column, which may go by one of the field's aliases; nullable fields may be missing.

    Args:
      where: the columns are, for errors.
      there: their names.
      schema: the Avro schema of the fields.
      wanted: the fields.

    Raises:
      UserError: a column that is missing, or is there more than once.
    """
    aliases = {field["name"]: [field["name"], *field.get("aliases", ())] for field in schema["fields"]}
    found: dict[str, str] = {}
    for wish in wanted:
        name = next((alias for alias in aliases[wish.name] if alias in there), None)
        if name is not None and list(there).count(name) > 1:
            raise UserError(f"{where}: has the column {name!r} more than once; write it once")
        if name is not None:
            found[wish.name] = name
        elif not wish.nullable:
            raise UserError(f"{where}: no column {wish.name!r}; it has {', '.join(there)}")
    return found


def fit_column(where: str, array: pa.Array, field: pa.Field) -> pa.Array:
    """A column as the field's type; UserError if it does not fit."""
    if array.null_count and not field.nullable:
        raise UserError(f"{where}: column {field.name!r} has nulls, which the schema forbids; drop those rows")
    try:
        return array.cast(field.type)
    except pa.ArrowException as error:
        raise UserError(
            f"{where}: column {field.name!r} is {array.type} and can't become {field.type} ({error})"
        ) from error
