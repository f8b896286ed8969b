"""What ``score`` needs, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions

import schemas
from beam_jobs.archives.read import ArchiveInput
from beam_jobs.errors import UserError
from beam_jobs.io.address import Address, parse
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.preflight.addresses import (
    archive_input,
    check_no_windows,
    client_settings,
    describe_source,
    output_id,
    prepare_outputs,
    schema_source,
    stream_source,
)
from beam_jobs.preflight.reach import Preflight
from beam_jobs.preflight.workers import check_path, check_pii_key, warn_if_cleaned
from beam_jobs.preprocessing.preprocessor import Preprocessor
from beam_jobs.terminal import options
from beam_jobs.terminal.cli import require, say
from beam_jobs.terminal.commands import JOBS
from beam_jobs.use_case import UseCase, load_use_case
from model.manifest import check_fingerprint
from model.registry import ModelVersion, resolve
from schemas.source import SchemaId, SchemaSource


@dataclass(frozen=True)
class ScoreJob:
    """Everything the wiring of ``score`` needs, checked."""

    name: str  # "score/USE_CASE": in dead letters and in the consumer group's name
    live: bool  # runs until it is stopped
    use_case: UseCase
    preprocessor: Preprocessor
    model: ModelVersion
    source: dict[str, Any]  # arguments of bus.read; empty: the input is an archive
    archive: ArchiveInput | None
    config: KafkaConfig
    writers: SchemaSource  # writer schemas by id
    alerts: Address
    scores: Address | None
    dead_letters: Address
    max_dead_letter_rate: float
    schema_ids: dict[str, SchemaId]  # of the outputs, by the schema's file name


def score_job(parsed: PipelineOptions) -> ScoreJob:
    """Checks the options of ``score``, and that what they name is there and fits together.

    Raises:
      UserError: the first thing that is wrong, with its remedy.
    """
    require(parsed.get_all_options(), *JOBS["score"].required)
    wanted = parsed.view_as(options.ScoreOptions)
    bad = parsed.view_as(options.DeadLetterOptions)
    if not 0 <= bad.max_dead_letter_rate <= 1:
        raise UserError(f"--max_dead_letter_rate {bad.max_dead_letter_rate}: a share between 0 and 1")
    use_case = load_use_case(parsed.view_as(options.UseCaseOptions).use_case)
    preprocessor = use_case.preprocessor()
    check_no_windows(preprocessor, "remove OVER from the SQL and train a new version")
    preflight = Preflight(parsed)
    check_pii_key(preflight, preprocessor)
    check_path(parsed, "--model", wanted.model, in_image=True)
    model = resolve(wanted.model, use_case.name)
    warn_if_cleaned(parsed, "--model", model.folder)
    described = model.manifest
    check_fingerprint(described, preprocessor)
    outputs = {"alert": parse(wanted.alerts), "dead_letter": parse(bad.dead_letters)}
    if wanted.scores:
        outputs["score"] = parse(wanted.scores)
    name = f"score/{use_case.name}"
    given = parsed.view_as(options.InputOptions)
    archive = archive_input(given, use_case)
    config = client_settings(parsed)
    source: dict[str, Any] = {}
    live = False
    if archive is None:
        source, live = stream_source(preflight, config, name)
    prepare_outputs(preflight, config, outputs.values(), source.get("address"))
    writers = schema_source(preflight, use_case.schema, config)
    say(writers.describe())
    if archive:
        say(f"reading {len(archive.files)} files of {archive.content} from {given.input}")
    else:
        say(describe_source(source))
    say(f"model {described.name} {described.version}, alerts above a score of {described.threshold:.4g}")
    return ScoreJob(
        name=name,
        live=live,
        use_case=use_case,
        preprocessor=preprocessor,
        model=model,
        source=source,
        archive=archive,
        config=config,
        writers=writers,
        alerts=outputs["alert"],
        scores=outputs.get("score"),
        dead_letters=outputs["dead_letter"],
        max_dead_letter_rate=bad.max_dead_letter_rate,
        schema_ids={n: output_id(preflight, writers, to, schemas.load(n)) for n, to in outputs.items()},
    )
