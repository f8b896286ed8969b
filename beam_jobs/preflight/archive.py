"""What ``archive`` needs, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions

import schemas
import use_cases
from beam_jobs import options
from beam_jobs.archive_rows import Content, archive_schema, carried
from beam_jobs.cli import say
from beam_jobs.codec.schema import arrow_schema
from beam_jobs.errors import UserError
from beam_jobs.io.archive import WriteFiles
from beam_jobs.io.archive_log import ArchiveLog
from beam_jobs.io.files import root_of
from beam_jobs.io.kafka_config import KafkaConfig
from beam_jobs.io.uri import KafkaAddress, parse
from beam_jobs.preflight.addresses import check_no_windows, kafka_source, prepare_outputs
from schemas.client import SchemaSource, for_registry
from use_cases import UseCase

_MB = 1_000_000
_BYTES_PER_BLOCK = 250_000  # of a block in a file, the least: bundles end before many files are much too large


@dataclass(frozen=True)
class ArchiveJob:
    """Everything the wiring of ``archive`` needs, checked."""

    name: str  # "archive/USE_CASE"
    live: bool
    use_case: UseCase
    content: Content
    columns: tuple[str, ...]  # fields of the events that are decoded
    source: dict[str, Any]  # arguments of ReadFromKafka
    config: KafkaConfig
    writers: SchemaSource
    write: WriteFiles
    dead_letters: KafkaAddress
    max_dead_letter_rate: float
    schema_ids: dict[str, int]


def archive_job(parsed: PipelineOptions) -> ArchiveJob:
    """Checks the options of ``archive``, and finishes what a killed job of the same name left in the archive.

    Raises:
      UserError: the first thing that is wrong, with its remedy.
    """
    options.require(parsed, "use_case", "input", "output", "dead_letters")
    wanted, bad = parsed.view_as(options.ArchiveOptions), parsed.view_as(options.DeadLetterOptions)
    for flag, value in {"max_file_age": wanted.max_file_age, "max_file_mb": wanted.max_file_mb}.items():
        if value <= 0:
            raise UserError(f"--{flag} {value:g}: expected more than 0")
    use_case = use_cases.load(parsed.view_as(options.UseCaseOptions).use_case)
    preprocessor = use_case.preprocessor()
    content: Content = "events" if wanted.raw else "features"
    if content == "features":
        check_no_windows(preprocessor, "archive the events with --raw; model.train computes the windows from them")
        preprocessor.check_secrets()
    schema = archive_schema(use_case, content)
    rows = arrow_schema(schema)
    if wanted.route_by and (wanted.route_by not in rows.names or not _is_text(rows.field(wanted.route_by).type)):
        texts = ", ".join(f.name for f in rows if _is_text(f.type))
        raise UserError(f"--route_by {wanted.route_by}: no text column of the archive; there are {texts}")
    root = root_of(parsed.view_as(options.OutputOptions).output)
    name = f"archive/{use_case.name}"
    config, source, live = kafka_source(parsed, name)
    dead = parse(bad.dead_letters)
    prepare_outputs(parsed, config, [dead], source["address"])
    writers = for_registry(
        parsed.view_as(options.ConnectionOptions).schema_registry, use_case.schema, dict(config.settings)
    )
    writers.check()
    # One log for each stream into the archive: two of them may run at once, and their positions have nothing in common.
    log = f"{use_case.name}-{content}-{source['address'].topic}"
    ArchiveLog(root, log).recover()
    source |= {
        "max_latency_s": None,
        "max_bundle_s": wanted.max_file_age,
        "gather_s": wanted.max_file_age if live else 0.0,
        "max_blocks_per_bundle": max(1, int(wanted.max_file_mb * _MB // _BYTES_PER_BLOCK)),
    }
    say(writers.describe())
    say(f"reading {source['address']} from {source['start']}" + ("" if live else f" until {source['until']}"))
    say(f"writing {content} to {root}, a file an hour of event time, finished every {wanted.max_file_age:g} s")
    label = carried(use_case)
    needed = rows.names if content == "events" else [*preprocessor.input_columns, *([label] if label else [])]
    return ArchiveJob(
        name=name,
        live=live,
        use_case=use_case,
        content=content,
        columns=tuple(field["name"] for field in use_case.schema["fields"] if field["name"] in needed),
        source=source,
        config=config,
        writers=writers,
        write=WriteFiles(
            root, log, schema, use_case.event_time, wanted.file_format, wanted.route_by, int(wanted.max_file_mb * _MB)
        ),
        dead_letters=dead,
        max_dead_letter_rate=bad.max_dead_letter_rate,
        schema_ids={"dead_letter": writers.register(f"{dead.topic}-value", schemas.load("dead_letter"))},
    )


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_dictionary(kind)
