"""Checks that jobs share: where events come from, where the output goes, what the SQL asks of the job."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, ClassVar, Protocol, TypeVar

from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs import options
from beam_jobs.errors import UserError
from beam_jobs.io.archive_input import ArchiveInput, open_archive
from beam_jobs.io.files import check_access, root_of
from beam_jobs.io.kafka import check_topic, ensure_topic
from beam_jobs.io.kafka_config import KafkaConfig
from beam_jobs.io.kafka_offsets import OffsetKind, OffsetSpec
from beam_jobs.io.uri import KafkaAddress, parse
from beam_jobs.preflight.java import check_java
from beam_jobs.preprocessing.preprocessor import Preprocessor
from use_cases import UseCase


class Job(Protocol):
    """What a job's checks come to: a frozen dataclass that says what it reads."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def source(self) -> dict[str, Any]:
        """Arguments of ``ReadFromKafka``; empty: an archive is read."""


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
    check_access(root)
    return open_archive(root, use_case, bounds["--from"], bounds["--until"])


def kafka_source(parsed: PipelineOptions, name: str) -> tuple[KafkaConfig, dict[str, Any], bool]:
    """The client configuration, the arguments of ``ReadFromKafka``, and whether the job runs until it is stopped."""
    given = parsed.view_as(options.InputOptions)
    config = KafkaConfig.from_file(parsed.view_as(options.ConnectionOptions).kafka_config)
    if given.kafka_io == "java":
        check_java(parsed, name)
    address = parse(given.input)
    check_topic(address, config)
    live = given.until is None
    if not 1 <= given.block_rows <= 1_000_000:
        raise UserError(f"--block_rows {given.block_rows}: expected 1 to 1000000")
    if not 1 <= given.max_latency_ms <= 60_000:
        raise UserError(f"--max_latency_ms {given.max_latency_ms:g}: expected 1 to 60000")
    group_id = given.group_id or (f"highbeam.{name.replace('/', '.')}" if live else None)
    source = {
        "address": address,
        "config": config,
        "group_id": group_id,
        "start": OffsetSpec.parse(given.start_from or ("latest" if live else "earliest")),
        "until": None if live else OffsetSpec.parse(given.until),
        "fetch": given.fetch,
        "block_rows": given.block_rows,
        "max_latency_s": given.max_latency_ms / 1000,
    }
    if given.kafka_io == "java":
        source["io"] = "java"
    return config, source, live


def prepare_outputs(parsed: PipelineOptions, config: KafkaConfig, outputs: Any, source: KafkaAddress | None) -> None:
    """Checks the output topics, or makes those that are missing where ``--create_topics`` allows it."""
    create = parsed.view_as(options.ConnectionOptions).create_topics
    for address in outputs:
        if address == source:
            raise UserError(f"{address.topic} is the input as well as an output: the job would feed itself")
        if create:
            ensure_topic(address, config)
        try:
            check_topic(address, config, write=True)
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
