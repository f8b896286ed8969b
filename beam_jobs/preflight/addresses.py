"""Checks that jobs share: where events come from, where the output goes, what the SQL asks of the job."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Protocol, TypeVar

from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs.archives.read import ArchiveInput, open_archive
from beam_jobs.errors import UserError
from beam_jobs.io.address import Address
from beam_jobs.io.block_reader import BlockSettings
from beam_jobs.io.bus import bus_of, parse
from beam_jobs.io.kafka.config import KafkaConfig, client_file
from beam_jobs.io.position import OffsetKind, OffsetSpec
from beam_jobs.io.sink import Sink
from beam_jobs.io.source import Source, Wanted
from beam_jobs.preflight.java import check_java
from beam_jobs.preflight.reach import Preflight
from beam_jobs.preflight.workers import check_path, check_settings, warn_if_cleaned, warn_of_this_machine
from beam_jobs.preprocessing.preprocessor import Preprocessor
from beam_jobs.steps.decode import EventSettings
from beam_jobs.steps.windows import WindowSettings
from beam_jobs.storage.files import check_access, is_local, make_folder, root_of, writing
from beam_jobs.terminal import options
from beam_jobs.use_case import UseCase
from schemas.source import Registration, SchemaId, SchemaSource
from schemas.writers import for_registry


class Job(Protocol):
    """What a job's checks come to: a frozen dataclass that says what it reads."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def source(self) -> Source:
        """What it reads."""


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
    return replace(open_archive(root, use_case, bounds["--from"], bounds["--until"]), name=given.input)


def check_clients(parsed: PipelineOptions) -> dict[str, str]:
    """Checks the files of --kafka_config, and of those for one side alone.

    Returns:
      The settings in them that are not for one side: the Schema Registry's. Those of --kafka_config win, then the
      input's.

    Raises:
      UserError: one can't be read, or says something that workers can't follow.
    """
    given = parsed.get_all_options()
    common = ("--kafka_config", given["kafka_config"])
    settings: dict[str, str] = {}
    for flag, path in dict.fromkeys((client_file(given, "output"), client_file(given, "input"), common)):
        if path and not is_local(path):
            check_access(path)
        config = KafkaConfig.from_file(path, flag)
        check_settings(parsed, config, flag)
        if any(value.endswith(f":{path}") for _, value in config.settings):  # a secret is in it: workers read it again
            warn_if_cleaned(parsed, flag, path)
        settings |= dict(config.settings)
    return settings


def event_settings(parsed: PipelineOptions) -> EventSettings:
    """What the job takes for an event."""
    given = parsed.view_as(options.EventOptions)
    return EventSettings(skip_tombstones=given.tombstones == "skip", json_strict=given.json_strict)


def block_settings(given: options.InputOptions) -> BlockSettings:
    """How what is read is cut into blocks.

    Raises:
      UserError: an option is wrong.
    """
    if not 1 <= given.block_rows <= 1_000_000:
        raise UserError(f"--block_rows {given.block_rows}: expected 1 to 1000000")
    if not 1 <= given.max_latency_ms <= 60_000:
        raise UserError(f"--max_latency_ms {given.max_latency_ms:g}: expected 1 to 60000")
    return BlockSettings(block_rows=given.block_rows, max_latency_s=given.max_latency_ms / 1000)


def stream_source(preflight: Preflight, name: str, blocks: BlockSettings, keep_position: bool | None = None) -> Source:
    """The topic or subscription that --input names.

    Args:
      name: "score/car_sensors"; the default group, or the default subscription of a topic, is named after it.
      keep_position: whether what was read is committed, or acknowledged, even where no group is named; None: on Kafka
        of a live job only.

    Raises:
      UserError: the topic or subscription is not there, or an option is wrong.
    """
    parsed = preflight.parsed
    given = parsed.view_as(options.InputOptions)
    warn_of_this_machine(preflight, parse(given.input))
    check_java(parsed, name)
    wanted = Wanted(
        default_group=f"highbeam.{name.replace('/', '.')}",
        options=parsed.get_all_options(),
        start_from=given.start_from,
        until=given.until,
        group_id=given.group_id,
        keep_position=keep_position,
        blocks=blocks,
    )
    return bus_of(given.input).source(given.input, wanted, preflight)


def sink(parsed: PipelineOptions, uri: str) -> Sink:
    """Where an option of the command line says that records are written.

    Raises:
      UserError: it is no address, or the client's settings are wrong.
    """
    return bus_of(uri).sink(uri, parsed.get_all_options())


def schema_source(
    preflight: Preflight, schema: dict[str, Any], settings: Mapping[str, str], source: Source | None = None
) -> SchemaSource:
    """Where schemas come from and go to: the registry that is named, or the shipped ``schema``.

    Args:
      settings: as :func:`check_clients` gives them.
      source: of the records, whose topic says which subject their ids are of.

    Raises:
      UserError: the registry does not answer (where ``preflight`` wants it to), or does not let us in.
    """
    url = preflight.parsed.view_as(options.ConnectionOptions).schema_registry
    subject = f"{source.address.topic}-value" if source is not None and source.address else None
    found = for_registry(url, schema, settings, subject)
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


def prepare_outputs(preflight: Preflight, outputs: Iterable[Sink], source: Source) -> None:
    """Checks the output topics, or makes those that are missing where ``--create_topics`` allows it.

    Raises:
      UserError: one is missing, is the input, or may not be written; or it is to be created, and nobody answers.
    """
    parsed = preflight.parsed
    create = parsed.view_as(options.ConnectionOptions).create_topics
    read = source.feed(preflight)
    for output in outputs:
        address = output.address
        warn_of_this_machine(preflight, address)
        if address == read:
            raise UserError(f"{address.topic} is the input as well as an output: the job would feed itself")
        if create and preflight.is_silent(address.place):
            raise UserError(
                f"{address}: can't be created from here; create it elsewhere, and leave out --create_topics"
            )
        if create:
            output.create()
        try:
            preflight.ask(address.place, f"topic {address.topic}", partial(output.check, preflight.timeout_s))
        except UserError as error:
            hint = "" if create or "does not exist" not in str(error) else " (--create_topics creates it)"
            raise UserError(f"{error}{hint}") from error


def shares(job: JobT, count: int) -> list[JobT]:
    """``count`` jobs that together read what ``job`` reads: each some of the partitions, or of the archive's files."""
    return [replace(job, source=job.source.share(number, count)) for number in range(count)]


def window_settings(parsed: PipelineOptions, preprocessor: Preprocessor, source: Source) -> WindowSettings:
    """How the windows of the SQL are kept, if it has any.

    Raises:
      UserError: the source has no log to rebuild them from, or an option is wrong.
    """
    given = parsed.view_as(options.WindowOptions)
    if given.window_memory_mb <= 0:
        raise UserError(f"--window_memory_mb {given.window_memory_mb:g}: expected more than 0")
    if preprocessor.windows and source.log() is None:
        window = preprocessor.windows[0]
        key = preprocessor.key
        java = parsed.get_all_options().get("kafka_io") == "java"
        remedy = "leave out --kafka_io" if java else f"bring the events to a Kafka topic, their key {key}"
        remedy += " (highbeam replay)" if source.address is None else ""
        what = "Beam's Kafka reader in Java" if java else source.bus
        raise UserError(
            f"the SQL has window features ({window.function} OVER ...), which are rebuilt from a log after a restart, "
            f"and {what} has none that can be read again by partition; {remedy}"
        )
    snapshots = _snapshot_folder(parsed, given) if given.window_snapshots and preprocessor.windows else ""
    return WindowSettings(given.short_history, given.window_memory_mb, snapshots, given.window_snapshot_seconds)


def _snapshot_folder(parsed: PipelineOptions, given: options.WindowOptions) -> str:
    flag, folder = "--window_snapshots", given.window_snapshots
    if given.window_snapshot_seconds <= 0:
        raise UserError(f"--window_snapshot_seconds {given.window_snapshot_seconds:g}: expected more than 0")
    root = root_of(folder)
    check_path(parsed, flag, root)
    with writing(f"{flag} {folder}", begun=False):
        check_access(root)
        if is_local(root):
            make_folder(root)
    return root
