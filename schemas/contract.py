"""What a change of a schema does to those who have the earlier one: its data, its readers, and what the values mean.

    >>> earlier = {"type": "record", "name": "Car", "fields": [{"name": "speed", "type": "double", "unit": "m/s"}]}
    >>> now = {"type": "record", "name": "Car", "fields": [{"name": "speed", "type": "double", "unit": "km/h"}]}
    >>> for finding in compare(now, earlier):
    ...     print(finding)
    meaning: field 'speed' has the unit 'km/h' where the earlier schema has 'm/s': add a field of another name instead

Avro's own rules (``compatibility``) know names and types only; the tags are ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import schemas
from beam_jobs.codec.schema import parse_record
from schemas.compatibility import check

OLD_DATA = "old data"  # today's schema cannot read, or refuses, what was written with the earlier one
OLD_READERS = "old readers"  # who reads with the earlier schema cannot read what is written today
MEANING = "meaning"  # a value that is read without an error, and wrongly
PERSONAL = "personal data"  # would leave where it was kept back

_UNDEFINED = object()


@dataclass(frozen=True)
class Finding:
    """One consequence of a change."""

    direction: str  # OLD_DATA, OLD_READERS, MEANING or PERSONAL
    text: str  # the field, what it is and was, what to do
    breaks: bool = True  # False: to be known, nothing more

    def __str__(self) -> str:
        return f"{self.direction}: {self.text}"


def compare(now: Mapping[str, Any], earlier: Mapping[str, Any]) -> list[Finding]:
    """What the change from one record schema to another breaks, or does without breaking anything.

    Raises:
      UserError: one of them is no valid Avro record schema.
    """
    parse_record(now), parse_record(earlier)
    found = [Finding(OLD_DATA, text) for text in check(now, [earlier], "BACKWARD")]
    found += [Finding(OLD_READERS, text) for text in check(now, [earlier], "FORWARD")]
    for new, old in _record_pairs(now, earlier):
        where = "" if new is now else f"{new['name']}."
        pairs = list(_field_pairs(new, old))
        found += _lost_aliases(f"record {new['name']!r}", new, old)
        found += _lost_fields(where, old, [source["name"] for _, source in pairs])
        for field, source in pairs:
            found += _of_field(f"field {where + field['name']!r}", field, source)
    return list(dict.fromkeys(found))


def _lost_aliases(what: str, new: Mapping[str, Any], old: Mapping[str, Any]) -> Iterator[Finding]:
    lost = [name for name in _aliases(old) if name not in (new["name"], *_aliases(new))]
    if lost:
        yield Finding(OLD_DATA, f"{what} lost the alias {', '.join(lost)}: keep it for those who write that name")


def _lost_fields(where: str, old: Mapping[str, Any], kept: Sequence[str]) -> Iterator[Finding]:
    for field in old["fields"]:
        if field["name"] not in kept:
            what = f"field {where + field['name']!r} is gone, and its values with it"
            yield Finding(OLD_DATA, f"{what}; JSON records that carry it are refused: keep it, or make it an alias")


def _of_field(field: str, new: Mapping[str, Any], old: Mapping[str, Any]) -> Iterator[Finding]:
    yield from _lost_aliases(field, new, old)
    default, before = new.get("default", _UNDEFINED), old.get("default", _UNDEFINED)
    if before is not _UNDEFINED and default is _UNDEFINED:
        yield Finding(OLD_DATA, f"{field} lost its default: keep it for writers that leave the field out")
    elif before is not _UNDEFINED and default != before:
        change = f"has the default {default!r} where the earlier schema has {before!r}"
        yield Finding(MEANING, f"{field} {change}: records that leave it out would change; keep {before!r}")
    kind, was = _logical(new["type"]), _logical(old["type"])
    if kind != was and not (kind and was):  # two kinds of them are Avro's own business
        change = f"is {kind or 'a plain value'} where the earlier schema has {was or 'a plain value'}"
        yield Finding(MEANING, f"{field} {change}: keep it")
    yield from _of_tags(field, schemas.tags(new), schemas.tags(old))


def _of_tags(field: str, new: Mapping[str, Any], old: Mapping[str, Any]) -> Iterator[Finding]:
    unit, before = new.get("unit"), old.get("unit")
    if before is not None and unit != before:
        change = f"has {f'the unit {unit!r}' if unit else 'no unit'} where the earlier schema has {before!r}"
        yield Finding(MEANING, f"{field} {change}: add a field of another name instead")
    elif unit != before:
        yield Finding(MEANING, f"{field} has the unit {unit!r}, the earlier schema none: retrain the models", False)
    for tag, sign in (("min", 1), ("max", -1)):
        limit, limited = new.get(tag), old.get(tag)
        if limit == limited:
            continue
        change = f"{field} has the {tag} {limit} where the earlier schema has {limited}"
        if limit is not None and (limited is None or (limit - limited) * sign > 0):
            yield Finding(OLD_DATA, f"{change}: records outside become dead letters; keep the wider limit")
        else:
            yield Finding(OLD_READERS, f"{change}: jobs that are not updated refuse more; retrain the models", False)
    rank = {None: 0, "quasi": 1, "direct": 2}
    pii, before = new.get("pii"), old.get("pii")
    if rank.get(pii, 2) < rank.get(before, 2):
        change = f"is tagged {pii!r}" if pii else "is no longer tagged as personal data"
        yield Finding(PERSONAL, f"{field} {change} where the earlier schema has pii {before!r}: put the tag back")
    elif pii != before:
        yield Finding(PERSONAL, f"{field} is now tagged pii {pii!r}: queries that select it plainly are refused", False)
    if bool(new.get("label")) != bool(old.get("label")):
        if old.get("label"):
            yield Finding(MEANING, f"{field} is no longer the label: models would learn from the truth; tag it again")
        else:
            yield Finding(MEANING, f"{field} is now the label: no model may have it as an input", False)


def _record_pairs(
    now: Mapping[str, Any], earlier: Mapping[str, Any]
) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The records both schemas define, of every depth, the outermost first."""
    yield now, earlier
    old_records = list(_records(earlier))[1:]
    for new in list(_records(now))[1:]:
        names = {name.rpartition(".")[2] for name in (new["name"], *_aliases(new))}
        for old in old_records:
            if old["name"].rpartition(".")[2] in names:
                yield new, old
                break


def _field_pairs(
    new: Mapping[str, Any], old: Mapping[str, Any]
) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The fields both records have: by name, else by the newer one's alias."""
    by_name = {field["name"]: field for field in old["fields"]}
    own = {field["name"] for field in new["fields"]}
    for field in new["fields"]:
        names = (field["name"], *(alias for alias in _aliases(field) if alias not in own))
        source = next((by_name[name] for name in names if name in by_name), None)
        if source is not None:
            yield field, source


def _records(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Every record a schema defines, the outermost first."""
    if isinstance(schema, list):
        for branch in schema:
            yield from _records(branch)
    elif isinstance(schema, Mapping):
        if schema.get("type") == "record":
            yield schema
            for field in schema["fields"]:
                yield from _records(field["type"])
        else:
            for key in ("type", "items", "values"):
                yield from _records(schema.get(key))


def _aliases(definition: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(definition.get("aliases", ()))


def _logical(kind: Any) -> str | None:
    branches = [branch for branch in (kind if isinstance(kind, list) else [kind]) if branch != "null"]
    value = branches[0] if len(branches) == 1 else None
    return value.get("logicalType") if isinstance(value, Mapping) else None
