"""What people say of alerts, a record each: read and checked. No Beam, no broker."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from beam_jobs.errors import UserError, listed, shown
from beam_jobs.preprocessing.fields import Field

VERDICTS = ("confirmed", "false")

_OF_KIND = {"boolean": ("true", "false"), "string": ("confirmed", "none"), "number": ("1", "0")}
_NUMBER = "0|[1-9][0-9]"
_ID = re.compile(rf"(?P<topic>.+)-(?P<partition>{_NUMBER}{{0,8}})-(?P<offset>{_NUMBER}{{0,17}})")


class Verdict(NamedTuple):
    """What was said of one alert, and where: of several the one with the highest ``place`` counts."""

    id: str
    label: str
    at_ms: int
    partition: int = -1
    offset: int = -1

    @property
    def place(self) -> tuple[int, int, int]:
        """When it was said; of the same millisecond the higher partition counts, then the higher offset."""
        return self.at_ms, self.partition, self.offset


@dataclass(frozen=True)
class Labels:
    """What labels of a use case are, as text."""

    right: str  # where an alert was right and nobody said more
    wrong: str
    free: bool = False  # a text: a verdict may say which
    symbols: tuple[str, ...] = ()  # of an enum, which has no others

    @classmethod
    def of(cls, field: Field) -> Labels:
        """Of the field that is tagged as the label.

        Raises:
          UserError: nothing people say could stand in it.
        """
        if field.kind not in _OF_KIND:
            raise UserError(
                f"the label {field.name} is of the type {shown(field.type)}; verdicts become a text, a boolean or a "
                "number: tag such a field"
            )
        types = field.type if isinstance(field.type, list) else [field.type]
        symbols = [s for each in types if isinstance(each, dict) for s in each.get("symbols", ())]
        return cls(*_OF_KIND[field.kind], free=field.kind == "string", symbols=tuple(symbols))


def verdict_of(value: bytes | None, at_ms: int, labels: Labels, partition: int = -1, offset: int = -1) -> Verdict:
    """Reads one record of feedback.

    Raises:
      UserError: it is none.
    """
    try:
        said = json.loads(value or b"")
        id_, verdict, label = said["id"], said["verdict"], said.get("label")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError('no {"id": …, "verdict": "confirmed" or "false"}') from None
    if not isinstance(id_, str) or position_of(id_) is None or not _is_text(id_):
        raise UserError(f"the id {shown(id_)} is none of an alert: topic-partition-offset")
    if verdict not in VERDICTS:
        raise UserError(f"the verdict {shown(verdict)} of {id_} is none of {', '.join(VERDICTS)}")
    otherwise = labels.right if verdict == "confirmed" else labels.wrong
    if not labels.free:  # there is one that says it was right, whatever kind of right
        return Verdict(id_, otherwise, at_ms, partition, offset)
    if label is not None and not (isinstance(label, str) and label and _is_text(label) and verdict == "confirmed"):
        raise UserError(f"the label of {id_} is {shown(label)}; it is a text, beside confirmed")
    found = label or otherwise
    if labels.symbols and found not in labels.symbols:
        raise UserError(f"the label {shown(found)} of {id_} is none of the schema's: {listed(labels.symbols)}")
    return Verdict(id_, found, at_ms, partition, offset)


def position_of(id_: str) -> tuple[str, int, int] | None:
    """Topic, partition and offset of an alert's id; None: it is none, as alerts write it."""
    found = _ID.fullmatch(id_)
    return found and (found["topic"], int(found["partition"]), int(found["offset"]))


def verdicts(blocks: Iterable[pa.RecordBatch | None], labels: Labels, bad: Counter[str]) -> list[Verdict]:
    """The last of each alert, in the order they were said; what is none is counted by what is wrong with it."""
    found: dict[str, Verdict] = {}
    for block in blocks:
        if block is None:
            continue
        at = block.column("timestamp").cast(pa.int64())  # any 64 bits: a year 300000 is no datetime
        columns = [block.column("value"), at, block.column("partition"), block.column("offset")]
        for value, at_ms, partition, offset in zip(*(each.to_pylist() for each in columns), strict=True):
            try:
                verdict = verdict_of(value, at_ms, labels, partition, offset)
            except UserError as error:
                bad[str(error)] += 1
                continue
            before = found.get(verdict.id)
            if before is None or before.place < verdict.place:
                found[verdict.id] = verdict
    return sorted(found.values(), key=lambda verdict: verdict.place)


def _is_text(value: str) -> bool:
    """Whether it can be written: JSON may hold halves of surrogate pairs."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
