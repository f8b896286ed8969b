"""Archives events as training data: Kafka -> decode -> preprocess -> files by event time, each row in exactly one."""

from __future__ import annotations

from collections.abc import Sequence

import apache_beam as beam

from beam_jobs.archives.rows import carried
from beam_jobs.archives.sink import WriteToArchive
from beam_jobs.block import Block
from beam_jobs.preflight.archive import ArchiveJob, archive_job, check_processes, owning
from beam_jobs.running import launch
from beam_jobs.steps.enrich import Enrich
from beam_jobs.terminal import options
from beam_jobs.terminal.cli import run
from beam_jobs.terminal.commands import JOBS
from beam_jobs.wiring import bring_to_second_key, read_events, read_features, run_pipelines, write_dead_letters


def build(pipeline: beam.Pipeline, job: ArchiveJob) -> None:
    """Wires the job into ``pipeline``. One fused stage: offsets are committed after the files count."""
    if job.content == "events":
        rows, bad = read_events(pipeline, job, job.columns)
    else:
        rows, bad = read_features(pipeline, job, job.columns, _carried(job))
    if job.lookup is not None:
        rows = rows | "Enrich" >> beam.ParDo(Enrich(job.lookup, job.lookup_every_s)).with_output_types(Block)
    rows | "Archive" >> WriteToArchive(job.write)
    write_dead_letters(bad, job)


def bring(pipeline: beam.Pipeline, job: ArchiveJob) -> None:
    """Wires what comes before, where the SQL has windows by two keys."""
    bring_to_second_key(pipeline, job, job.columns)


def _carried(job: ArchiveJob) -> list[str]:
    label = carried(job.use_case)
    return [label] if label else []


def main(argv: Sequence[str]) -> int:
    """Parses, checks everything that can be checked before the start, runs, sums up."""
    parsed = options.parse(JOBS["archive"].parser(), argv)
    with launch.begin(parsed) as workers:
        job = archive_job(parsed)
        check_processes(job, workers.count)
        with owning(parsed, job.write) as owned:
            if not owned:
                return 0
            return run_pipelines(parsed, job, build, bring, workers)


if __name__ == "__main__":
    run(main)
