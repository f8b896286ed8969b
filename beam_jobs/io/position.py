"""Where reading starts and ends, as a user writes it (``--from``, ``--until``)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from beam_jobs.errors import UserError

_HELP = "expected earliest, latest, a time (2026-01-31T12:00:00Z or epoch milliseconds) or partition:offset,…"
_PAIR = re.compile(r"\s*([0-9]+)\s*:\s*([0-9]+)\s*")
_MIN_EPOCH_MS = 100_000_000_000  # 1973 in milliseconds, the year 5138 in seconds: tells the two apart
_MAX_EPOCH_MS = 253_402_300_799_999  # the end of the year 9999; 1978 in microseconds
_MAX_OFFSET = (1 << 63) - 1


class OffsetKind(Enum):
    """The four ways to name a position in a topic."""

    EARLIEST = "earliest"
    LATEST = "latest"
    TIMESTAMP = "timestamp"
    OFFSETS = "offsets"


@dataclass(frozen=True)
class OffsetSpec:
    """A position in every partition of a topic.

    As a start: the first record read. As an end: the first record that is no longer read. Partitions that a list of
    partition:offset pairs leaves out are not read at all.
    """

    kind: OffsetKind
    timestamp_ms: int | None = None  # TIMESTAMP: the first record at or after this time, milliseconds since the epoch
    offsets: tuple[tuple[int, int], ...] = ()  # OFFSETS: (partition, offset), ascending partitions

    @staticmethod
    def parse(text: str) -> OffsetSpec:
        """Reads ``earliest``, ``latest``, an ISO-8601 time (UTC by default), epoch ms or ``0:100,1:250``.

        Raises:
          UserError: anything else.
        """
        word = text.strip()
        if word.lower() in ("earliest", "latest"):
            return OffsetSpec(OffsetKind(word.lower()))
        if word.isdecimal():
            millis = int(word)
            if millis < _MIN_EPOCH_MS:
                raise UserError(f"position {text!r}: too small for epoch milliseconds (seconds?); {_HELP}")
            if millis > _MAX_EPOCH_MS:
                raise UserError(f"position {text!r}: too large for epoch milliseconds (micro-, nanoseconds?); {_HELP}")
            return OffsetSpec(OffsetKind.TIMESTAMP, timestamp_ms=millis)
        pairs = [_PAIR.fullmatch(part) for part in word.split(",")]
        if all(pairs):
            found = [(int(pair[1]), int(pair[2])) for pair in pairs if pair]
            if len({partition for partition, _ in found}) != len(found):
                raise UserError(f"position {text!r}: a partition is named twice")
            if max(max(pair) for pair in found) > _MAX_OFFSET:
                raise UserError(f"position {text!r}: larger than any offset of Kafka")
            return OffsetSpec(OffsetKind.OFFSETS, offsets=tuple(sorted(found)))
        try:
            time = datetime.fromisoformat(word)
        except ValueError:
            raise UserError(f"position {text!r}: {_HELP}") from None
        if time.tzinfo is None:
            time = time.replace(tzinfo=UTC)
        return OffsetSpec(OffsetKind.TIMESTAMP, timestamp_ms=round(time.timestamp() * 1000))

    def __str__(self) -> str:
        if self.kind is OffsetKind.TIMESTAMP:
            return str(self.timestamp_ms)
        if self.kind is OffsetKind.OFFSETS:
            return ",".join(f"{partition}:{offset}" for partition, offset in self.offsets)
        return self.kind.value


EARLIEST = OffsetSpec(OffsetKind.EARLIEST)
LATEST = OffsetSpec(OffsetKind.LATEST)
