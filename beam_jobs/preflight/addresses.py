"""Checks that jobs share: where events come from, where the output goes, what the SQL asks of the job."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs.archives.read import ArchiveInput, open_archive
from beam_jobs.errors import UserError
from beam_jobs.io import bus
from beam_jobs.io.address import Address, KafkaAddress, PubSubAddress, parse
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.transforms import check_group, check_topic
from beam_jobs.io.position import OffsetKind, OffsetSpec
from beam_jobs.preflight.java import check_java
from beam_jobs.preflight.reach import Preflight
from beam_jobs.preflight.subscription import PUBSUB, pubsub_settings, topic_of
from beam_jobs.preflight.workers import check_path, check_settings, warn_if_cleaned, warn_of_this_machine
from beam_jobs.preprocessing.preprocessor import Preprocessor
from beam_jobs.storage.files import check_access, is_local, root_of
from beam_jobs.terminal import options
from beam_jobs.use_case import UseCase
from schemas.source import Registration, SchemaId, SchemaSource
from schemas.writers import for_registry


class Job(Protocol):
    """What a job's checks come to: a frozen dataclass that says what it reads."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def source(self) -> dict[str, Any]:
        """Arguments of ``bus.read``; empty: an archive is read."""


JobT = TypeVar("JobT", bound=Job)


def archive_input(given: options.InputOptions, use_case: UseCase) -> ArchiveInput | None:
    """The archive that --input names, None where it names a topic.

    Raises:
      UserError: no archive of this use case there, or --from and --until are no times.
    """
    scheme, separator, _ = given.input.partition("://")
    local = not separator and ("/" in given.input or os.path.isdir(given.input))
    if not local and scheme.lower() not in ("gs", "file"):
        return None  # whatever else it may be, it is checked as a topic
    if given.kafka_io == "java":
        raise UserError(f"--kafka_io java reads a topic, and --input {given.input} is an archive; leave it out")
    bounds: dict[str, int | None] = {"--from": None, "--until": None}
    for flag, text in (("--from", given.start_from), ("--until", given.until)):
        spec = OffsetSpec.parse(text) if text else None
        if spec is not None and spec.kind is OffsetKind.OFFSETS:
            raise UserError(f"{flag} {text}: an archive is cut by event time, give a time like 2026-11-22T07:00:00Z")
        bounds[flag] = spec.timestamp_ms if spec and spec.kind is OffsetKind.TIMESTAMP else None
    root = root_of(given.input)
    check_path(given, "--input", given.input)
    check_access(root)
    return open_archive(root, use_case, bounds["--from"], bounds["--until"])


def client_settings(parsed: PipelineOptions) -> KafkaConfig:
    """What --kafka_config says.

    Raises:
      UserError: it can't be read, or says something that workers can't follow.
    """
    path = parsed.view_as(options.ConnectionOptions).kafka_config
    if path and not is_local(path):
        check_access(path)
    config = KafkaConfig.from_file(path)
    check_settings(parsed, config)
    if any(value.endswith(f":{path}") for _, value in config.settings):  # a secret is in it: workers read it again
        warn_if_cleaned(parsed, "--kafka_config", path)
    return config


def stream_source(
    preflight: Preflight, config: KafkaConfig, name: str, keep_position: bool | None = None
) -> tuple[dict[str, Any], bool]:
    """The arguments of ``bus.read``, and whether the job runs until it is stopped.

    Args:
      config: as :func:`client_settings` gives it.
      name: "score/car_sensors"; the default group, or the default subscription of a topic, is named after it.
      keep_position: whether what was read is committed, or acknowledged, even where no group is named; None: on Kafka
        of a live job only.

    Raises:
      UserError: the topic or subscription is not there, or an option is wrong.
    """
    parsed = preflight.parsed
    given = parsed.view_as(options.InputOptions)
    live = given.until is None
    if not 1 <= given.block_rows <= 1_000_000:
        raise UserError(f"--block_rows {given.block_rows}: expected 1 to 1000000")
    if not 1 <= given.max_latency_ms <= 60_000:
        raise UserError(f"--max_latency_ms {given.max_latency_ms:g}: expected 1 to 60000")
    address = parse(given.input)
    warn_of_this_machine(preflight, address)
    group = f"highbeam.{name.replace('/', '.')}"
    shared = {"block_rows": given.block_rows, "max_latency_s": given.max_latency_ms / 1000}
    if isinstance(address, PubSubAddress):
        if given.kafka_io == "java":
            raise UserError(f"--kafka_io java reads Kafka, and --input is {given.input}; leave it out")
        return pubsub_settings(preflight, address, group, keep_position is not False) | shared, live
    if given.kafka_io == "java":
        check_java(parsed, name)
    place = address.bootstrap_servers
    there = partial(check_topic, address, config, timeout_s=preflight.timeout_s)
    preflight.ask(place, f"topic {address.topic}", there)
    group_id = given.group_id or (group if (live if keep_position is None else keep_position) else None)
    if group_id:
        preflight.ask(place, f"group {group_id}", partial(check_group, address, config, group_id, preflight.timeout_s))
    source = {
        "address": address,
        "config": config,
        "group_id": group_id,
        "start": OffsetSpec.parse(given.start_from or ("latest" if live else "earliest")),
        "until": None if live else OffsetSpec.parse(given.until),
        "fetch": given.fetch,
    }
    if given.kafka_io == "java":
        source["io"] = "java"
    return source | shared, live


def keeps_position(source: Mapping[str, Any]) -> bool:
    """Whether what is read is committed, and counted as such here; ``source`` as :func:`stream_source` gives it."""
    if isinstance(source.get("address"), PubSubAddress):
        return bool(source["settings"].acknowledge)
    return source.get("group_id") is not None and source.get("io") != "java"


def schema_source(preflight: Preflight, schema: dict[str, Any], config: KafkaConfig) -> SchemaSource:
    """Where schemas come from and go to: the registry that is named, or the shipped ``schema``.

    Raises:
      UserError: the registry does not answer (where ``preflight`` wants it to), or does not let us in.
    """
    url = preflight.parsed.view_as(options.ConnectionOptions).schema_registry
    found = for_registry(url, schema, dict(config.settings))
    if found.url is not None:
        preflight.ask(found.url, f"schema registry {found.url}", lambda: found.check(preflight.timeout_s))
    return found


def output_id(preflight: Preflight, writers: SchemaSource, to: Address, schema: Mapping[str, Any]) -> SchemaId:
    """The id that the records of an output carry; a registry that is not reached from here is asked by the workers.

    Raises:
      UserError: the registry refuses the schema.
    """
    subject = f"{to.topic}-value"
    register = partial(writers.register, subject, schema)
    if writers.url is None:
        return register()
    found = preflight.ask(writers.url, f"schema {subject}", register)
    return Registration(writers, subject, schema) if found is None else found


def describe_source(source: Mapping[str, Any]) -> str:
    """What is read, as a person reads it; ``source`` as :func:`stream_source` gives it."""
    if isinstance(source["address"], PubSubAddress):
        until = source["until_ms"]
        end = "" if until is None else f" until {np.datetime64(until, 'ms')}Z and then {source['quiet_s']:g} s of quiet"
        return f"reading subscription {source['address']}{end}"
    end = "" if source["until"] is None else f" until {source['until']}"
    start, group = source["start"], source["group_id"]
    where = f"where group {group} left off, or else from {start}" if group else f"from {start}"
    return f"reading {source['address']} {where}{end}"


def prepare_outputs(
    preflight: Preflight, config: KafkaConfig, outputs: Iterable[Address], source: Address | None
) -> None:
    """Checks the output topics, or makes those that are missing where ``--create_topics`` allows it.

    Raises:
      UserError: one is missing, is the input, or may not be written; or it is to be created, and nobody answers.
    """
    parsed = preflight.parsed
    create = parsed.view_as(options.ConnectionOptions).create_topics
    read = source
    if isinstance(source, PubSubAddress):
        read = preflight.ask(PUBSUB, f"the topic of {source}", partial(topic_of, source))
    for address in outputs:
        place = address.bootstrap_servers if isinstance(address, KafkaAddress) else PUBSUB
        warn_of_this_machine(preflight, address)
        if address == read:
            raise UserError(f"{address.topic} is the input as well as an output: the job would feed itself")
        if create and preflight.is_silent(place):
            raise UserError(
                f"{address}: can't be created from here; create it elsewhere, and leave out --create_topics"
            )
        if create:
            bus.ensure_topic(address, config)
        check = partial(bus.check_output, address, config, preflight.timeout_s)
        try:
            preflight.ask(place, f"topic {address.topic}", check)
        except UserError as error:
            hint = "" if create or "does not exist" not in str(error) else " (--create_topics creates it)"
            raise UserError(f"{error}{hint}") from error


def shares(job: JobT, count: int) -> list[JobT]:
    """``count`` jobs that together read what ``job`` reads: each some of the partitions, or of the archive's files."""
    return [_share(job, number, count) for number in range(count)]


def _share(job: JobT, number: int, count: int) -> JobT:
    archive: ArchiveInput | None = getattr(job, "archive", None)
    if archive is not None:
        return replace(job, archive=replace(archive, files=archive.files[number::count]))
    return replace(job, source=job.source | {"share": (number, count)})


def check_no_windows(preprocessor: Preprocessor, remedy: str) -> None:
    """Refuses SQL with windows: the job's steps keep nothing of a key from one block to the next."""
    if preprocessor.windows:
        window = preprocessor.windows[0]
        raise UserError(
            f"the SQL has window features ({window.function} OVER ...), which jobs can't compute yet, only "
            f"training and Preprocessor.apply; {remedy}"
        )
