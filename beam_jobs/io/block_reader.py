"""What the sources over Beam's ``UnboundedSource`` share: a reader that hands its session on, and how it is driven."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from apache_beam.io.unbounded_source import ReadFromUnboundedSource, UnboundedReader, UnboundedSource
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Timestamp

from beam_jobs.block import MAX_BLOCK_ROWS, Block
from beam_jobs.io.idle import IdleCache
from beam_jobs.io.reading import Pace

# Bundle length decides between latency and overhead.
LIVE_BLOCKS_PER_BUNDLE = 1
REPLAY_BLOCKS_PER_BUNDLE = 40

_LINGER_S, _GATHER_LINGER_S = 0.02, 0.5  # how long a block waits for more records: to be quick, to fill a file


@dataclass(frozen=True)
class BlockSettings:
    """How a source cuts its stream into blocks and bundles."""

    block_rows: int = MAX_BLOCK_ROWS  # of a block at most
    max_blocks_per_bundle: int | None = None  # None: 1 for a live read (latency), 40 for a bounded one (throughput)
    max_bundle_s: float = 1.0  # a bundle ends at the latest after this many seconds
    # What a live read aims at from a record's timestamp to its output, in seconds: blocks wait less for more records,
    # and are cut, as the pipeline needs it; None: blocks wait 20 ms. Without effect on a bounded read.
    max_latency_s: float | None = None
    poll_interval_s: float = 0.05  # pause of a reader that found nothing
    out_of_order_s: float = 10.0  # how far a record's timestamp may lie behind the newest without being late
    idle_s: float = 2.0  # what was read to its end and stays quiet for so long no longer holds the watermark
    # A bundle that has records stays open for this long when no more come, in seconds; blocks then wait up to half a
    # second to fill. For sinks that make a file of a bundle.
    gather_s: float = 0.0

    @property
    def linger_s(self) -> float:
        """How long a block waits for more records, in seconds, where there is no ``max_latency_s``."""
        return min(_GATHER_LINGER_S, self.gather_s) if self.gather_s else _LINGER_S

    def pace(self, live: bool) -> Pace:
        """How large the blocks of one reader may be."""
        return Pace(self.block_rows, self.linger_s, self.max_latency_s if live else None)


class Session(Protocol):
    """What a reader keeps open between bundles."""

    def close(self) -> None: ...


SessionT = TypeVar("SessionT", bound=Session)


class BlockReader(UnboundedReader, Generic[SessionT]):
    """Reads blocks. Beam drives it: one ``start``, then ``advance`` until a checkpoint.

    It owns no session between bundles: at each checkpoint it parks the live one under its key, and whichever reader
    resumes from that mark, the same one or one the runner has built again, takes it from there.

    A subclass says where a session is parked (:meth:`_key`), how one begins (:meth:`_begin`), and reads
    (:meth:`_next_block`); its ``get_checkpoint_mark`` calls :meth:`_park`.

    Args:
      sessions: where sessions are parked.
      gather_s: a bundle that has records stays open for this long when no more come, in seconds.
    """

    def __init__(self, sessions: IdleCache[SessionT], gather_s: float = 0.0) -> None:
        self._sessions = sessions
        self._gather_s = gather_s
        self._session: SessionT | None = None
        self._parked: tuple[Hashable, SessionT] | None = None
        self._block: Block | None = None
        self._timestamp = MIN_TIMESTAMP
        self._watermark = MIN_TIMESTAMP
        self._gather_until = 0.0  # time.monotonic(); 0: this bundle has no record yet

    @abstractmethod
    def _key(self) -> Hashable:
        """What a session that stands at this reader's mark is parked under."""

    @abstractmethod
    def _begin(self) -> SessionT:
        """A new session at this reader's mark."""

    @abstractmethod
    def _next_block(self) -> bool:
        """Reads a block, its timestamp and the watermark; whether there was one."""

    def _resumed(self, session: SessionT) -> None:
        """A parked session was taken on."""

    def _gathers(self) -> bool:
        """Whether waiting within the bundle may bring more."""
        return True

    def start(self) -> bool:
        return self.advance()

    def advance(self) -> bool:
        while not self._next_block():
            over = self._watermark >= MAX_TIMESTAMP
            if over or time.monotonic() >= self._gather_until or not self._gathers():
                return False
        if not self._gather_until:
            self._gather_until = time.monotonic() + self._gather_s
        return True

    def get_current(self) -> Block:
        assert self._block is not None
        return self._block

    def get_current_timestamp(self) -> Timestamp:
        return self._timestamp

    def get_watermark(self) -> Timestamp:
        return self._watermark

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
        if self._parked is not None:
            self._sessions.discard(*self._parked)
            self._parked = None

    def _open(self) -> SessionT:
        if self._session is None:
            self._parked = None
            self._session = self._sessions.take(self._key())
            if self._session is not None:
                self._resumed(self._session)
            else:
                self._session = self._begin()
        return self._session

    def _park(self) -> None:
        """The bundle is over: the session waits for whoever resumes."""
        session, self._session = self._session, None
        self._block = None
        self._gather_until = 0.0
        if session is not None:
            self._parked = (self._key(), session)
            self._sessions.park(*self._parked)


def read_blocks(source: UnboundedSource, live: bool, blocks: BlockSettings = BlockSettings()) -> Any:
    """Beam's transform that reads ``source``, which hands out blocks."""
    return ReadFromUnboundedSource(
        source,
        poll_interval=blocks.poll_interval_s,
        max_records_per_bundle=blocks.max_blocks_per_bundle
        or (LIVE_BLOCKS_PER_BUNDLE if live else REPLAY_BLOCKS_PER_BUNDLE),
        max_read_time_seconds=blocks.max_bundle_s,
    )
