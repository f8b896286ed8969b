"""The Pub/Sub source: blocks of messages over Beam's ``UnboundedSource``.

A checkpoint mark is the number of a batch of one puller of this process: when the bundle is final, the messages handed
out up to it are acknowledged. What a lost puller had in hand comes again when its leases run out. Between bundles the
puller is parked, and taken on by whichever reader resumes from its mark, as in ``kafka/source.py``.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any

from apache_beam import coders
from apache_beam.io.unbounded_source import CheckpointMark, UnboundedReader, UnboundedSource
from apache_beam.utils.timestamp import MAX_TIMESTAMP, Timestamp

from beam_jobs import metrics, stop
from beam_jobs.block import BlockCoder, beam_time, min_timestamp
from beam_jobs.io.block_reader import BlockReader, BlockSettings
from beam_jobs.io.idle import IdleCache
from beam_jobs.io.pubsub.address import PubSubAddress
from beam_jobs.io.pubsub.messages import to_block
from beam_jobs.io.pubsub.pull import PULLERS, Puller, PullSettings

_FINAL_ACK_S = 10.0  # how long the end of a job waits for its last acknowledgement
_ORDERED_GATHER_S = 1.0  # a key's next message may wait for the last one's acknowledgement


@dataclass(frozen=True)
class PubSubMark(CheckpointMark):
    """Everything a puller handed out up to a batch."""

    puller: str  # its id; "": nothing yet
    batch: int
    final: bool = field(default=False, compare=False)  # the last mark of a reader: the service is waited for

    def finalize_checkpoint(self) -> None:
        puller = PULLERS.get(self.puller)  # gone: the messages come again
        if puller is not None:
            puller.acknowledge(self.batch, _FINAL_ACK_S if self.final else 0.0)
        metrics.inc(metrics.READERS_FINISHED, int(self.final))


class PubSubMarkCoder(coders.Coder):
    """Marks as JSON."""

    def encode(self, value: PubSubMark) -> bytes:
        return json.dumps([value.puller, value.batch]).encode()

    def decode(self, encoded: bytes) -> PubSubMark:
        return PubSubMark(*json.loads(encoded))

    def is_deterministic(self) -> bool:
        return True


@dataclass(frozen=True)
class PubSubSource(UnboundedSource):
    """Blocks of one subscription; see ``transforms.PubSubInput`` for the settings."""

    subscription: PubSubAddress
    name: str  # in the blocks' topic column
    until_ms: int | None = None
    quiet_s: float = 30.0
    timestamp_attribute: str | None = None
    settings: PullSettings = field(default_factory=PullSettings)
    blocks: BlockSettings = BlockSettings()
    key: str = field(default_factory=lambda: uuid.uuid4().hex)  # tells the pullers of two sources apart

    def split(self, desired_num_splits: int, options: Any = None) -> list[UnboundedSource]:
        return [replace(self, key=uuid.uuid4().hex)]

    def create_reader(self, options: Any, checkpoint_mark: PubSubMark | None) -> UnboundedReader:
        return PubSubReader(self, checkpoint_mark or PubSubMark("", 0))

    def get_checkpoint_mark_coder(self) -> coders.Coder:
        return PubSubMarkCoder()

    def default_output_coder(self) -> coders.Coder:
        return BlockCoder()


class _Session:
    """A puller with what a reader knows of its stream; handed from reader to reader."""

    def __init__(self, source: PubSubSource) -> None:
        self.puller = Puller(source.subscription, source.settings, source.until_ms)
        self.pace = source.blocks.pace(live=source.until_ms is None)
        self.last_row = time.monotonic()
        self.oldest: deque[tuple[float, int]] = deque()  # (clock, smallest timestamp in ms) of recent blocks

    def close(self) -> None:
        self.puller.close()


SESSIONS: IdleCache[_Session] = IdleCache(_Session.close)


class PubSubReader(BlockReader[_Session]):
    """Reads blocks after ``mark``."""

    def __init__(self, source: PubSubSource, mark: PubSubMark) -> None:
        super().__init__(SESSIONS, source.blocks.gather_s)
        self._source = source
        self._mark = mark

    def _gathers(self) -> bool:
        """Not where more will only come once this bundle is acknowledged."""
        session = self._session
        if session is None:
            return True
        quiet = time.monotonic() - session.last_row
        return not (session.puller.full() or (session.puller.ordered and quiet > _ORDERED_GATHER_S))

    def _next_block(self) -> bool:
        if stop.requested():
            self._watermark = MAX_TIMESTAMP
            return False
        session = self._open()
        rows, linger_s = session.pace.next()
        pulled = session.puller.fetch(rows, self._source.blocks.poll_interval_s, linger_s)
        session.puller.outage.tell()
        if pulled is None:
            session.pace.handed_out(0)
            self._watermark = MAX_TIMESTAMP if self._finished(session) else self._compute_watermark(session)
            return False
        source = self._source
        self._block = to_block(
            source.name, pulled.messages, pulled.numbers, pulled.published_ms, source.timestamp_attribute
        )
        self._timestamp = min_timestamp(self._block)
        session.pace.handed_out(self._block.num_rows)
        session.last_row = time.monotonic()
        session.oldest.append((session.last_row, self._timestamp.micros // 1000))
        self._watermark = self._compute_watermark(session)
        metrics.inc(metrics.RECORDS_READ, self._block.num_rows)
        return True

    def get_checkpoint_mark(self) -> PubSubMark:
        if self._session is not None:
            self._mark = PubSubMark(self._session.puller.id, self._session.puller.cut())
        self._park()
        return replace(self._mark, final=self._watermark >= MAX_TIMESTAMP)

    def _key(self) -> Hashable:
        return self._source.key, self._mark.puller

    def _begin(self) -> _Session:
        return _Session(self._source)

    def _resumed(self, session: _Session) -> None:
        session.puller.abandon_after(self._mark.batch)

    def _finished(self, session: _Session) -> bool:
        """Whether a bounded read is over: the time is past, and nothing has come for as long as it may take."""
        until = self._source.until_ms
        if until is None or time.time() * 1000 < until:
            return False
        if not session.puller.connected():
            session.last_row = time.monotonic()
        return time.monotonic() - session.last_row >= self._source.quiet_s

    def _compute_watermark(self, session: _Session) -> Timestamp:
        """The smallest recent timestamp: messages come in no order. A quiet subscription follows the clock."""
        now = time.monotonic()
        while session.oldest and session.oldest[0][0] < now - self._source.blocks.out_of_order_s:
            session.oldest.popleft()
        if session.oldest:
            millis = min(millis for _, millis in session.oldest) - int(self._source.blocks.out_of_order_s * 1000)
        elif now - session.last_row > self._source.blocks.idle_s and session.puller.connected():
            millis = int((time.time() - self._source.blocks.idle_s - self._source.blocks.out_of_order_s) * 1000)
        else:
            return self._watermark
        return max(self._watermark, beam_time(min(millis, int(time.time() * 1000))))  # never ahead of the clock
