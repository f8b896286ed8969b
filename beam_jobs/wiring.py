"""What ``score`` and ``archive`` do alike: events at the beginning, dead letters and a summary at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs.dead_letters import step
from beam_jobs.preflight.archive import ArchiveJob
from beam_jobs.preflight.score import ScoreJob
from beam_jobs.steps.decode import DecodeEvents
from beam_jobs.steps.preprocess import Preprocess
from beam_jobs.steps.windows import PreprocessWindows
from beam_jobs.steps.write_dead_letters import WriteDeadLetters
from beam_jobs.terminal import options
from beam_jobs.terminal.report import conclude


def read_events(
    pipeline: beam.Pipeline, job: ScoreJob | ArchiveJob, columns: Sequence[str]
) -> tuple[beam.PCollection, dict[str, beam.PCollection]]:
    """Blocks of what the job reads, and the dead letters of its steps by name.

    A topic or a subscription gives events with ``columns``, an archive what it holds: events or features.
    """
    blocks = pipeline | "Read" >> job.source.read()
    if job.source.gives != "records":
        return blocks, {}
    events, undecodable = step("Decode", _decoder(job, columns), blocks)
    return events, {"Decode": undecodable}


def _decoder(job: ScoreJob | ArchiveJob, columns: Sequence[str]) -> DecodeEvents:
    writers, guids = job.writers, job.writers.guid_schema if job.writers.url else None
    revisions = job.source.revision_schema
    return DecodeEvents(job.use_case.schema, columns, writers.writer_schema, job.name, revisions, job.events, guids)


def preprocess(
    job: ScoreJob | ArchiveJob, events: beam.PCollection, carry: Sequence[str] = ()
) -> tuple[beam.PCollection, beam.PCollection]:
    """Features of the events, and dead letters.

    Args:
      carry: as for ``Preprocess``.
    """
    preprocessor, log = job.use_case.preprocessor(), job.source.log()
    fn: beam.DoFn = Preprocess(preprocessor, job.name, carry)
    if preprocessor.windows and log is not None:
        again = _decoder(job, preprocessor.input_columns)
        fn = PreprocessWindows(preprocessor, job.name, again, log, job.windows, carry)
    return step("Preprocess", fn, events)


def write_dead_letters(bad: Mapping[str, beam.PCollection], job: ScoreJob | ArchiveJob) -> None:
    """One sink a step: a Flatten would end the fused stage, and with it the order of output and commit."""
    for name, letters in bad.items():
        letters | f"DeadLetters{name}" >> WriteDeadLetters(
            job.dead_letters, job.schema_ids["dead_letter"], job.max_dead_letter_rate, job.payload
        )


def closing(parsed: PipelineOptions, job: ScoreJob | ArchiveJob) -> Callable[[], int]:
    """Says what happened to the records of the job once it has ended; see ``conclude``."""
    return partial(
        conclude,
        live=job.source.live,
        path=parsed.view_as(options.ReportOptions).report,
        keeps_position=job.source.keeps_position,
        archive=isinstance(job, ArchiveJob),
        input_files=job.source.input_files,
    )
