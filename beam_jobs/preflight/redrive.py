"""What ``redrive`` needs, checked."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from apache_beam.options.pipeline_options import PipelineOptions

import schemas
from beam_jobs.errors import REASONS, UserError
from beam_jobs.io.sink import Sink
from beam_jobs.io.source import Source
from beam_jobs.preflight.addresses import (
    block_settings,
    check_clients,
    prepare_outputs,
    schema_source,
    sink,
    stream_source,
)
from beam_jobs.preflight.reach import Preflight
from beam_jobs.preflight.workers import dead_letter_payload
from beam_jobs.steps.payload import Payload
from beam_jobs.terminal import options
from beam_jobs.terminal.cli import require
from beam_jobs.terminal.commands import JOBS
from schemas.source import SchemaSource


@dataclass(frozen=True)
class RedriveJob:
    """The validated options of ``redrive``, as its wiring takes them."""

    source: Source
    writers: SchemaSource  # schemas of the dead letters by id
    output: Sink | None  # None: a dry run
    reasons: tuple[str, ...]  # empty: all
    payload: Payload | None = None  # with the key of encrypted letters; None: none is decrypted, in a dry run

    @property
    def nothing_read(self) -> str:
        """What to say, and what to do, where there was nothing to read."""
        if self.output is None:
            return f"there are no dead letters on {self.source.address}"
        return self.source.nothing_left()


def redrive_job(parsed: PipelineOptions) -> RedriveJob:
    """Checks the options of ``redrive``.

    Raises:
      UserError: the first thing that is wrong, with its remedy.
    """
    wanted = parsed.view_as(options.RedriveOptions)
    require(parsed.get_all_options(), *JOBS["redrive"].required, *([] if wanted.count_only else ["output"]))
    _check_known(wanted.reason or ())
    given = parsed.view_as(options.InputOptions)
    given.until = given.until or "latest"  # what is put back may fail again: never chase it
    # Nothing is put back twice: what was read is committed to a group, though the run is bounded.
    preflight = Preflight(parsed)
    settings = check_clients(parsed)
    source = stream_source(preflight, "redrive", block_settings(given), keep_position=not wanted.count_only)
    if wanted.reason:
        source.check_selection("--reason")
    output = None if wanted.count_only else sink(parsed, parsed.view_as(options.OutputOptions).output)
    if output:
        prepare_outputs(preflight, [output], source)
    writers = schema_source(preflight, schemas.load("dead_letter"), settings)
    payload = None if output is None else dead_letter_payload(preflight, writes=False)
    return RedriveJob(source, writers, output, tuple(wanted.reason or ()), payload)


def _check_known(reasons: Sequence[str]) -> None:
    """Refuses a reason that no step gives: all dead letters would be skipped, and the group be past them."""
    known = [reason for step in REASONS.values() for reason in step]
    for reason in reasons:
        if reason not in known:
            near = difflib.get_close_matches(reason.lower(), known, 1, 0.0)[0]
            raise UserError(
                f"--reason {reason}: no dead letter has this reason; did you mean {near}? All: {', '.join(known)}"
            )
