"""Puts an archive of events back on a topic, with its keys, timestamps and order; as fast as it goes, or paced."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import apache_beam as beam

from beam_jobs.archives.replay_source import SweepArchive
from beam_jobs.block import Block
from beam_jobs.io.sink import WriteSettings, leave_out
from beam_jobs.preflight.replay import ReplayJob, replay_job
from beam_jobs.running import launch
from beam_jobs.steps.replay_records import ToOriginalRecords
from beam_jobs.terminal import options
from beam_jobs.terminal.cli import run
from beam_jobs.terminal.commands import JOBS
from beam_jobs.terminal.report import conclude_replay


def build(pipeline: beam.Pipeline, job: ReplayJob) -> None:
    """Wires the job into ``pipeline``."""
    to_records = ToOriginalRecords(job.schema, job.schema_id)
    (
        pipeline
        | "Read" >> SweepArchive(job.archive, job.contents, job.speed)
        | "Records" >> beam.ParDo(to_records).with_output_types(Block)
        | "Write" >> job.output.write(WriteSettings(on_too_large=partial(leave_out, job.output.address)))
    )


def main(argv: Sequence[str]) -> int:
    """Parses, checks everything that can be checked before the start, runs, says how far it came."""
    parsed = options.parse(JOBS["replay"].parser(), argv)
    with launch.begin(parsed) as workers:
        job = replay_job(parsed, workers.count)
        report = parsed.view_as(options.ReportOptions).report
        done = partial(conclude_replay, path=report, wanted=job.contents.rows)
        return launch.run_job(parsed, [partial(build, job=job)], "replay", False, done, workers)


if __name__ == "__main__":
    run(main)
