"""A topic beside its reader: which one a name stands for, and its records read again.

A topic that was deleted and recreated counts its offsets from 0 again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from confluent_kafka import KafkaError, KafkaException

from beam_jobs import stop
from beam_jobs.block import MAX_BLOCK_ROWS, Block, Stretch
from beam_jobs.errors import RetryError, UnreachableError, UserError, one_line
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.client import KafkaTransport, user_error
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.fetch import Control, Problem, Transport, before
from beam_jobs.io.kafka.start import patiently
from beam_jobs.io.reading import PartitionOutages
from beam_jobs.io.source import Beginning

_LOGGER = logging.getLogger(__name__)

_TIMEOUT_S = 10.0
_WAIT_S = 0.1  # for the next records; then it is looked whether the job is to end
_AGAIN_S = 0.5  # until a partition with a problem is asked for again
_PATIENCE_S = (
    30.0  # how long one may have it, or end before what was read: a leader that has just begun knows no better
)


@dataclass(frozen=True)
class KafkaTopic:
    """A topic with the id its cluster gave it; picklable, without secrets."""

    address: KafkaAddress
    config: KafkaConfig
    id: str | None  # "": brokers before 2.8 give none, a new topic can't be told from the old one; None: not asked yet

    @property
    def name(self) -> str:
        """The topic's."""
        return self.address.topic

    @property
    def is_known(self) -> bool:
        """Whether the cluster was asked for the id."""
        return self.id is not None

    @staticmethod
    def find(address: KafkaAddress, config: KafkaConfig) -> KafkaTopic:
        """Asks the cluster; the topic is known to exist.

        Raises:
          UnreachableError: no answer.
          UserError: access is denied.
        """
        try:
            return KafkaTopic(address, config, _id_now(address, config))
        except KafkaException as error:
            failure = error.args[0]
            raise user_error(address, failure) or UnreachableError(
                f"{address}: the broker does not say the topic's id ({one_line(failure.str(), 300)}); try again"
            ) from error

    def known(self) -> KafkaTopic:
        """With its id: where the job was started the cluster was out of reach, and workers ask.

        Raises:
          UserError: as in :meth:`find`.
        """
        return self if self.id is not None else KafkaTopic.find(self.address, self.config)

    def positions(self) -> str:
        """What the topic's offsets are remembered under: two topics of one name, one after the other, differ."""
        return f"{self.address.topic}#{self.id}" if self.id else self.address.topic

    def check(self) -> None:
        """Refuses to go on once the topic is another one; a cluster that doesn't answer is asked the next time.

        Raises:
          UserError: the topic was deleted and recreated.
        """
        try:
            now = _id_now(self.address, self.config)
        except KafkaException as error:
            _LOGGER.debug("%s: the topic's id is not known: %s", self.address, one_line(error))
            return
        if self.id and now and now != self.id:
            raise UserError(
                f"{self.address}: the topic was deleted and made anew while it was archived; what was read since the "
                "last commit is not taken: start the job again, it archives the new topic from its first record on"
            )


def _id_now(address: KafkaAddress, config: KafkaConfig) -> str:
    with KafkaTransport(address, config).control() as control:
        return control.topic(_TIMEOUT_S).id


@dataclass(frozen=True)
class KafkaLog:
    """See ``source.Log``."""

    transport: Transport

    def begin(self, times_ms: Mapping[int, int]) -> dict[int, Beginning]:
        with self.transport.control() as control:
            return {p: patiently(self.transport, partial(_begin, control, p, at)) for p, at in times_ms.items()}

    def newest(self, records: int) -> Iterator[Block]:
        def bounds(timeout_s: float) -> dict[int, tuple[int, int]]:
            return control.bounds(control.topic(timeout_s).partitions, timeout_s)

        with self.transport.control() as control:
            found = patiently(self.transport, bounds)
        share = records // max(1, len(found))
        yield from self.read({p: (max(low, high - share), high) for p, (low, high) in found.items()})

    def delete_before(self, offsets: Mapping[int, int]) -> None:
        try:
            with self.transport.control() as control:
                control.delete_before(offsets, _TIMEOUT_S)
        except KafkaException as error:
            _LOGGER.warning("%s: records that are done with are kept (%s)", self.transport, one_line(error, 300))

    def read(self, spans: Mapping[int, tuple[int, int]]) -> Iterator[Block]:
        ends = {p: end for p, (start, end) in spans.items() if start < end}
        positions = {p: spans[p][0] for p in ends}
        outages, failing = PartitionOutages(self.transport), _Failing(self.transport)
        fetcher = self.transport.fetcher()
        try:
            fetcher.assign(positions)
            while positions:
                if stop.requested():
                    raise UserError(
                        f"{self.transport}: ended while features were rebuilt; nothing is lost, a restart rebuilds them"
                    )
                fetched = fetcher.fetch(MAX_BLOCK_ROWS, _WAIT_S, 0.0)
                outages.now(fetched.unreadable, len(positions))
                if any(problem.code == KafkaError._UNSUPPORTED_FEATURE for problem in fetched.problems):
                    fetcher.close()
                    fetcher = self.transport.fetcher(lacking=fetched.problems[0].text)
                    fetcher.assign(positions)
                    continue
                after = {p: min(offset, ends[p]) for p, offset in fetched.next_offsets.items() if p in positions}
                block = None if fetched.block is None else before(fetched.block, ends)
                if block is not None:
                    yield Stretch({p: (positions[p], offset) for p, offset in after.items()}).on(block)
                reached = {p: offset for p, offset in fetched.ends.items() if p in positions}
                positions |= after
                positions |= {p: max(offset, positions[p]) for p, offset in reached.items()}
                failing.over(after)
                done = [p for p, offset in positions.items() if offset >= ends[p]]
                for p in done:
                    del positions[p]
                fetcher.stop(done)
                if failing.see(fetched.problems, {p: at for p, at in reached.items() if p in positions}):
                    stop.wait(_AGAIN_S)
                    fetcher.assign(positions)
        finally:
            fetcher.close()


def _begin(control: Control, partition: int, time_ms: int, timeout_s: float) -> Beginning:
    bounds = control.bounds([partition], timeout_s)
    found = control.at_time(time_ms, bounds, timeout_s)
    if partition not in found:
        raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE, f"nobody leads partition {partition}"))
    low, offset = bounds[partition][0], found[partition]
    # Kafka finds no time before 1970, and has none for what was deleted.
    offset = low if offset is None or time_ms <= 0 else max(low, offset)
    return Beginning(offset, short=0 < low == offset)


class _Failing:
    """Partitions that can't be read on, and since when."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._since: dict[int, float] = {}  # monotonic clock

    def over(self, read: Mapping[int, int]) -> None:
        for p in read:
            self._since.pop(p, None)

    def see(self, problems: Iterable[Problem], ended: Mapping[int, int]) -> bool:
        """Whether there is anything.

        Raises:
          RetryError: it lasts; the reader finds out what has become of the log.
        """
        why = {p: f"its log ends at offset {at}" for p, at in ended.items()}
        why |= {problem.partition: problem.text for problem in problems}
        for p, text in why.items():
            if time.monotonic() - self._since.setdefault(p, time.monotonic()) > _PATIENCE_S:
                raise RetryError(
                    f"{self._transport}: partition {p} can't be read again for its features: {one_line(text)}"
                )
        return bool(why)
