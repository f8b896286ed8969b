"""Where reading a topic begins and ends: the group's committed offsets, or what --from and --until say."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from confluent_kafka import KafkaError, KafkaException

from beam_jobs import stop
from beam_jobs.errors import UserError, one_line
from beam_jobs.io.kafka.client import user_error
from beam_jobs.io.kafka.fetch import Control, Positions, Transport
from beam_jobs.io.kafka.mark import KafkaMark
from beam_jobs.io.position import OffsetKind, OffsetSpec
from beam_jobs.io.reading import Outage

_LOGGER = logging.getLogger(__name__)

OnLost = Literal["earliest", "latest", "fail"]

QUESTION_TIMEOUT_S = 10.0  # one question to the cluster; asked again while it is unavailable
_ELECTION_S = 3.0  # how long a start waits for partitions that nobody leads
_REFUSALS = 3  # answers in a row: a single one decides nothing
_AGAIN_S = 0.2  # until a question is asked again
_FIRST_COMMIT_S = 5.0  # how long a start waits to see whether offsets can be committed

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """What is to be read of a topic."""

    start: OffsetSpec  # where the group has no offset
    until: OffsetSpec | None  # the first record not read; None: forever
    on_lost: OnLost  # where reading goes on when our position means nothing any more


def resolve(transport: Transport, wanted: Range, owns: Callable[[int], bool]) -> KafkaMark:
    """Asks the cluster where reading starts and ends; waits for a cluster that is unavailable.

    A live read does not wait for partitions whose leader does not answer: they are ``late``.

    Raises:
      UserError: the topic or a named partition does not exist, access is denied, offsets can't be committed, the topic
        was recreated and ``on_lost`` is "fail", or the job was ended meanwhile.
    """
    with transport.control() as control:
        topic = patiently(transport, control.topic)
        partitions = topic.partitions
        for spec in (wanted.start, wanted.until):
            if spec is not None and spec.kind is OffsetKind.OFFSETS:
                partitions = _named(transport, spec, partitions)
        partitions = [p for p in partitions if owns(p)]
        until = time.monotonic() + _ELECTION_S
        while True:
            mark = patiently(
                transport, lambda timeout: begin(transport, control, topic.id, partitions, wanted, timeout)
            )
            if not mark.late or time.monotonic() >= until or stop.wait(_AGAIN_S):
                break
        control.commit(None, _FIRST_COMMIT_S)
        check_commits(control, 0.0)
        if mark.late:
            names = ", ".join(map(str, mark.late))
            _LOGGER.warning("%s: nobody leads partitions %s: they are read as soon as somebody does", transport, names)
        return mark


def begin(
    transport: Transport, control: Control, topic_id: str, partitions: Sequence[int], wanted: Range, timeout_s: float
) -> KafkaMark:
    """Where reading of these partitions starts and ends; commits go on from there.

    A group's offset that was committed for an earlier topic of the same name says nothing of this one. Partitions that
    the group has read past the end of a bounded read are left out.

    Raises:
      KafkaException: no answer; from a bounded read, also where one of the partitions has none.
      UserError: the topic was recreated and ``on_lost`` is "fail".
    """
    bounds = control.bounds(partitions, timeout_s)
    start, until = wanted.start, wanted.until
    located = _locate(control, start, bounds, timeout_s)
    committed = control.committed(list(located), timeout_s)
    stale = {p: bounds[p] for p, c in committed.items() if c.topic_id and topic_id and c.topic_id != topic_id}
    acknowledged = {p: c.offset for p, c in committed.items() if p not in stale}
    positions = located | acknowledged
    ends = None if until is None else _locate(control, until, bounds, timeout_s)
    late = tuple(p for p in partitions if p not in positions or (ends is not None and p not in ends))
    if late and ends is not None:
        raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE, f"nobody leads partition {late[0]}"))
    if stale:
        positions |= anew(transport, wanted.on_lost, committed[min(stale)].topic_id, topic_id, stale)
    if ends is not None:
        positions = {p: at for p, at in positions.items() if at < ends[p] or p not in acknowledged}
        ends = {p: max(ends[p], at) for p, at in positions.items()}
    elif start.kind is OffsetKind.LATEST:
        _tell_passed(transport, {p: bounds[p] for p in positions if p not in committed})
    if not late:
        _tell_moved(transport, start, {p: bounds[p] for p in positions if p not in acknowledged}, "reading begins")
    if until is not None:
        _tell_moved(transport, until, {p: bounds[p] for p in positions}, "reading ends")
    epochs = {p: committed[p].epoch for p in acknowledged if p in positions and committed[p].epoch >= 0}
    kept = {p: offset for p, offset in acknowledged.items() if p in positions}
    control.begin(Positions(topic_id, positions, epochs), kept)
    return KafkaMark(positions, ends, topic_id, epochs, late)


def _locate(
    control: Control, spec: OffsetSpec, bounds: Mapping[int, tuple[int, int]], timeout_s: float
) -> dict[int, int]:
    if spec.kind is OffsetKind.OFFSETS:
        wanted = dict(spec.offsets)
        return {p: min(max(wanted[p], low), high) for p, (low, high) in bounds.items()}
    if spec.kind is OffsetKind.TIMESTAMP:
        found = control.at_time(spec.timestamp_ms or 0, bounds, timeout_s)
        return {p: bounds[p][1] if offset is None else offset for p, offset in found.items()}
    return {p: low if spec.kind is OffsetKind.EARLIEST else high for p, (low, high) in bounds.items()}


def _tell_passed(transport: Transport, bounds: Mapping[int, tuple[int, int]]) -> None:
    passed = {p: high - low for p, (low, high) in bounds.items() if high > low}
    if passed:
        _LOGGER.warning(
            "%s: no committed offset for partitions %s: reading begins at their end; up to %d records that are "
            "there already are not read (--from earliest reads them)",
            transport,
            ", ".join(map(str, sorted(passed))),
            sum(passed.values()),
        )


def _tell_moved(transport: Transport, spec: OffsetSpec, bounds: Mapping[int, tuple[int, int]], what: str) -> None:
    """Warns of offsets that the command line names and the topic does not have: gone, or not there yet."""
    for p, wanted in spec.offsets:
        if p in bounds and not bounds[p][0] <= wanted <= bounds[p][1]:
            low, high = bounds[p]
            _LOGGER.warning(
                "%s: there is no offset %d in partition %d, which has %d to %d: %s at %d",
                transport,
                wanted,
                p,
                low,
                high,
                what,
                min(max(wanted, low), high),
            )


def anew(
    transport: Transport, on_lost: OnLost, old: str, new: str, bounds: Mapping[int, tuple[int, int]]
) -> dict[int, int]:
    """Where reading goes on in a topic that was deleted and recreated; says so in one line."""
    what = f"{transport}: the topic was deleted and made anew (its id was {old}, it is {new} now)"
    if on_lost == "fail":
        raise UserError(f"{what}; choose another --group_id to read it from --from on")
    latest = on_lost == "latest"
    _LOGGER.warning("%s: reading goes on at its %s", what, "end" if latest else "first record")
    return {p: high if latest else low for p, (low, high) in bounds.items()}


def grown(transport: Transport, partitions: int) -> str:
    """Why a job whose windows need the partitions as they were ends, and what to do."""
    return (
        f"{transport}: the topic has {partitions} partitions now, and keys have moved to new ones, away from what "
        "windows know of them; bring the events to a topic with as many partitions from the start, or start again when "
        "the longest window has passed"
    )


def check_commits(control: Control, patience_s: float) -> None:
    """Raises UserError once commits have been refused, permanently as it looks, for ``patience_s`` seconds."""
    refused = control.refused(patience_s)
    if refused is not None:
        raise UserError(refused)


def check_named(topic: object, spec: OffsetSpec, partitions: int) -> None:
    """Raises UserError where a position names a partition that the topic does not have."""
    unknown = [p for p, _ in spec.offsets if p >= partitions]
    if unknown:
        raise UserError(f"{topic}: position {spec}: the topic has no partition {unknown[0]} (it has {partitions})")


def _named(transport: Transport, spec: OffsetSpec, partitions: list[int]) -> list[int]:
    check_named(transport, spec, len(partitions))
    named = dict(spec.offsets)
    left_out = sorted(set(partitions) - named.keys())
    if left_out:
        _LOGGER.warning(
            "%s: position %s names no offset for partitions %s: they are not read", transport, spec, left_out
        )
    return [p for p in partitions if p in named]


def patiently(transport: Transport, question: Callable[[float], T]) -> T:
    """The answer to ``question(timeout in seconds)``, asked again while the cluster is unavailable.

    Raises:
      UserError: for what only the user can fix, or the job was ended meanwhile.
    """
    outage = Outage(transport)
    refusals = 0
    while True:
        try:
            answer = question(QUESTION_TIMEOUT_S)
            outage.over()
            return answer
        except KafkaException as error:
            lasting = user_error(str(transport), error.args[0])
            refusals = 0 if lasting is None else refusals + 1
            if lasting is not None and refusals >= _REFUSALS:
                raise lasting from None
            if stop.wait(_AGAIN_S):
                raise UserError(
                    f"{transport}: ended before the cluster answered ({one_line(error.args[0].str(), 300)})"
                ) from None
            outage.seen(error.args[0].str())
            outage.tell()
