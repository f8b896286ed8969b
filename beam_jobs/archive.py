"""Archives events as training data: Kafka -> decode -> preprocess -> files by event time, each row in exactly one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import apache_beam as beam

from beam_jobs.archives.rows import carried
from beam_jobs.archives.sink import WriteToArchive
from beam_jobs.block import Block
from beam_jobs.preflight.addresses import shares
from beam_jobs.preflight.archive import ArchiveJob, archive_job, check_processes, owning
from beam_jobs.running import launch
from beam_jobs.steps.enrich import Enrich
from beam_jobs.terminal import options
from beam_jobs.terminal.cli import run
from beam_jobs.terminal.commands import JOBS
from beam_jobs.wiring import closing, preprocess, read_events, write_dead_letters


def build(pipeline: beam.Pipeline, job: ArchiveJob) -> None:
    """Wires the job into ``pipeline``. One fused stage: offsets are committed after the files count."""
    rows, bad = read_events(pipeline, job, job.columns)
    if job.content == "features" and job.source.gives != "features":
        label = carried(job.use_case)
        rows, bad["Preprocess"] = preprocess(job, rows, [label] if label else [])
    if job.lookup is not None:
        rows = rows | "Enrich" >> beam.ParDo(Enrich(job.lookup, job.lookup_every_s)).with_output_types(Block)
    rows | "Archive" >> WriteToArchive(job.write)
    write_dead_letters(bad, job)


def main(argv: Sequence[str]) -> int:
    """Parses, checks everything that can be checked before the start, runs, sums up."""
    parsed = options.parse(JOBS["archive"].parser(), argv)
    with launch.begin(parsed) as workers:
        job = archive_job(parsed)
        check_processes(job, workers.count)
        wires = [partial(build, job=part) for part in shares(job, workers.count)]
        with owning(parsed, job.write) as owned:
            if not owned:
                return 0
            return launch.run_job(parsed, wires, job.name, job.source.live, closing(parsed, job), workers)


if __name__ == "__main__":
    run(main)
