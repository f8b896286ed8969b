"""The topic through which rows come to the second key of an SQL with windows by two, checked and there."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from beam_jobs.errors import UserError
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.client import KafkaTransport, check_topic, ensure_topic, topic_settings
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.sink import WriteBlocks
from beam_jobs.io.kafka.start import patiently
from beam_jobs.io.kafka.topic import KafkaTopic
from beam_jobs.io.kafka.transforms import KafkaInput, KafkaOutput
from beam_jobs.io.position import EARLIEST, LATEST, OffsetKind
from beam_jobs.io.source import Source
from beam_jobs.preflight.reach import Preflight
from beam_jobs.steps.repartition import begun
from beam_jobs.target import runner_of
from beam_jobs.terminal import options
from beam_jobs.terminal.cli import say
from beam_jobs.use_case import UseCase

_HERE = ("DirectRunner", "FnApiRunner", "PrismRunner")
_BEAT_S = 0.2  # how soon a partition with nothing to read is no longer waited for
_SETTINGS = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",  # records have the time of their events, which may be long ago
    "message.timestamp.type": "CreateTime",
    "max.message.bytes": "100000000",  # a row is no larger than its event, about
}
_OF_STARTS = 100  # records of a partition that may be those of starts which were killed as they wrote to it
_LONGEST = 120  # characters of a group in the topic's name


@dataclass(frozen=True)
class SecondTopic:
    """Where rows are by the second key; picklable, without secrets."""

    first: KafkaInput  # the events
    source: KafkaInput  # the rows
    sink: KafkaOutput
    sources: int  # partitions of the events
    partitions: int  # of the rows
    labels: KafkaInput | None = None  # the labels, where they come apart
    label_partitions: int = 0

    def share(self, number: int, count: int) -> SecondTopic:
        """What process ``number`` of ``count`` reads of all topics."""
        return replace(
            self,
            first=self.first.share(number, count),
            source=self.source.share(number, count),
            labels=None if self.labels is None else self.labels.share(number, count),
        )

    def begin(self) -> None:
        """Says that the events are read from now on: each partition is waited for."""
        self._say(idle=False)

    def end(self) -> None:
        """Says that the events are read to the end: no partition is waited for."""
        self._say(idle=True)

    def _say(self, idle: bool) -> None:
        write = WriteBlocks(self.sink.address, self.sink.config)
        write.setup()
        try:
            write.start_bundle()
            write.process(begun(self.sources + self.label_partitions, self.partitions, idle))
            write.finish_bundle()
        finally:
            write.teardown()


def second_topic(preflight: Preflight, use_case: UseCase, source: Source) -> SecondTopic | None:
    """The topic of the second key, created where it is missing; None: nothing goes through one.

    Rows do where the SQL has windows by two keys, and where labels come on a topic of their own.

    Jobs of one group and SQL have one: a job that goes on where an archive left off has its windows.

    Raises:
      UserError: it can't be had, or the job can't run there.
    """
    parsed, preprocessor = preflight.parsed, use_case.preprocessor()
    wanted = parsed.view_as(options.WindowOptions)
    apart = wanted.label_topic is not None
    if preprocessor.second_key is None and not apart:
        return None
    if apart and not preprocessor.lateness.label_ms:
        raise UserError(
            f"--label_topic {wanted.label_topic}: say how long labels take in use_case.yaml, label_delay: 7 days"
        )
    legs = preprocessor.legs(apart=apart)
    if apart:
        use_case.schema_of_labels(legs.of_labels)  # which refuses one that lacks them
    second = legs.second
    what = f"the SQL has windows by {preprocessor.key} and by {second}"
    if preprocessor.second_key is None:
        what = f"--label_topic {wanted.label_topic}: the SQL has windows that labels join"
    if runner_of(parsed) not in _HERE:
        raise UserError(f"{what}, which run on {', '.join(_HERE)}; leave out --runner, or the windows by {second}")
    assert isinstance(source, KafkaInput)  # it has a log
    if source.group_id is None:
        raise UserError(
            f"{what}: rows go through a topic of their own, so a run goes on where the one before it stopped; name a "
            "--group_id (another one reads everything again)"
        )
    quick = replace(source.blocks, gather_s=0.0, max_bundle_s=1.0, max_blocks_per_bundle=None)
    first = replace(source, blocks=quick, beat_s=_BEAT_S)
    labels = _labels(wanted.label_topic, first, preflight) if apart else None
    read = [KafkaTopic.find(each.address, each.config).positions() for each in (first, labels) if each is not None]
    name = _name(source.group_id, second, f"{' '.join(read)} {preprocessor.fingerprint}")
    address = replace(source.address, topic=name)
    given = wanted.repartition_topic
    if given:
        address = KafkaAddress.parse(given)
    for whose, other in (("the input", first), ("--label_topic", labels)):
        if other is not None and address == other.address:
            raise UserError(f"--repartition_topic {given}: is {whose}; name another one")
    sources = _partitions(source.address, source.config)
    ensure_topic(address, source.config, sources, _SETTINGS)
    check_topic(address, source.config, write=True, timeout_s=preflight.timeout_s)
    history = preprocessor.behind(legs).history()
    assert history is not None
    check_kept(address, topic_settings(address, source.config), history.reach_us // 1000)
    ends = _ends(address, source.config)
    lost = lost_rows(address, ends, source.group_id if _has_read(source) else None)
    if lost and wanted.short_history == "refuse":
        raise UserError(f"{lost}; choose another --group_id, which reads everything again, or --short_history warn")
    if lost:
        say(f"warning: {lost}: their windows lack what was before")
    partitions = len(ends)
    say(f"rows{' and labels' if apart else ''} come to {second} through {address} ({partitions} partitions)")
    rows = replace(
        source,
        address=address,
        group_id=f"{source.group_id}.by-{second}",
        start=EARLIEST,
        until=None if source.live else LATEST,
        on_lost="fail",
    )
    gapless = {**dict(source.config.settings), "enable.gapless.guarantee": "true"}
    sink = KafkaOutput(address, KafkaConfig(tuple(sorted(gapless.items()))))
    count = 0 if labels is None else _partitions(labels.address, labels.config)
    return SecondTopic(first, rows, sink, sources, partitions, labels, count)


def _labels(given: str, events: KafkaInput, preflight: Preflight) -> KafkaInput:
    """The topic on which labels come: read as that of the events is, but from its beginning.

    Raises:
      UserError: it is not there, or is that of the events.
    """
    address = KafkaAddress.parse(given)
    if address == events.address:
        raise UserError(f"--label_topic {given}: is the input; leave it out where events have their labels")
    if address.place != events.address.place:
        raise UserError(
            f"--label_topic {given}: is on other brokers than the input; bring it there, as with Kafka's MirrorMaker"
        )
    check_topic(address, events.config, write=False, timeout_s=preflight.timeout_s)
    until = events.until if events.until is None or events.until.kind is OffsetKind.TIMESTAMP else LATEST
    return replace(events, address=address, group_id=f"{events.group_id}.labels", start=EARLIEST, until=until)


def check_kept(address: KafkaAddress, settings: Mapping[str, str], reach_ms: int) -> None:
    """Refuses a topic that does not keep its records as windows need them.

    Args:
      settings: of the topic, those that are known.
      reach_ms: how far back a rebuild reads.

    Raises:
      UserError: as above.
    """
    retention = int(settings.get("retention.ms", "-1"))
    wrong = {
        "cleanup.policy": "compact" in settings.get("cleanup.policy", ""),
        "message.timestamp.type": settings.get("message.timestamp.type", "CreateTime") != "CreateTime",
        "retention.ms": 0 <= retention <= reach_ms,
    }
    for name, is_wrong in wrong.items():
        if is_wrong:
            raise UserError(
                f"--repartition_topic {address}: its {name} is {settings[name]}; windows need every record for "
                f"{reach_ms:,} ms, at its own time: set {name}={_SETTINGS[name]}"
            )


def lost_rows(address: KafkaAddress, ends: Sequence[int], group: str | None) -> str:
    """Why windows can't be rebuilt from the topic; "": they can.

    A start writes to each partition before it reads anything.

    Args:
      ends: of its partitions.
      group: that has read events before; None: it has not.
    """
    if group is not None and not any(ends):
        return f"{address}: holds none of the rows that group {group} brought before (another topic, or another SQL)"
    if 0 in ends and max(ends) > _OF_STARTS:
        return f"{address}: partition {ends.index(0)} was added, and keys have moved there, away from their rows"
    return ""


def _ends(address: KafkaAddress, config: KafkaConfig) -> list[int]:
    transport = KafkaTransport(address, config)
    with transport.control() as control:
        partitions = patiently(transport, control.topic).partitions
        bounds = patiently(transport, lambda timeout_s: control.bounds(partitions, timeout_s))
    return [high for _, (_, high) in sorted(bounds.items())]


def _has_read(source: KafkaInput) -> bool:
    """Whether its group has an offset of this topic, not of an earlier one of its name."""
    transport = KafkaTransport(source.address, source.config, source.group_id)
    with transport.control() as control:
        topic = patiently(transport, control.topic)
        committed = patiently(transport, lambda timeout_s: control.committed(topic.partitions, timeout_s))
    return any(c.topic_id in ("", topic.id) or not topic.id for c in committed.values())


def _partitions(address: KafkaAddress, config: KafkaConfig) -> int:
    transport = KafkaTransport(address, config)
    with transport.control() as control:
        return len(patiently(transport, control.topic).partitions)


def _name(group: str, second: str, what: str) -> str:
    """As Kafka Streams names its own; each group has one of its own, for it holds what that group has read."""
    told = re.sub(r"[^A-Za-z0-9._-]", "-", f"{group[:_LONGEST]}-{second[:_LONGEST]}")
    digest = hashlib.sha256(f"{group} {second} {what}".encode()).hexdigest()[:10]
    return f"{told}-{digest}-repartition"
