"""Kafka as a bus: what a job's command line says of it, checked."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from beam_jobs.io.bus import Bus
from beam_jobs.io.kafka.address import EXAMPLE, KafkaAddress
from beam_jobs.io.kafka.client import check_group, check_topic
from beam_jobs.io.kafka.config import client_config
from beam_jobs.io.kafka.start import check_named
from beam_jobs.io.kafka.transforms import KafkaInput, KafkaOutput
from beam_jobs.io.position import OffsetSpec
from beam_jobs.io.source import Checks, Wanted


class KafkaBus:
    """Kafka, by ``kafka://``."""

    example = EXAMPLE

    def address(self, uri: str) -> KafkaAddress:
        return KafkaAddress.parse(uri)

    def source(self, uri: str, wanted: Wanted, checks: Checks) -> KafkaInput:
        address, options = KafkaAddress.parse(uri), wanted.options
        config = client_config(options, "input")
        live = wanted.until is None
        start = OffsetSpec.parse(wanted.start_from or ("latest" if live else "earliest"))
        until = None if wanted.until is None else OffsetSpec.parse(wanted.until)

        def there() -> None:
            partitions = check_topic(address, config, timeout_s=checks.timeout_s)
            for position in (start, until):
                if position is not None:
                    check_named(address, position, partitions)

        checks.ask(address.place, f"topic {address.topic}", there)
        # What a live job has read is committed to a group of its own.
        keep = live if wanted.keep_position is None else wanted.keep_position
        group_id = wanted.group_id or (wanted.default_group if keep else None)
        if group_id:
            usable = partial(check_group, address, config, group_id, checks.timeout_s)
            checks.ask(address.place, f"group {group_id}", usable)
        return KafkaInput(
            address,
            config,
            group_id,
            start,
            until,
            fetch=options["fetch"],
            blocks=wanted.blocks,
            io=options["kafka_io"],
        )

    def sink(self, uri: str, options: Mapping[str, Any]) -> KafkaOutput:
        return KafkaOutput(KafkaAddress.parse(uri), client_config(options, "output"))


BUS: Bus = KafkaBus()
