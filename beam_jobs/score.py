"""Scores events and raises alerts: Kafka -> decode -> preprocess -> RunInference -> alerts."""

from __future__ import annotations

from collections.abc import Sequence

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference

from beam_jobs.block import Block
from beam_jobs.dead_letters import step
from beam_jobs.io.sink import WriteSettings
from beam_jobs.preflight.score import ScoreJob, score_job
from beam_jobs.running import launch
from beam_jobs.steps.alerting.webhook import AtTheEnd, ToWebhook
from beam_jobs.steps.infer import BlockModelHandler
from beam_jobs.steps.score_records import ROWS, CheckScores, ToRecords, to_alerts, to_scores
from beam_jobs.steps.write_dead_letters import WriteDeadLetters
from beam_jobs.terminal import options
from beam_jobs.terminal.cli import run
from beam_jobs.terminal.commands import JOBS
from beam_jobs.wiring import bring_to_second_key, read_features, run_pipelines, write_dead_letters


def build(pipeline: beam.Pipeline, job: ScoreJob) -> None:
    """Wires the job into ``pipeline``. One fused stage, source to sinks: offsets are committed after the outputs."""
    use_case, preprocessor = job.use_case, job.preprocessor

    blocks, bad = read_features(pipeline, job, preprocessor.input_columns)
    handler = BlockModelHandler(
        job.model, preprocessor.features, job.budget, use_case.key, use_case.event_time, job.cooldown
    )
    inferred = blocks | "RunInference" >> RunInference(handler).with_output_types(Block)
    scored, bad["CheckScores"] = step(
        "CheckScores", CheckScores(job.name, use_case.key, preprocessor.attributes), inferred
    )

    alerts = to_alerts(use_case, preprocessor, job.schema_ids.get("alert"), job.webhook is not None)
    records = scored | "Alerts" >> _alerts(alerts, job)
    if job.webhook is not None:
        letters = WriteDeadLetters(job.dead_letters, job.schema_ids["dead_letter"], 1.0, job.payload, of_records=False)
        waits = not job.source.live and not job.own_process
        hook = ToWebhook(job.webhook, job.name, waits)
        undelivered = records[ROWS] | "Webhook" >> beam.ParDo(hook).with_output_types(Block)
        undelivered | "DeadLettersWebhook" >> letters
        if not job.source.live and job.own_process:
            (
                pipeline
                | "WebhookEnd" >> beam.Create([None])
                | "WebhookRest"
                >> beam.ParDo(AtTheEnd(job.webhook, job.name), beam.pvalue.AsIter(undelivered)).with_output_types(Block)
                | "DeadLettersWebhookRest" >> letters
            )
        records = records["records"]
    records | "WriteAlerts" >> job.alerts.write(WriteSettings(record_latency=True))
    if job.alerts_also:
        records | "WriteAlertsAlso" >> job.alerts_also.write()
    if job.scores:
        scores = to_scores(use_case, job.schema_ids["score"])
        (
            scored
            | "Scores" >> beam.ParDo(scores).with_output_types(Block)
            | "WriteScores" >> job.scores.write(WriteSettings(ordered=False))
        )
    write_dead_letters(bad, job)


def _alerts(alerts: ToRecords, job: ScoreJob) -> beam.PTransform:
    if job.webhook is None:
        return beam.ParDo(alerts).with_output_types(Block)
    typed = beam.ParDo(alerts).with_output_types(Block, **{ROWS: Block})
    return typed.with_outputs(ROWS, main="records")


def bring(pipeline: beam.Pipeline, job: ScoreJob) -> None:
    """Wires what comes before, where the SQL has windows by two keys."""
    bring_to_second_key(pipeline, job, job.preprocessor.input_columns)


def main(argv: Sequence[str]) -> int:
    """Parses, checks everything that can be checked before the start, runs, sums up."""
    parsed = options.parse(JOBS["score"].parser(), argv)
    with launch.begin(parsed) as workers:
        job = score_job(parsed)
        return run_pipelines(parsed, job, build, bring, workers)


if __name__ == "__main__":
    run(main)
