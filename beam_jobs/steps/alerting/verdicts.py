"""What people say of alerts, a record each: read and checked. No Beam, no broker."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import pyarrow as pa

from beam_jobs.errors import UserError, shown

VERDICTS = ("confirmed", "false")


class Verdict(NamedTuple):
    """What was said of one alert."""

    id: str
    label: str
    at_ms: int


def verdict_of(value: bytes | None, at_ms: int, labels: tuple[str, str]) -> Verdict:
    """Reads one record of feedback.

    Args:
      labels: what the label is where an alert was right, and where it was false.

    Raises:
      UserError: it is none.
    """
    try:
        said = json.loads(value or b"")
        id_, verdict, label = said["id"], said["verdict"], said.get("label")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError('no {"id": …, "verdict": "confirmed" or "false"}') from None
    if not isinstance(id_, str) or position_of(id_) is None:
        raise UserError(f"the id {shown(id_)} is none of an alert: topic-partition-offset")
    if verdict not in VERDICTS:
        raise UserError(f"the verdict {shown(verdict)} of {id_} is none of {', '.join(VERDICTS)}")
    if label is not None and not (isinstance(label, str) and label and verdict == "confirmed"):
        raise UserError(f"the label of {id_} is {shown(label)}; it is a text, beside confirmed")
    return Verdict(id_, label or labels[VERDICTS.index(verdict)], at_ms)


def position_of(id_: str) -> tuple[str, int, int] | None:
    topic, _, rest = id_.rpartition("-")[0].rpartition("-")
    offset = id_.rpartition("-")[2]
    if not (topic and rest.isdecimal() and offset.isdecimal() and len(rest) < 10 and len(offset) < 19):
        return None
    return topic, int(rest), int(offset)


def verdicts(blocks: Iterable[pa.RecordBatch | None], labels: tuple[str, str], bad: Counter[str]) -> list[Verdict]:
    """The last of each alert, in the order they came; what is none is counted by what is wrong with it."""
    found: dict[str, Verdict] = {}
    for block in blocks:
        for row in () if block is None else block.select(["value", "timestamp"]).to_pylist():
            try:
                verdict = verdict_of(row["value"], int(row["timestamp"].timestamp() * 1000), labels)
            except UserError as error:
                bad[str(error)] += 1
                continue
            found.pop(verdict.id, None)
            found[verdict.id] = verdict
    return list(found.values())
