"""What ``replay`` needs, checked."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs.archives.contents import Contents, look_through
from beam_jobs.archives.read import ArchiveInput
from beam_jobs.errors import UserError
from beam_jobs.io.sink import Sink
from beam_jobs.preflight.addresses import (
    archive_input,
    check_clients,
    output_id,
    prepare_outputs,
    schema_source,
    sink,
)
from beam_jobs.preflight.reach import Preflight
from beam_jobs.steps.replay_records import value_schema
from beam_jobs.terminal import options
from beam_jobs.terminal.cli import require, say
from beam_jobs.terminal.commands import JOBS
from beam_jobs.terminal.report import time_text
from beam_jobs.use_case import load_use_case
from schemas.source import SchemaId, ShippedSchemas

_SPEED = re.compile(r"([0-9]+(?:\.[0-9]+)?)x")
_TELL_EVERY_S = 5.0


@dataclass(frozen=True)
class ReplayJob:
    """The validated options of ``replay``, as its wiring takes them."""

    archive: ArchiveInput
    contents: Contents
    speed: float | None  # seconds of event time a second; None: as fast as it goes
    output: Sink
    schema: dict[str, Any]  # of the values
    schema_id: SchemaId


def replay_job(parsed: PipelineOptions, workers: int = 1) -> ReplayJob:
    """Checks the options of ``replay`` and looks through the archive.

    Args:
      workers: processes that were asked for.

    Raises:
      UserError: the first thing that is wrong, with its remedy.
    """
    require(parsed.get_all_options(), *JOBS["replay"].required)
    if workers != 1:
        raise UserError(f"--direct_num_workers={workers}: one process keeps the order of a replay; leave it out")
    speed = parse_speed(parsed.view_as(options.ReplayOptions).speed)
    use_case = load_use_case(parsed.view_as(options.UseCaseOptions).use_case)
    given = parsed.view_as(options.InputOptions)
    output = sink(parsed, parsed.view_as(options.OutputOptions).output)
    archive = archive_input(given, use_case)
    if archive is None:
        raise UserError(f"--input {given.input}: expected an archive, gs://bucket/folder, file:///folder or a path")
    if archive.content == "features":
        raise UserError(
            f"{given.input} holds features, what preprocessing has made of the events: no job reads them from a topic; "
            "replay an archive of events (beam_jobs.archive --raw), or name this one as --input of score"
        )
    preflight = Preflight(parsed)
    writers = schema_source(preflight, use_case.schema, check_clients(parsed))
    schema = value_schema(use_case, registry=not isinstance(writers, ShippedSchemas))
    prepare_outputs(preflight, [output], archive)
    say(writers.describe())
    contents = look_through(archive, _teller())
    say(
        f"{contents.rows:,} events in {len(contents.files):,} files of {given.input}, "
        f"{time_text(contents.first_ms)} to {time_text(contents.last_ms)}"
    )
    ids = sorted({topic for (topic, _), timed in zip(contents.partitions, contents.timed, strict=True) if timed})
    if ids:
        say(
            f"the offsets of {', '.join(ids[:5])} are message ids, which have no order: publish times put them in order"
        )
    pace = f"{speed:g} times as fast as it happened" if speed else "as fast as it goes"
    say(f"writing to {output.address}, {pace}")
    return ReplayJob(
        archive=archive,
        contents=contents,
        speed=speed,
        output=output,
        schema=schema,
        schema_id=output_id(preflight, writers, output.address, schema),
    )


def parse_speed(text: str | None) -> float | None:
    """The factor of ``--speed 10x``; None for None.

    Raises:
      UserError: it is none, or 0.
    """
    if text is None:
        return None
    match = _SPEED.fullmatch(text.strip().lower())
    if match is None or float(match[1]) == 0:
        raise UserError(f"--speed {text}: expected a factor like 1x, 10x or 0.5x; leave it out for full speed")
    return float(match[1])


def _teller() -> Callable[[int, int], None]:
    """Says now and then how far looking through the archive is."""
    told = time.monotonic()

    def tell(done: int, files: int) -> None:
        nonlocal told
        if time.monotonic() - told > _TELL_EVERY_S:
            told = time.monotonic()
            say(f"looked through {done:,} of {files:,} files")

    return tell
