"""Where reading a topic begins and ends: the group's committed offsets, or what --from and --until say."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

from confluent_kafka import KafkaException

from beam_jobs.errors import UserError
from beam_jobs.io.kafka_client import user_error
from beam_jobs.io.kafka_fetch import Control, Positions, Transport
from beam_jobs.io.kafka_mark import KafkaMark
from beam_jobs.io.kafka_offsets import OffsetKind, OffsetSpec
from beam_jobs.io.reading import Outage, wait_for_drain

_LOGGER = logging.getLogger(__name__)

OnLost = Literal["earliest", "latest", "fail"]

QUESTION_TIMEOUT_S = 10.0  # one question to the cluster; asked again while it is away
_FIRST_COMMIT_S = 5.0  # how long a start waits to see whether offsets can be committed

T = TypeVar("T")


def resolve(
    transport: Transport, start: OffsetSpec, until: OffsetSpec | None, owns: Callable[[int], bool], on_lost: OnLost
) -> KafkaMark:
    """Asks the cluster where reading starts and ends; waits for a cluster that is away.

    A group's offset that was committed for an earlier topic of the same name says nothing of this one. Partitions that
    the group has read past the end of a bounded read are left out.

    Raises:
      UserError: the topic or a named partition does not exist, access is denied, offsets can't be committed, the topic
        was made anew and ``on_lost`` is "fail", or the job was ended meanwhile.
    """
    with transport.control() as control:

        def ask(question: Callable[[float], T]) -> T:
            return patiently(transport, question)

        topic = ask(control.topic)
        partitions = topic.partitions
        for spec in (start, until):
            if spec is not None and spec.kind is OffsetKind.OFFSETS:
                partitions = _named(transport, spec, partitions)
        partitions = [p for p in partitions if owns(p)]
        bounds = ask(lambda timeout: control.bounds(partitions, timeout))

        def locate(spec: OffsetSpec) -> dict[int, int]:
            if spec.kind is OffsetKind.OFFSETS:
                wanted = dict(spec.offsets)
                return {p: min(max(wanted[p], low), high) for p, (low, high) in bounds.items()}
            if spec.kind is OffsetKind.TIMESTAMP:
                millis = spec.timestamp_ms or 0
                at = ask(lambda timeout: control.at_time(millis, partitions, timeout))
                return {p: high if (found := at[p]) is None else found for p, (_, high) in bounds.items()}
            earliest = spec.kind is OffsetKind.EARLIEST
            return {p: low if earliest else high for p, (low, high) in bounds.items()}

        committed = ask(lambda timeout: control.committed(partitions, timeout))
        stale = sorted(p for p, c in committed.items() if c.topic_id and topic.id and c.topic_id != topic.id)
        acknowledged = {p: c.offset for p, c in committed.items() if p not in stale}
        positions = locate(start) | acknowledged
        if stale:
            positions |= anew(transport, on_lost, committed[stale[0]].topic_id, topic.id, {p: bounds[p] for p in stale})
        passed = {
            p: high - low for p, (low, high) in bounds.items() if p not in committed and positions[p] == high > low
        }
        if passed and until is None and start.kind is OffsetKind.LATEST:
            _LOGGER.warning(
                "%s: no committed offset for partitions %s: reading begins at their end; up to %d records that are "
                "there already are not read (--from earliest reads them)",
                transport,
                ", ".join(map(str, sorted(passed))),
                sum(passed.values()),
            )
        ends = None if until is None else locate(until)
        if ends is not None:
            positions = {p: at for p, at in positions.items() if at < ends[p] or p not in acknowledged}
            ends = {p: max(ends[p], at) for p, at in positions.items()}
        epochs = {p: committed[p].epoch for p in acknowledged if p in positions and committed[p].epoch >= 0}
        at = Positions(topic.id, positions, epochs)
        control.begin(at, {p: offset for p, offset in acknowledged.items() if p in positions})
        control.commit(None, _FIRST_COMMIT_S)
        check_commits(control, 0.0)
        return KafkaMark(positions, ends, topic.id, epochs)


def anew(
    transport: Transport, on_lost: OnLost, old: str, new: str, bounds: Mapping[int, tuple[int, int]]
) -> dict[int, int]:
    """Where reading goes on in a topic that was deleted and made anew; says so in one line."""
    what = f"{transport}: the topic was deleted and made anew (its id was {old}, it is {new} now)"
    if on_lost == "fail":
        raise UserError(f"{what}; choose another --group_id to read it from --from on")
    latest = on_lost == "latest"
    _LOGGER.warning("%s: reading goes on at its %s", what, "end" if latest else "first record")
    return {p: high if latest else low for p, (low, high) in bounds.items()}


def check_commits(control: Control, patience_s: float) -> None:
    """Raises UserError once commits have been refused, for good as it looks, for ``patience_s`` seconds."""
    refused = control.refused(patience_s)
    if refused is not None:
        raise UserError(refused)


def _named(transport: Transport, spec: OffsetSpec, partitions: list[int]) -> list[int]:
    named = dict(spec.offsets)
    unknown = sorted(named.keys() - set(partitions))
    if unknown:
        raise UserError(
            f"{transport}: position {spec}: the topic has no partition {unknown[0]} (it has {len(partitions)})"
        )
    left_out = sorted(set(partitions) - named.keys())
    if left_out:
        _LOGGER.warning(
            "%s: position %s names no offset for partitions %s: they are not read", transport, spec, left_out
        )
    return [p for p in partitions if p in named]


def patiently(transport: Transport, question: Callable[[float], T]) -> T:
    """The answer to ``question(timeout in seconds)``, asked again while the cluster is away.

    Raises:
      UserError: for what only the user can mend, or the job was ended meanwhile.
    """
    outage = Outage(transport)
    while True:
        try:
            answer = question(QUESTION_TIMEOUT_S)
            outage.over()
            return answer
        except KafkaException as error:
            lasting = user_error(str(transport), error.args[0])
            if lasting is not None:
                raise lasting from None
            if wait_for_drain(0.2):
                raise UserError(f"{transport}: ended before the cluster answered ({error.args[0].str()})") from None
            outage.seen(error.args[0].str())
            outage.tell()
