"""Sentences for the rows the Avro machine refused."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from beam_jobs.codec.avro import ops as op
from beam_jobs.codec.avro.code import Code
from beam_jobs.errors import Reason, RowErrors, shown

REASONS: Mapping[int, Reason] = {
    op.NULL_VALUE: "null_value",
    op.EMPTY_VALUE: "empty_value",
    op.BAD_MAGIC: "bad_magic_byte",
    op.TRUNCATED_HEADER: "truncated_header",
    op.UNKNOWN_ID: "unknown_schema_id",
    op.UNRESOLVABLE_SCHEMA: "unresolvable",
    op.SCHEMA_TOO_LARGE: "schema_too_large",
    op.TRUNCATED: "truncated",
    op.TRAILING: "trailing_bytes",
    op.NOT_UTF8: "invalid_utf8",
    op.SYMBOL_DROPPED: "unresolvable",
    op.UNRESOLVABLE_VALUE: "unresolvable",
}  # every other status is "invalid_value"

BY_ID = (op.UNKNOWN_ID, op.UNRESOLVABLE_SCHEMA, op.SCHEMA_TOO_LARGE)  # the same sentence for all rows of a schema id
RUNS = (op.DOUBLE, op.LONG, op.INT)  # read several fields

HEADER_SENTENCES = {
    op.NULL_VALUE: "the value is null (a tombstone)",
    op.EMPTY_VALUE: "the value has no bytes",
    op.BAD_MAGIC: "the first byte is 0x{value:02x}, expected 0x00 (Confluent framing)",
    op.TRUNCATED_HEADER: "the value has {value} bytes, expected 0x00 and a schema id of 4 bytes",
}
FIELD_SENTENCES = {
    op.TRUNCATED: "field {field!r} at byte {at}: the value ends before the field does",
    op.VARINT_TOO_LONG: "field {field!r} at byte {at}: an integer of more than 64 bits",
    op.NEGATIVE_LENGTH: "field {field!r} at byte {at}: the length {value} is negative",
    op.OUT_OF_RANGE: "field {field!r} at byte {at}: {value} is outside the range of its type",
    op.NOT_BOOLEAN: "field {field!r} at byte {at}: byte {value}, expected a boolean, 0x00 or 0x01",
    op.NO_SUCH_BRANCH: "field {field!r} at byte {at}: union branch {value}, expected 0 to {last}",
    op.NO_SUCH_SYMBOL: "field {field!r} at byte {at}: enum symbol number {value}, expected 0 to {last}",
    op.SYMBOL_DROPPED: "field {field!r} at byte {at}: the writer's enum symbol number {value} is not in the reader's",
    op.TOO_MANY_ITEMS: "field {field!r} at byte {at}: announces {value} items, more than the value can hold",
    op.TOO_DEEP: f"field {{field!r}} at byte {{at}}: nested deeper than {op.MAX_DEPTH} levels",
    op.NOT_UTF8: "field {field!r} at byte {at}: the string's {value} bytes are not UTF-8",
    op.TRAILING: "{value} bytes after the last field",
    op.DECIMAL_TOO_LARGE: "field {field!r} at byte {at}: the decimal has more digits than its precision",
}


def row_errors(
    code: Code,
    status: NDArray[np.int32],
    detail: NDArray[np.int64],
    by_id: Mapping[int, str],
    header: int,
) -> RowErrors:
    """The errors of a block.

    Args:
      code: what was run.
      status, detail: int32 [n], int64 [n, 4] as ``vm.run`` left them.
      by_id: the sentence of each schema id that cannot be used.
      header: bytes before the body, for positions within the value.
    """
    rows = np.flatnonzero(status)
    reasons: list[Reason] = []
    errors: list[str] = []
    for why, (pc, at, value, nth) in zip(status[rows].tolist(), detail[rows].tolist(), strict=True):
        reasons.append(REASONS.get(why, "invalid_value"))
        if why in HEADER_SENTENCES:
            errors.append(HEADER_SENTENCES[why].format(value=value))
        elif why in BY_ID:
            errors.append(by_id[value])
        else:
            program, number = code.locate(pc)
            instruction = program.ops[number].tolist()
            if why == op.UNRESOLVABLE_VALUE:
                errors.append(program.sentences[instruction[op.A]])
                continue
            sentence = FIELD_SENTENCES[why]
            fields = program.run_fields.get(number, []) if instruction[op.OP] in RUNS else []
            field = program.names[fields[nth] if fields else instruction[op.FIELD]]
            found = shown(value, field in program.personal, form="0x{:02x}".format if why == op.NOT_BOOLEAN else str)
            errors.append(sentence.format(field=field, at=at + header, value=found, last=instruction[op.A] - 1))
    return RowErrors(rows, reasons, errors)
