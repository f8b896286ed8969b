"""What ``score`` and ``archive`` do alike: events at the beginning, dead letters and a summary at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs import stop
from beam_jobs.archives.rows import carried
from beam_jobs.dead_letters import step
from beam_jobs.preflight.addresses import shares
from beam_jobs.preflight.archive import ArchiveJob
from beam_jobs.preflight.score import ScoreJob
from beam_jobs.running import launch
from beam_jobs.running.workers import Workers
from beam_jobs.steps.decode import DecodeEvents
from beam_jobs.steps.preprocess import Preprocess
from beam_jobs.steps.repartition import LabelsToSecondKey, ToSecondKey
from beam_jobs.steps.second_key import BySecondKey
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


def read_features(
    pipeline: beam.Pipeline, job: ScoreJob | ArchiveJob, columns: Sequence[str], carry: Sequence[str] = ()
) -> tuple[beam.PCollection, dict[str, beam.PCollection]]:
    """Blocks of features, and the dead letters of the steps that made them.

    Args:
      columns: as for ``read_events``.
      carry: as for ``Preprocess``; of windows by a second key the label is carried.
    """
    second, preprocessor = job.second, job.use_case.preprocessor()
    if second is not None:
        topic, log = second.first.address.topic, second.source.log()
        assert log is not None
        along, labels = _along(job), second.label_partitions
        fn = BySecondKey(preprocessor, job.name, topic, second.sources, log, job.windows, along, labels)
        rows, refused = step("BySecondKey", fn, pipeline | "Read" >> second.source.read())
        return rows, {"BySecondKey": refused}
    blocks, bad = read_events(pipeline, job, columns)
    if job.source.gives != "features":
        blocks, bad["Preprocess"] = preprocess(job, blocks, carry)
    return blocks, bad


def bring_to_second_key(pipeline: beam.Pipeline, job: ScoreJob | ArchiveJob, columns: Sequence[str]) -> None:
    """The stage before: events, their windows by the key, and out to the topic of the second one."""
    second, preprocessor = job.second, job.use_case.preprocessor()
    assert second is not None
    log = second.first.log()
    assert log is not None
    along, apart = _along(job), second.labels is not None
    again = _decoder(job, columns)
    fn = ToSecondKey(preprocessor, job.name, again, log, job.windows, second.partitions, along, apart)
    rows, refused = step("ToSecondKey", fn, pipeline | "ReadEvents" >> second.first.read())
    rows | "WriteRows" >> second.sink.write()
    bad = {"ToSecondKey": refused}
    if second.labels is not None:
        of_labels = preprocessor.legs(apart=True).of_labels
        decode = _decoder(job, sorted(of_labels), job.use_case.schema_of_labels(of_labels))
        to = LabelsToSecondKey(preprocessor, job.name, decode, second.sources, second.partitions, along)
        rows, bad["LabelsToSecondKey"] = step("LabelsToSecondKey", to, pipeline | "ReadLabels" >> second.labels.read())
        rows | "WriteLabels" >> second.sink.write()
    write_dead_letters(bad, job)


def _along(job: ScoreJob | ArchiveJob) -> dict[str, Any]:
    """Avro types of fields that pass the second key's topic as they are, by name: the label, which an archive holds.

    Of each job alike: one that goes on where another one left off, with its group, finds the rows that it brought. It
    is null where the job does not decode it.
    """
    label = carried(job.use_case)
    return {field["name"]: field["type"] for field in job.use_case.schema["fields"] if field["name"] == label}


def _decoder(job: ScoreJob | ArchiveJob, columns: Sequence[str], schema: dict[str, Any] | None = None) -> DecodeEvents:
    """What makes events of records; ``schema``: where it is not the use case's."""
    writers, guids = job.writers, job.writers.guid_schema if job.writers.url else None
    schema, revisions = schema or job.use_case.schema, job.source.revision_schema
    return DecodeEvents(schema, columns, writers.writer_schema, job.name, revisions, job.events, guids)


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


JobT = TypeVar("JobT", ScoreJob, ArchiveJob)


def run_pipelines(
    parsed: PipelineOptions,
    job: JobT,
    build: Callable[[beam.Pipeline, JobT], None],
    bring: Callable[[beam.Pipeline, JobT], None],
    workers: Workers,
) -> int:
    """Runs what ``build`` wires; where the SQL has windows by two keys what ``bring`` does beside it, or before it.

    Beside it as long as events come; before it where they have an end, which is where the rest begins.

    Returns:
      The exit status.
    """
    live, second, conclude = job.source.live, job.second, closing(parsed, job)
    parts = shares(job, workers.count)
    if second is None:
        return launch.run_job(
            parsed, [partial(_wire, [build], part) for part in parts], job.name, live, conclude, workers
        )
    parts = [replace(part, second=second.share(number, workers.count)) for number, part in enumerate(parts)]
    second.begin()
    if live:
        both = [partial(_wire, [bring, build], part) for part in parts]
        return launch.run_job(parsed, both, job.name, live, conclude, workers)
    status = launch.run_job(
        parsed, [partial(_wire, [bring], part) for part in parts], job.name, live, lambda: 0, workers
    )
    if status or stop.requested():  # the rest is for the next run
        return conclude() or status
    second.end()
    with Workers(workers.count) as others:  # a process runs one pipeline
        then = [partial(_wire, [build], part) for part in parts]
        return launch.run_job(parsed, then, job.name, live, conclude, others, goes_on=True)


def _wire(builds: Sequence[Callable[[beam.Pipeline, JobT], None]], job: JobT, pipeline: beam.Pipeline) -> None:
    for build in builds:
        build(pipeline, job)


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
