"""Which writer's types a reader's type takes: "Schema Resolution" of the Avro specification, type by type.

The decoder and the compatibility check both ask here, so that what one calls compatible the other reads.
"""

from __future__ import annotations

from collections.abc import Sequence

from beam_jobs.codec.schema import AvroField, AvroType

PROMOTIONS = {  # writer's type: the reader's types that can take it
    "int": ("long", "float", "double"),
    "long": ("float", "double"),
    "float": ("double",),
    "string": ("bytes",),
    "bytes": ("string",),
}
NAMED = ("record", "enum", "fixed")


def same_name(reader: AvroType, writer: AvroType) -> bool:
    """Whether two named types go by one name: the unqualified one, or one of the reader's aliases in full."""
    return _unqualified(reader) == _unqualified(writer) or writer.name in reader.aliases


def may_match(reader: AvroType, writer: AvroType) -> bool:
    """Whether two types that are no unions match by themselves, whatever is inside them."""
    if reader.kind != writer.kind:
        return reader.kind in PROMOTIONS.get(writer.kind, ())
    return reader.kind not in NAMED or same_name(reader, writer)


def misread(reader: AvroType, writer: AvroType) -> bool:
    """Whether values of two matching types mean different things: another scale, another unit, a number as a text.

    A logical type on one side alone is fine (a long may be called a time later on), but a decimal is no text: its
    bytes are a number.
    """
    if reader.logical and writer.logical:
        return logical_name(reader) != logical_name(writer)
    return reader.kind != writer.kind and "decimal" in (reader.logical, writer.logical)


def logical_name(avro: AvroType) -> str | None:
    """The logical type with all that belongs to it."""
    return f"decimal({avro.precision}, {avro.scale})" if avro.logical == "decimal" else avro.logical


def candidates(branches: Sequence[AvroType], writer: AvroType) -> list[AvroType]:
    """The reader's union branches that may get a writer's type, which is no union itself.

    The one of the same full name, or of the same primitive type, comes before all others; without it readers differ
    in which one they take.
    """
    found = [branch for branch in branches if may_match(branch, writer)]
    exact = [branch for branch in found if branch.kind == writer.kind and branch.name == writer.name]
    return exact or found


def pair_fields(reader: Sequence[AvroField], writer: Sequence[AvroField]) -> list[tuple[AvroField, AvroField | None]]:
    """Each field of the reader with the writer's field it takes: by name, then by alias among those left."""
    by_name = {entry.name: entry for entry in writer}
    taken = {entry.name for entry in reader} & by_name.keys()
    pairs: list[tuple[AvroField, AvroField | None]] = []
    for entry in reader:
        source = by_name.get(entry.name)
        if source is None:
            alias = next((name for name in entry.aliases if name in by_name and name not in taken), None)
            if alias is not None:
                taken.add(alias)
                source = by_name[alias]
        pairs.append((entry, source))
    return pairs


def _unqualified(avro: AvroType) -> str:
    return avro.name.rpartition(".")[2]
