"""A reader's position in a Kafka topic, which a runner keeps and a finished bundle commits."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from apache_beam import coders
from apache_beam.io.unbounded_source import CheckpointMark

from beam_jobs import metrics
from beam_jobs.io.kafka.fetch import Finished, Positions, Transport

_FINAL_COMMIT_S = 10.0  # how long the end of a job waits for its last commit


@dataclass(frozen=True)
class KafkaMark(CheckpointMark):
    """The next offset of each partition, and in bounded mode the offset to stop at, which no position exceeds."""

    positions: Mapping[int, int]
    ends: Mapping[int, int] | None = None
    topic_id: str = ""  # of the topic they are positions in; "": not known
    epochs: Mapping[int, int] = field(default_factory=dict)  # partition -> leader epoch of the record before, if known
    late: tuple[
        int, ...
    ] = ()  # partitions that were there at the start, and nobody led: their positions are yet to come
    transport: Transport | None = field(default=None, compare=False, repr=False)  # commits; not part of the position
    session: str = field(default="", compare=False)  # the source whose sessions have read up to here
    records: int = field(default=0, compare=False)  # that they have handed out in all
    final: bool = field(default=False, compare=False)  # the last mark of a reader: its commit is waited for

    def to_json(self) -> bytes:
        """Deterministic, without any setting or secret."""
        ends = self.ends and _items(self.ends)
        next_, epochs = _items(self.positions), _items(self.epochs)
        position = {"topic": self.topic_id, "next": next_, "epochs": epochs, "end": ends, "late": self.late}
        return json.dumps(position).encode()

    @staticmethod
    def from_json(data: bytes, transport: Transport | None = None) -> KafkaMark:
        """The inverse of ``to_json``."""
        parsed = json.loads(data)
        ends = parsed["end"]
        ends = ends if ends is None else dict(ends)
        epochs, late = dict(parsed["epochs"]), tuple(parsed["late"])
        return KafkaMark(dict(parsed["next"]), ends, parsed["topic"], epochs, late, transport)

    def part(self, owns: Callable[[int], bool]) -> KafkaMark:
        """The mark of some of the partitions."""
        ends = None if self.ends is None else {p: end for p, end in self.ends.items() if owns(p)}
        epochs = {p: epoch for p, epoch in self.epochs.items() if owns(p)}
        positions = {p: at for p, at in self.positions.items() if owns(p)}
        return replace(self, positions=positions, ends=ends, epochs=epochs, late=tuple(filter(owns, self.late)))

    def finalize_checkpoint(self) -> None:
        if self.transport is not None:
            at = Positions(self.topic_id, self.positions, self.epochs)
            finished = Finished(at, self.session, self.records)
            with self.transport.control() as control:
                control.commit(finished, _FINAL_COMMIT_S if self.final else 0.0)
            metrics.inc(metrics.READERS_FINISHED, int(self.final))


class HandedOut:
    """How many records the sessions of a source have handed out in this process, one session after the other.

    A runner that has lost bundles begins a new session further back. What it reads again was finished by nobody before,
    so until a session is past where the ones before it came, it counts alone.
    """

    def __init__(self, before: HandedOut | None) -> None:
        self._records: int = 0
        self._reached: dict[tuple[str, int], int] = {}  # topic id, partition -> next offset
        self._before: int = before._before + before._records if before else 0
        self._beyond: dict[tuple[str, int], int] = {**before._beyond, **before._reached} if before else {}

    @staticmethod
    def of(source: str) -> HandedOut:
        """Of a new session of the source."""
        _LATEST[source] = HandedOut(_LATEST.get(source))
        return _LATEST[source]

    def add(self, records: int) -> None:
        """They are handed out."""
        self._records += records

    def in_all(self, topic_id: str, positions: Mapping[int, int]) -> int:
        """How many, by a session that stands at ``positions``."""
        for partition, offset in positions.items():
            at = topic_id, partition
            self._reached[at] = max(offset, self._beyond.get(at, offset))
        if any(positions.get(p, 0) < offset for (topic, p), offset in self._beyond.items() if topic == topic_id):
            return self._records
        self._beyond = {}
        return self._before + self._records


_LATEST: dict[str, HandedOut] = {}  # by source


def _items(offsets: Mapping[int, int]) -> list[tuple[int, int]]:
    return [(int(partition), int(offset)) for partition, offset in sorted(offsets.items())]


class KafkaMarkCoder(coders.Coder):
    """Marks as JSON; a decoded mark commits through ``transport``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def encode(self, value: KafkaMark) -> bytes:
        return value.to_json()

    def decode(self, encoded: bytes) -> KafkaMark:
        return KafkaMark.from_json(encoded, self._transport)

    def is_deterministic(self) -> bool:
        return True
