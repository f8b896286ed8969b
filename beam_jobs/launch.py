"""From a parsed command line to a running job: checks before the start, the runner, Ctrl-C, the closing summary."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    PortableOptions,
    PrismRunnerOptions,
    StandardOptions,
)

import schemas
import use_cases
from beam_jobs import metrics, options
from beam_jobs.archive_rows import Content, archive_schema, carried
from beam_jobs.cli import EXIT_INTERRUPTED, STOP_SIGNALS
from beam_jobs.codec.schema import arrow_schema
from beam_jobs.errors import UserError
from beam_jobs.io.archive import WriteFiles
from beam_jobs.io.archive_input import ArchiveInput, open_archive
from beam_jobs.io.archive_log import ArchiveLog
from beam_jobs.io.files import root_of
from beam_jobs.io.kafka import check_topic, ensure_topic, request_drain, reset_drain
from beam_jobs.io.kafka_config import KafkaConfig
from beam_jobs.io.kafka_offsets import OffsetKind, OffsetSpec
from beam_jobs.io.uri import KafkaAddress, parse
from beam_jobs.local_runner import LocalRunner
from beam_jobs.preprocessing.preprocessor import Preprocessor
from beam_jobs.report import Progress, check_writable
from model import manifest
from model.manifest import Manifest
from model.registry import ModelVersion, resolve
from schemas.client import SchemaSource, for_registry, interrupt_waits, resume_waits
from use_cases import UseCase

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_KEPT_BYTES = 512 << 20
_MB = 1_000_000
_DECADE_S = 10 * 365 * 86_400
_BYTES_PER_BLOCK = 250_000  # of a block in a file, the least: bundles end before many files are much too large

IN_PROCESS = ("DirectRunner", "FnApiRunner")


@dataclass(frozen=True)
class ScoreJob:
    """Everything the wiring of ``score`` needs, checked."""

    name: str  # "score/USE_CASE": in dead letters and in the consumer group's name
    live: bool  # runs until it is stopped
    use_case: UseCase
    preprocessor: Preprocessor
    model: ModelVersion
    source: dict[str, Any]  # arguments of ReadFromKafka; empty: the input is an archive
    archive: ArchiveInput | None
    config: KafkaConfig
    writers: SchemaSource  # writer schemas by id
    alerts: KafkaAddress
    scores: KafkaAddress | None
    dead_letters: KafkaAddress
    max_dead_letter_rate: float
    schema_ids: dict[str, int]  # of the outputs, by the schema's file name


def score_job(parsed: PipelineOptions) -> ScoreJob:
    """Checks the options of ``score``, and that what they name is there and fits together.

    Raises:
      UserError: the first thing that is wrong, with its remedy.
    """
    options.require(parsed, "use_case", "input", "model", "alerts", "dead_letters")
    wanted = parsed.view_as(options.ScoreOptions)
    bad = parsed.view_as(options.DeadLetterOptions)
    if not 0 <= bad.max_dead_letter_rate <= 1:
        raise UserError(f"--max_dead_letter_rate {bad.max_dead_letter_rate}: a share between 0 and 1")
    use_case = use_cases.load(parsed.view_as(options.UseCaseOptions).use_case)
    preprocessor = use_case.preprocessor()
    preprocessor.check_secrets()
    model = resolve(wanted.model, use_case.name)
    described = manifest.read(model.path)
    check_fingerprint(described, preprocessor)
    outputs = {"alert": parse(wanted.alerts), "dead_letter": parse(bad.dead_letters)}
    if wanted.scores:
        outputs["score"] = parse(wanted.scores)
    name = f"score/{use_case.name}"
    given = parsed.view_as(options.InputOptions)
    archive = archive_input(given, use_case)
    config = KafkaConfig.from_file(parsed.view_as(options.ConnectionOptions).kafka_config)
    source: dict[str, Any] = {}
    live = False
    if archive is None:
        config, source, live = kafka_source(parsed, name)
    prepare_outputs(parsed, config, outputs.values(), source.get("address"))
    registry = parsed.view_as(options.ConnectionOptions).schema_registry
    writers = for_registry(registry, use_case.schema, dict(config.settings))
    writers.check()
    say(writers.describe())
    if archive:
        say(f"reading {len(archive.files)} files of {archive.content} from {given.input}")
    else:
        group = f" as group {source['group_id']}" if source["group_id"] else ""
        say(
            f"reading {source['address']} from {source['start']}{group}" + ("" if live else f" until {source['until']}")
        )
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
        schema_ids={n: writers.register(f"{to.topic}-value", schemas.load(n)) for n, to in outputs.items()},
    )


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


def check_fingerprint(model: Manifest, preprocessor: Preprocessor) -> None:
    """Refuses a model that was trained on the output of another preprocessing."""
    if model.preprocessing_fingerprint != preprocessor.fingerprint:
        raise UserError(
            f"model {model.name} {model.version} was trained on preprocessing {model.preprocessing_fingerprint[:12]}, "
            f"but the SQL, schema and PII policy of the use case are now {preprocessor.fingerprint[:12]}; "
            "train a new version with python -m model.train, or restore the old SQL"
        )


def archive_input(given: options.InputOptions, use_case: UseCase) -> ArchiveInput | None:
    """The archive that --input names, None where it names a topic.

    Raises:
      UserError: no archive of this use case there, or --from and --until are no times.
    """
    scheme, separator, _ = given.input.partition("://")
    local = not separator and ("/" in given.input or os.path.isdir(given.input))
    if not local and scheme.lower() not in ("gs", "file"):
        return None  # whatever else it may be, it is checked as a topic
    bounds: dict[str, int | None] = {"--from": None, "--until": None}
    for flag, text in (("--from", given.start_from), ("--until", given.until)):
        spec = OffsetSpec.parse(text) if text else None
        if spec is not None and spec.kind is OffsetKind.OFFSETS:
            raise UserError(f"{flag} {text}: an archive is cut by event time, give a time like 2026-11-22T07:00:00Z")
        bounds[flag] = spec.timestamp_ms if spec and spec.kind is OffsetKind.TIMESTAMP else None
    return open_archive(root_of(given.input), use_case, bounds["--from"], bounds["--until"])


def kafka_source(parsed: PipelineOptions, name: str) -> tuple[KafkaConfig, dict[str, Any], bool]:
    """The client configuration, the arguments of ``ReadFromKafka``, and whether the job runs until it is stopped."""
    given = parsed.view_as(options.InputOptions)
    config = KafkaConfig.from_file(parsed.view_as(options.ConnectionOptions).kafka_config)
    address = parse(given.input)
    check_topic(address, config)
    live = given.until is None
    if not 1 <= given.block_rows <= 1_000_000:
        raise UserError(f"--block_rows {given.block_rows}: expected 1 to 1000000")
    if not 1 <= given.max_latency_ms <= 60_000:
        raise UserError(f"--max_latency_ms {given.max_latency_ms:g}: expected 1 to 60000")
    group_id = given.group_id or (f"highbeam.{name.replace('/', '.')}" if live else None)
    source = {
        "address": address,
        "config": config,
        "group_id": group_id,
        "start": OffsetSpec.parse(given.start_from or ("latest" if live else "earliest")),
        "until": None if live else OffsetSpec.parse(given.until),
        "fetch": given.fetch,
        "block_rows": given.block_rows,
        "max_latency_s": given.max_latency_ms / 1000,
    }
    return config, source, live


def prepare_outputs(parsed: PipelineOptions, config: KafkaConfig, outputs: Any, source: KafkaAddress | None) -> None:
    """Checks the output topics, or makes those that are missing where ``--create_topics`` allows it."""
    create = parsed.view_as(options.ConnectionOptions).create_topics
    for address in outputs:
        if address == source:
            raise UserError(f"{address.topic} is the input as well as an output: the job would feed itself")
        if create:
            ensure_topic(address, config)
        try:
            check_topic(address, config, write=True)
        except UserError as error:
            hint = "" if create or "does not exist" not in str(error) else " (--create_topics creates it)"
            raise UserError(f"{error}{hint}") from error


def run_job(
    parsed: PipelineOptions, wire: Callable[[beam.Pipeline], Any], live: bool, conclude: Callable[[float], None]
) -> int:
    """Runs the pipeline that ``wire`` builds; ``conclude(start time)`` then says what came of it.

    Locally, bounded and streaming jobs of one fused stateless stage run in this process on the FnApiRunner, whatever
    ``--runner=DirectRunner`` might pick (docs/decisions.md); ``--runner=PrismRunner`` runs them on Prism.
    """
    reporting = parsed.view_as(options.ReportOptions)
    if reporting.report:
        check_writable(reporting.report)
    level = logging.INFO if reporting.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(message)s", force=True)
    # RunInference warns of it on every machine without its optional model manager.
    logging.getLogger().addFilter(lambda record: "Resource module is not available" not in str(record.msg))
    if not reporting.verbose:
        # Runners log the stack trace of what a worker raised, and raise it again: the command says it in one line.
        for noisy in ("apache_beam.runners", "apache_beam.utils.subprocess_server"):
            logging.getLogger(noisy).setLevel(logging.CRITICAL)
    standard = parsed.view_as(StandardOptions)
    standard.streaming = live
    runner = standard.runner or "DirectRunner"
    prism = parsed.view_as(PrismRunnerOptions)
    if runner == "PrismRunner":
        prism.prism_location = prism.prism_location or shutil.which("prism")  # None: Beam downloads it
        outlast_job_server(parsed.view_as(PortableOptions))
    metrics.TOTALS.reset()
    reset_drain()
    resume_waits()
    if runner in IN_PROCESS:
        check_one_worker(parsed.view_as(DirectOptions))
    pipeline = beam.Pipeline(runner=LocalRunner() if runner in IN_PROCESS else runner, options=parsed)
    wire(pipeline)
    keep_memory()
    gc.freeze()  # modules and graphs stay: a full collection that walks them stops the stream for 0.1 s
    started = time.time()
    finished = False
    try:
        with Progress(reporting.progress, started), drain_on_signal() as arm:
            if runner not in IN_PROCESS:
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: Ctrl-C must not end the runner before the job
            running = pipeline.run()
            arm()  # a job server's client takes the signal for itself
            running.wait_until_finish()
        finished = True
    finally:
        if finished or metrics.TOTALS.snapshot()[0][metrics.RECORDS_READ]:
            conclude(started)
    return 0


def outlast_job_server(portable: PortableOptions) -> None:
    """Lets the job run longer than Beam's default for one answer of its job server.

    Beam 2.77 takes ``--job_server_timeout`` (300 s) as the deadline of the streams that tell the job's state as well:
    a job on Prism, live or bounded, would be ended after five minutes.
    """
    if portable.job_server_timeout == PortableOptions().job_server_timeout:
        portable.job_server_timeout = _DECADE_S


def check_one_worker(direct: DirectOptions) -> None:
    """Refuses several workers on the FnApiRunner: Beam 2.77 then drops the rest of an unbounded source, silently."""
    if direct.direct_num_workers != 1 or direct.direct_running_mode not in (None, "in_memory"):
        raise UserError(
            f"--direct_num_workers={direct.direct_num_workers} --direct_running_mode={direct.direct_running_mode}: "
            "with several workers Beam's FnApiRunner loses records; leave both out, and for more cores start a second "
            "process on other partitions (--from 0:0,1:0)"
        )


@contextmanager
def drain_on_signal() -> Iterator[Callable[[], None]]:
    """A stop signal lets the job finish what it has read and commit; a second Ctrl-C ends it at once.

    Yields a function that takes the signals again, after somebody else took them.
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, lambda *_: os._exit(EXIT_INTERRUPTED))
        say("stopping: finishing what was read (Ctrl-C again to stop at once)")
        request_drain()
        interrupt_waits()

    def arm() -> None:
        for number in before:
            signal.signal(number, stop)

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    arm()
    try:
        yield arm
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def keep_memory() -> None:
    """Lets glibc keep what blocks free: given back and asked for anew, each page costs a fault (10 % of a job)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TOP_PAD, _KEPT_BYTES // 8)


def say(text: str) -> None:
    """One line for the person at the terminal, on stderr."""
    print(text, file=sys.stderr, flush=True)
