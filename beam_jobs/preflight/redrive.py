"""What ``redrive`` needs, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions

import schemas
from beam_jobs import options
from beam_jobs.io.kafka_config import KafkaConfig
from beam_jobs.io.uri import KafkaAddress, parse
from beam_jobs.preflight.addresses import kafka_source, prepare_outputs
from schemas.client import SchemaSource, for_registry


@dataclass(frozen=True)
class RedriveJob:
    """Everything the wiring of ``redrive`` needs, checked."""

    source: dict[str, Any]  # arguments of ReadFromKafka
    config: KafkaConfig
    writers: SchemaSource  # schemas of the dead letters by id
    output: KafkaAddress | None  # None: a dry run
    reasons: tuple[str, ...]  # empty: all


def redrive_job(parsed: PipelineOptions) -> RedriveJob:
    """Checks the options of ``redrive``.

    Raises:
      UserError: the first thing that is wrong, with its remedy.
    """
    wanted = parsed.view_as(options.RedriveOptions)
    options.require(parsed, "input", *([] if wanted.count_only else ["output"]))
    given = parsed.view_as(options.InputOptions)
    given.until = given.until or "latest"  # what is put back may fail again: never chase it
    config, source, _ = kafka_source(parsed, "redrive")
    output = None if wanted.count_only else parse(parsed.view_as(options.OutputOptions).output)
    if output:
        prepare_outputs(parsed, config, [output], source["address"])
        source["group_id"] = source["group_id"] or "highbeam.redrive"  # nothing is put back twice
    writers = for_registry(
        parsed.view_as(options.ConnectionOptions).schema_registry, schemas.load("dead_letter"), dict(config.settings)
    )
    writers.check()
    return RedriveJob(source, config, writers, output, tuple(wanted.reason or ()))
