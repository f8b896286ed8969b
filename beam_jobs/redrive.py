"""Puts dead letters back on a topic as the records they were, with their keys, bytes and headers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import apache_beam as beam

from beam_jobs.block import Block
from beam_jobs.io.sink import WriteSettings, leave_out
from beam_jobs.preflight.addresses import shares
from beam_jobs.preflight.redrive import RedriveJob, redrive_job
from beam_jobs.running import launch
from beam_jobs.steps.redrive import Redrive
from beam_jobs.terminal import options
from beam_jobs.terminal.cli import run
from beam_jobs.terminal.commands import JOBS
from beam_jobs.terminal.report import conclude_redrive


def build(pipeline: beam.Pipeline, job: RedriveJob) -> None:
    """Wires the job into ``pipeline``."""
    restore = Redrive(job.reasons, job.writers.writer_schema, job.payload)
    records = pipeline | "Read" >> job.source.read() | "Restore" >> beam.ParDo(restore).with_output_types(Block)
    if job.output:
        left = partial(leave_out, job.output.address)
        records | "Write" >> job.output.write(WriteSettings(on_too_large=left, at_once=True))


def main(argv: Sequence[str]) -> int:
    """Parses, checks, puts back what is there now, and says how much that was."""
    parsed = options.parse(JOBS["redrive"].parser(), argv)
    with launch.begin(parsed) as workers:
        job = redrive_job(parsed)
        done = partial(
            conclude_redrive,
            dry_run=job.output is None,
            keeps_position=job.source.keeps_position,
            nothing_read=job.nothing_read,
        )
        wires = [partial(build, job=part) for part in shares(job, workers.count)]
        return launch.run_job(parsed, wires, "redrive", False, done, workers)


if __name__ == "__main__":
    run(main)
