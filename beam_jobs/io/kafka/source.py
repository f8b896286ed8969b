"""The Kafka source: blocks of records over Beam's ``UnboundedSource``.

A reader owns no connection between bundles: at each checkpoint it parks its live *session* (fetcher, positions,
watermark) in this process under its checkpoint mark, and whichever reader resumes from that mark, the same one or one
the runner has built again, takes it from there. A session nobody takes is closed after half a minute.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
from apache_beam import coders
from apache_beam.io.unbounded_source import UnboundedReader, UnboundedSource
from apache_beam.utils.timestamp import MAX_TIMESTAMP, Timestamp
from confluent_kafka import KafkaError, KafkaException

from beam_jobs import metrics, stop
from beam_jobs.block import NO_RECORDS, Block, BlockCoder, Stretch, beam_time, min_timestamp
from beam_jobs.errors import UserError, one_line
from beam_jobs.io.block_reader import BlockReader, BlockSettings
from beam_jobs.io.idle import IdleCache
from beam_jobs.io.kafka.commits import DENIED
from beam_jobs.io.kafka.fetch import Control, Fetched, Fetcher, Positions, Problem, Topic, Transport, before, without
from beam_jobs.io.kafka.mark import HandedOut, KafkaMark, KafkaMarkCoder
from beam_jobs.io.kafka.start import OnLost, Range, anew, begin, check_commits, grown, patiently, resolve
from beam_jobs.io.position import EARLIEST, OffsetKind, OffsetSpec
from beam_jobs.io.reading import PartitionOutages

_LOGGER = logging.getLogger(__name__)

_LOOK_S = 1.0  # for one question beside the reading; and until it is asked again where a partition is still to come
_REFUSED_S = 30.0  # how long commits may be refused, say by a consumer that has joined the group, before the job ends
_OUT_OF_RANGE = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError._LOG_TRUNCATION, KafkaError.OFFSET_OUT_OF_RANGE})
_DENIALS = 3  # answers: a single one decides nothing
_SHORT = 3  # looks, likewise
_AGAIN_S = 0.5


@dataclass(frozen=True)
class KafkaSource(UnboundedSource):
    """Blocks of one topic; see ``transforms.KafkaInput`` for the settings."""

    transport: Transport
    start: OffsetSpec = EARLIEST
    until: OffsetSpec | None = None
    share: tuple[int, int] = (0, 1)  # (i, n): the partitions p with p % n == i are this source's
    shards: int = 1
    blocks: BlockSettings = BlockSettings()
    discover_s: float = 10.0
    fixed: bool = False
    beat_s: float | None = None
    on_lost: OnLost = "earliest"
    first: KafkaMark | None = None  # decided by split(), so that a retried first bundle starts there again
    name: str = field(default_factory=lambda: uuid.uuid4().hex)  # tells the sessions of two sources apart

    def split(self, desired_num_splits: int, options: Any = None) -> list[UnboundedSource]:
        if self.first is not None:
            return [self]
        first = resolve(self.transport, self.range, self.owns)
        number, count = self.share
        total = max(1, min(self.shards, len(first.positions)))  # a reader without a partition: a thread for nothing
        shards = [
            replace(self, share=(number + count * shard, count * total), shards=1, name=uuid.uuid4().hex)
            for shard in range(total)
        ]
        return [replace(shard, first=first.part(shard.owns)) for shard in shards]

    @property
    def range(self) -> Range:
        """What is read of the topic."""
        return Range(self.start, self.until, self.on_lost)

    def owns(self, partition: int) -> bool:
        """Whether the partition is of this source's share."""
        number, count = self.share
        return partition % count == number

    def create_reader(self, options: Any, checkpoint_mark: KafkaMark | None) -> UnboundedReader:
        return KafkaReader(self, checkpoint_mark or self.first or resolve(self.transport, self.range, self.owns))

    def get_checkpoint_mark_coder(self) -> coders.Coder:
        return KafkaMarkCoder(self.transport)

    def default_output_coder(self) -> coders.Coder:
        return BlockCoder()


class _Session:
    """A fetcher with everything a reader knows about its partitions; handed from reader to reader."""

    def __init__(self, source: KafkaSource, mark: KafkaMark) -> None:
        self.fetcher: Fetcher = source.transport.fetcher()
        self.name = uuid.uuid4().hex
        self.topic_id = mark.topic_id
        self.handed_out = HandedOut.of(source.name)
        self.positions = dict(mark.positions)
        # Partition -> leader epoch of the last record handed out, and the offset after it.
        self.epochs = {p: (epoch, mark.positions[p]) for p, epoch in mark.epochs.items()}
        self.ends = None if mark.ends is None else dict(mark.ends)
        self.late = set(mark.late)
        self.newest_ms: dict[int, int] = {}  # partition -> largest record timestamp seen that may count (see _account)
        self.ahead: set[int] = set()  # partitions whose last records are all ahead of the clock
        self.current: set[int] = set()  # partitions read to their end at the moment
        self.last_row = dict.fromkeys(mark.positions, time.time())  # partition -> clock at its last record
        self.next_look = time.monotonic() + source.discover_s  # at the topic
        self.outages = PartitionOutages(source.transport)
        self.denials: dict[int, int] = {}  # partition -> answers in a row that deny access
        self.again_at: float | None = None  # the fetcher is to ask again then, monotonic clock
        self.unreadable: dict[int, str] = {}  # partition -> why it can't be read at the moment
        self.unanswered: dict[int, str] = {}  # of them, when the fetcher was told its positions: until it has read one
        self.idle: set[int] = set()  # partitions in which nothing was left when that was last looked at, nor came since
        self.next_beat = 0.0  # when it is looked at again, monotonic clock
        self.short: dict[int, int] = {}  # partition -> looks in a row that found its log to end before the read's end
        self.pace = source.blocks.pace(live=source.until is None)
        self.waiting: dict[int, int] = {}  # partition -> end of what was there when a live read began, if that is known
        self.assign()
        metrics.inc(metrics.READERS_CREATED)
        if source.until is None:
            try:
                with source.transport.control() as control:
                    self.waiting = {p: end for p, (_, end) in control.bounds(self.positions, _LOOK_S).items()}
            except KafkaException as error:
                _LOGGER.debug("%s: how much is waiting is not known: %s", source.transport, one_line(error))

    def assign(self, but: Mapping[int, str] = MappingProxyType({})) -> None:
        """Lets the fetcher read from our positions; some partitions in a moment only, for what they are mapped to."""
        self.unanswered = {p: why for p, why in {**self.unreadable, **but}.items() if not self.ended(p)}
        self.again_at = time.monotonic() + _AGAIN_S if but else None
        self.fetcher.assign({p: at for p, at in self.positions.items() if p not in but and not self.ended(p)})

    def take_on(self, mark: KafkaMark) -> None:
        """Reads the partitions of ``mark`` as well."""
        self.positions |= mark.positions
        self.epochs |= {p: (epoch, mark.positions[p]) for p, epoch in mark.epochs.items()}
        self.last_row |= dict.fromkeys(mark.positions, time.time())
        self.late -= mark.positions.keys()
        if mark.positions:
            self.assign()

    def move(self, partition: int, offset: int) -> None:
        """The records before ``offset`` are handed out, those before the end at least."""
        self.positions[partition] = offset if self.ends is None else min(offset, self.ends[partition])

    def known_epochs(self) -> dict[int, int]:
        """Partition -> leader epoch of the record before its position, where it is known."""
        return {p: epoch for p, (epoch, after) in self.epochs.items() if after == self.positions[p]}

    def ended(self, partition: int) -> bool:
        return self.ends is not None and self.positions[partition] >= self.ends[partition]

    def at_rest(self) -> frozenset[int]:
        """Partitions in which nothing was left to be read, and still is not."""
        return frozenset({*self.idle, *(p for p in self.positions if self.ended(p))})

    def tell_behind(self) -> None:
        """Tells how much of what was there when a live read began is still to be read, until that is nothing."""
        if self.waiting:
            behind = {p: end for p, end in self.waiting.items() if end > self.positions.get(p, end)}
            metrics.STATE.behind(self.name, sum(end - self.positions[p] for p, end in behind.items()))
            self.waiting = behind

    def close(self) -> None:
        metrics.STATE.behind(self.name, 0)
        self.fetcher.close()


SESSIONS: IdleCache[_Session] = IdleCache(_Session.close)


class KafkaReader(BlockReader[_Session]):
    """Reads blocks from ``mark`` on."""

    def __init__(self, source: KafkaSource, mark: KafkaMark) -> None:
        super().__init__(SESSIONS, source.blocks.gather_s)
        self._source = source
        self._mark = mark

    def _next_block(self) -> bool:
        if stop.requested() or self._finished():
            self._watermark = MAX_TIMESTAMP
            return False
        session = self._open()
        rows, linger_s = session.pace.next()
        fetched = session.fetcher.fetch(rows, self._source.blocks.poll_interval_s, linger_s)
        block = self._account(session, fetched) or self._beat(session)
        session.pace.handed_out(0 if block is None else block.num_rows)
        session.unreadable = {**session.unanswered, **fetched.unreadable}
        session.outages.now(session.unreadable, sum(not session.ended(p) for p in session.positions))
        if session.again_at is not None and time.monotonic() >= session.again_at:
            session.assign()
        self._look(session)
        session.tell_behind()
        self._mark = KafkaMark(
            dict(session.positions),
            session.ends,
            session.topic_id,
            session.known_epochs(),
            tuple(sorted(session.late)),
            session=self._source.name,
            records=session.handed_out.in_all(session.topic_id, session.positions),
        )
        self._watermark = self._compute_watermark(session)
        if block is None:
            if self._finished():
                self._watermark = MAX_TIMESTAMP
            return False
        self._block = block
        self._timestamp = min_timestamp(block) if block.num_rows else self._watermark
        metrics.inc(metrics.RECORDS_READ, block.num_rows)
        return True

    def get_checkpoint_mark(self) -> KafkaMark:
        self._park()
        return replace(self._mark, transport=self._source.transport, final=self._watermark >= MAX_TIMESTAMP)

    def _key(self) -> Hashable:
        return self._source.name, self._mark.to_json()

    def _begin(self) -> _Session:
        return _Session(self._source, self._mark)

    def _finished(self) -> bool:
        ends = self._mark.ends
        return ends is not None and all(offset >= ends[p] for p, offset in self._mark.positions.items())

    def _account(self, session: _Session, fetched: Fetched) -> Block | None:
        """Moves the positions on; returns the rows before the end."""
        cuts, doubtful = self._find_cuts(session, fetched)
        if cuts or doubtful:
            fetched = without(fetched, cuts.keys() | doubtful.keys())
        now = time.time()
        block = fetched.block
        over = [p for p, offset in fetched.next_offsets.items() if session.ends and offset > session.ends[p]]
        if block is not None and over and session.ends:
            block = before(block, session.ends)
        if block is not None:
            # A record of next year says nothing about when the others are complete: its time does not count.
            session.ahead.difference_update(fetched.next_offsets)
            limit_ms = int((now + self._source.blocks.out_of_order_s) * 1000)
            session.ahead |= _max_timestamps(block, limit_ms, session.newest_ms)
            session.handed_out.add(block.num_rows)
        starts = {p: session.positions[p] for p in fetched.next_offsets}
        for p, offset in fetched.next_offsets.items():
            session.move(p, offset)
            session.last_row[p] = now
            session.current.discard(p)
            session.idle.discard(p)
            session.denials.pop(p, None)
            session.unanswered.pop(p, None)
        for p, offset in fetched.ends.items():
            session.move(p, max(offset, session.positions[p]))
            session.denials.pop(p, None)
            session.unanswered.pop(p, None)
            if offset >= session.positions[p]:
                session.current.add(p)
        if block is not None:
            spans = {p: (at, session.positions[p]) for p, at in starts.items()}
            block = Stretch(spans, session.topic_id, session.at_rest()).on(block)
        reached = [p for p in fetched.next_offsets if session.ended(p)]
        if reached:
            session.fetcher.stop(reached)
        for p, end in cuts.items():
            with self._source.transport.control() as control:
                self._cut(session, control, p, end)
        if doubtful:
            session.current -= doubtful.keys()
            session.assign(but=doubtful)
        for problem in fetched.problems:
            self._handle(session, problem)
        return block

    def _beat(self, session: _Session) -> Block | None:
        """A block without records, where it has become known that partitions have nothing left to be read."""
        beat_s, now = self._source.beat_s, time.monotonic()
        if beat_s is None or now < session.next_beat:
            return None
        before, session.next_beat = session.at_rest(), now + beat_s
        session.idle = session.current - session.unreadable.keys()
        rest = session.at_rest()
        return None if rest == before else Stretch({}, session.topic_id, rest).on(NO_RECORDS)

    def _handle(self, session: _Session, problem: Problem) -> None:
        if problem.code in _OUT_OF_RANGE:
            self._out_of_range(session, problem.partition)
        elif problem.code in DENIED:  # by a broker that has just started, say, and has not read the rights
            session.denials[problem.partition] = session.denials.get(problem.partition, 0) + 1
            if session.denials[problem.partition] >= _DENIALS:
                raise UserError(
                    f"{self._source.transport}: access denied ({problem.text}); grant this user READ on the topic"
                )
            session.again_at = time.monotonic() + _AGAIN_S
        elif problem.code == KafkaError._BAD_MSG:
            text = f"{self._source.transport}: partition {problem.partition}: {problem.text}"
            if session.ends is not None:
                raise UserError(f"{text}; start behind it with --from, or repair the topic")
            _LOGGER.error(
                "%s; this partition is not read on until the job is restarted, the others are", one_line(text)
            )
            session.fetcher.stop([problem.partition])
            session.unanswered[problem.partition] = problem.text
        elif problem.code == KafkaError._UNSUPPORTED_FEATURE:
            session.fetcher.close()
            session.fetcher = self._source.transport.fetcher(lacking=problem.text)
            session.assign()
        else:  # a partition with a problem that nobody decides is asked again by the fetcher
            _LOGGER.error("%s: partition %d: %s", self._source.transport, problem.partition, one_line(problem.text))

    def _out_of_range(self, session: _Session, partition: int) -> None:
        """The records at our position are gone: retention was faster, the log was cut, or the topic was recreated."""
        transport, position = self._source.transport, session.positions[partition]
        with transport.control() as control:
            if self._is_anew(session, control, patiently(transport, control.topic)):
                return
            low, high = patiently(transport, lambda timeout: control.bounds([partition], timeout))[partition]
            known, end = session.epochs.get(partition), None
            if known is not None and low <= position:
                epoch = known[0]
                end = patiently(transport, lambda timeout: control.epoch_end(partition, epoch, timeout))
            if end is not None and low <= end < position:
                self._cut(session, control, partition, end)
                return
            if low <= position <= high:  # the broker that said so did not know better
                session.again_at = time.monotonic() + _AGAIN_S
                return
            self._shorten(session, partition, max(high, low))
            lost = f"{low - position} records are lost" if low > position else "the log was truncated"
            what = f"{transport}: partition {partition}: offset {position} is no longer there (now {low} to {high})"
            if self._source.on_lost == "fail":
                raise UserError(f"{what}: {lost}; choose another start, or let the source go on at the earliest record")
            self._begin_at(session, control, partition, high if self._source.on_lost == "latest" else low)
        _LOGGER.warning("%s: %s; going on at offset %d", what, lost, session.positions[partition])

    def _find_cuts(self, session: _Session, fetched: Fetched) -> tuple[dict[int, int], dict[int, str]]:
        """Partitions whose log was truncated before our position -> the offset where it was cut; and where that is
        not known now -> why.

        A new leader epoch tells that the leader has changed; where the log has no longer all records of the epoch that
        was read last, others stand at their offsets now.
        """
        cuts: dict[int, int] = {}
        doubtful: dict[int, str] = {}
        for p, runs in fetched.epochs.items():
            known = session.epochs.get(p)
            for epoch, after in runs:
                if known is not None and known[0] != epoch:
                    try:
                        with self._source.transport.control() as control:
                            end = control.epoch_end(p, known[0], _LOOK_S)
                    except KafkaException as error:
                        doubtful[p] = f"whether its new leader has all records: {error.args[0].str()}"
                        break
                    if end is not None and end < known[1]:
                        cuts[p] = min(end, session.positions[p])
                        break
                known = epoch, after
            else:
                if known is not None:
                    session.epochs[p] = known
        return cuts, doubtful

    def _cut(self, session: _Session, control: Control, partition: int, end: int) -> None:
        what = (
            f"{self._source.transport}: partition {partition}: records that were read from offset {end} on are no "
            "longer there, the log was truncated (an unclean leader election)"
        )
        if self._source.on_lost == "fail":
            raise UserError(f"{what}; choose another start, or let the source go on at offset {end}")
        if session.ends is not None:
            bounds = patiently(self._source.transport, lambda timeout: control.bounds([partition], timeout))
            self._shorten(session, partition, max(bounds[partition]))
        self._begin_at(session, control, partition, end)
        _LOGGER.warning("%s; going on at that offset, with what stands there now", what)

    @staticmethod
    def _shorten(session: _Session, partition: int, end: int) -> None:
        """A bounded read ends where the log does, if that is before its end."""
        if session.ends is not None:
            session.ends[partition] = min(session.ends[partition], end)

    def _begin_at(self, session: _Session, control: Control, partition: int, offset: int) -> None:
        """Reads on from an offset that may lie before what is committed."""
        session.move(partition, offset)
        session.epochs.pop(partition, None)
        control.begin(Positions(session.topic_id, {partition: session.positions[partition]}), {})
        session.assign()

    def _look(self, session: _Session) -> None:
        """Now and then: whether the topic is still the same one, has new partitions, and offsets can be committed."""
        if time.monotonic() < session.next_look:
            return
        session.next_look = time.monotonic() + (_LOOK_S if session.late else self._source.discover_s)
        try:
            with self._source.transport.control() as control:
                check_commits(control, _REFUSED_S)
                topic = control.topic(_LOOK_S)
                if self._is_anew(session, control, topic):
                    return
                self._look_at_ends(session, control)
                source = self._source
                if session.late:
                    session.take_on(begin(source.transport, control, topic.id, [*session.late], source.range, _LOOK_S))
                known = session.positions.keys() | session.late
                new = [p for p in topic.partitions if source.owns(p) and p not in known]
                if new and source.until is None and source.start.kind is not OffsetKind.OFFSETS:
                    _LOGGER.info("%s: new partitions %s", source.transport, new)
                    if source.fixed:
                        raise UserError(grown(source.transport, len(topic.partitions)))
                    whole = replace(source.range, start=EARLIEST)  # nobody has read them
                    session.take_on(begin(source.transport, control, topic.id, new, whole, _LOOK_S))
        except KafkaException as error:
            _LOGGER.debug("%s: looking at the topic: %s", self._source.transport, one_line(error))

    def _look_at_ends(self, session: _Session, control: Control) -> None:
        """A log that was cut before the end of a bounded read, behind what was read: that end never comes.

        A single answer decides nothing.
        """
        if session.ends is None:
            return
        waiting = [p for p in session.current if not session.ended(p)]
        bounds = control.bounds(waiting, _LOOK_S)
        ends = {p: max(bounds[p]) for p in waiting if p in bounds and max(bounds[p]) < session.ends[p]}
        session.short = {p: session.short.get(p, 0) + 1 for p in ends}
        for p, end in ends.items():
            if session.short[p] >= _SHORT:
                _LOGGER.warning(
                    "%s: partition %d: the log ends at offset %d, it ended at %d when the reading began: it was "
                    "truncated; the reading ends there",
                    *(self._source.transport, p, end, session.ends[p]),
                )
                self._shorten(session, p, end)
                session.fetcher.stop([p])

    def _is_anew(self, session: _Session, control: Control, topic: Topic) -> bool:
        """Whether the topic is another one than that of our positions; then they become positions in the new one.

        Raises:
          UserError: it is, and this read is bounded: its end was decided for the old one.
        """
        old, session.topic_id = session.topic_id, topic.id or session.topic_id
        if not old or session.topic_id == old:
            return False
        if session.ends is not None:
            raise UserError(
                f"{self._source.transport}: the topic was deleted and made anew while it was read (its id was {old}, "
                f"it is {topic.id} now); start again, the end is then that of the new one"
            )
        partitions = [p for p in topic.partitions if self._source.owns(p)]
        bounds = patiently(self._source.transport, lambda timeout: control.bounds(partitions, timeout))
        session.positions, session.epochs, session.newest_ms, session.current = {}, {}, {}, set()
        session.unreadable = {}
        session.late.clear()  # who does not lead the new topic's yet is found as a new partition
        session.take_on(KafkaMark(anew(self._source.transport, self._source.on_lost, old, topic.id, bounds)))
        control.begin(Positions(topic.id, session.positions), {})
        return True

    def _compute_watermark(self, session: _Session) -> Timestamp:
        """The smallest over the partitions, never ahead of the clock.

        A partition that has been read to its end follows the clock when it stays quiet, or its records are ahead of it.
        """
        now = time.time()
        marks = []
        for p in session.positions:
            if session.ended(p):
                continue
            if p in session.current and (p in session.ahead or now - session.last_row[p] > self._source.blocks.idle_s):
                marks.append(int((now - self._source.blocks.idle_s - self._source.blocks.out_of_order_s) * 1000))
            elif p in session.newest_ms:
                marks.append(session.newest_ms[p] - int(self._source.blocks.out_of_order_s * 1000))
            else:
                return self._watermark  # nothing is known about this partition yet
        return max(self._watermark, beam_time(min(marks))) if marks else self._watermark


def _max_timestamps(block: Block, limit_ms: int, newest_ms: dict[int, int]) -> set[int]:
    """Notes the largest timestamp up to ``limit_ms`` of each partition; returns the partitions that have none."""
    partitions = block.column("partition").to_numpy()
    millis = block.column("timestamp").view(pa.int64()).to_numpy()
    counts = millis <= limit_ms
    ahead = set() if counts.all() else set(np.unique(partitions).tolist())
    partitions, millis = partitions[counts], millis[counts]
    newest = np.full(partitions.max(initial=-1) + 1, np.iinfo(np.int64).min)
    np.maximum.at(newest, partitions, millis)
    for p in np.flatnonzero(newest > np.iinfo(np.int64).min).tolist():
        newest_ms[p] = max(int(newest[p]), newest_ms.get(p, int(newest[p])))
        ahead.discard(p)
    return ahead
