"""What ``archive`` needs, checked."""

from __future__ import annotations

import hashlib
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType

import pyarrow as pa
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

import schemas
from beam_jobs.archives.files import COMPRESSIONS
from beam_jobs.archives.held import Held
from beam_jobs.archives.layout import find_layout, keep_layout
from beam_jobs.archives.log import FOLDER, ArchiveLog, log_names
from beam_jobs.archives.owner import Lease, Owner, take_over
from beam_jobs.archives.read import ArchiveInput
from beam_jobs.archives.rows import Content, archive_schema, carried
from beam_jobs.archives.sink import ArchiveSettings
from beam_jobs.codec.schema import arrow_schema
from beam_jobs.errors import UserError, one_line
from beam_jobs.io.sink import Sink
from beam_jobs.io.source import Source, StreamId
from beam_jobs.preflight.addresses import (
    archive_input,
    block_settings,
    check_clients,
    event_settings,
    output_id,
    prepare_outputs,
    schema_source,
    sink,
    stream_source,
    window_settings,
)
from beam_jobs.preflight.kept_log import check_kept_log, history_of_log
from beam_jobs.preflight.reach import Preflight
from beam_jobs.preflight.second_topic import SecondTopic, second_topic
from beam_jobs.preflight.workers import (
    check_path,
    check_pii_key,
    dead_letter_payload,
    dead_letter_rate,
    refuse_at_least_once,
    warn_if_cleaned,
)
from beam_jobs.steps.decode import EventSettings
from beam_jobs.steps.lookup import LookupFile, describe
from beam_jobs.steps.payload import Payload
from beam_jobs.steps.windows import WindowSettings
from beam_jobs.storage.files import bounded, check_access, is_local, make_folder, name_bytes, root_of, writing
from beam_jobs.target import target_of
from beam_jobs.terminal import options
from beam_jobs.terminal.cli import STOP_SIGNALS, require, say
from beam_jobs.terminal.commands import JOBS
from beam_jobs.use_case import UseCase, load_use_case
from schemas.source import SchemaId, SchemaSource

_MB = 1_000_000
_LONGEST_BELOW = 400  # bytes of a file's name below --output: highbeam_route=…/…/highbeam_hour=…/part-…, or in the log
_BYTES_PER_BLOCK = 250_000  # of a block in a file, the least: bundles end before many files are much too large


@dataclass(frozen=True)
class ArchiveJob:
    """The validated options of ``archive``, as its wiring takes them."""

    name: str  # "archive/USE_CASE"
    use_case: UseCase
    content: Content
    columns: tuple[str, ...]  # fields of the events that are decoded
    source: Source
    writers: SchemaSource
    write: ArchiveSettings
    lookup: LookupFile | None
    lookup_every_s: float
    dead_letters: Sink
    max_dead_letter_rate: float
    payload: Payload  # of dead letters
    schema_ids: dict[str, SchemaId]
    events: EventSettings = field(default_factory=EventSettings)
    windows: WindowSettings = field(default_factory=WindowSettings)
    second: SecondTopic | None = None  # where the SQL has windows by two keys


def archive_job(parsed: PipelineOptions) -> ArchiveJob:
    """Checks the options of ``archive``.

    Raises:
      UserError: the first thing that is wrong, with its remedy.
    """
    require(parsed.get_all_options(), *JOBS["archive"].required)
    wanted, bad = parsed.view_as(options.ArchiveOptions), parsed.view_as(options.DeadLetterOptions)
    max_dead_letter_rate = dead_letter_rate(parsed)
    refuse_at_least_once(parsed, "archive", "each record is to be in one row")
    for flag in ("max_file_age", "max_file_mb", "enrich_every"):
        if getattr(wanted, flag) <= 0:
            raise UserError(f"--{flag} {getattr(wanted, flag):g}: expected more than 0")
    compression = wanted.compression or COMPRESSIONS[wanted.file_format][0]
    if compression not in COMPRESSIONS[wanted.file_format]:
        known = ", ".join(COMPRESSIONS[wanted.file_format])
        raise UserError(f"--compression {compression}: {wanted.file_format} files have one of {known}")
    use_case = load_use_case(parsed.view_as(options.UseCaseOptions).use_case)
    use_case = use_case.with_lateness(parsed.view_as(options.WindowOptions).get_all_options())
    preprocessor = use_case.preprocessor()
    preflight = Preflight(parsed)
    payload = dead_letter_payload(preflight, writes=True)
    content: Content = "events" if wanted.raw else "features"
    if content == "features":
        check_pii_key(preflight, preprocessor)
    schema = archive_schema(use_case, content)
    if wanted.enrich:
        check_path(parsed, "--enrich", wanted.enrich)
        warn_if_cleaned(parsed, "--enrich", wanted.enrich)
    lookup = _lookup(wanted, use_case, arrow_schema(schema))
    if lookup is not None:
        schema = archive_schema(use_case, content, lookup.fields)
    rows = arrow_schema(schema)
    root = root_of(parsed.view_as(options.OutputOptions).output)
    check_path(parsed, "--output", root)
    check_access(root)
    warn_if_cleaned(parsed, "--output", f"{root}/{FOLDER}")
    with writing(root):
        layout = find_layout(root, rows.names, wanted.partition_by, wanted.route_by)
    if layout.route_by and (layout.route_by not in rows.names or not _is_text(rows.field(layout.route_by).type)):
        texts = ", ".join(f.name for f in rows if _is_text(f.type))
        raise UserError(f"--route_by {layout.route_by}: no text column of the archive; there are {texts}")
    name = f"archive/{use_case.name}"
    given = parsed.view_as(options.InputOptions)
    archive = archive_input(given, use_case)
    settings = check_clients(parsed)
    source: Source
    if archive:
        check_archive(archive, content, root_of(given.input), root)
        source = archive
    else:
        # A group for each archive: with one for all, a second one of a topic would go on where the first one stands.
        folder = hashlib.sha256(root.encode()).hexdigest()[:8]
        blocks = replace(
            block_settings(given),
            max_latency_s=None,
            max_bundle_s=wanted.max_file_age,
            gather_s=0.0 if given.until else wanted.max_file_age,
            max_blocks_per_bundle=max(1, int(wanted.max_file_mb * _MB // _BYTES_PER_BLOCK)),
        )
        source = stream_source(preflight, f"{name}/{content}/{folder}", blocks)
    windows, second = WindowSettings(), None
    if content == "features" and source.gives != "features":
        windows = window_settings(parsed, preprocessor, source)
        source = source.keyed() if preprocessor.windows else source
        check_kept_log(preflight, source, history_of_log(preprocessor), windows)
        second = second_topic(preflight, use_case, source)
    dead = sink(parsed, bad.dead_letters)
    prepare_outputs(preflight, [dead], source)
    writers = schema_source(preflight, use_case.schema, settings, source)
    # One log for each stream into the archive: two of them may run at once, and their positions have nothing in common.
    log = f"{use_case.name}-{content}" + (f"-{source.address.topic}" if source.address else "@archive")
    log = bounded(log, name_bytes(root)) if is_local(root) else log
    stream = source.stream_id(preflight)
    owner = Owner(by_workers=not target_of(parsed).describe().here, waits=not parsed.view_as(GoogleCloudOptions).update)
    with writing(root):
        check_alone(root, f"{use_case.name}-{content}")
        prefix = f"{use_case.name}-{content}-"
        others = [log.removeprefix(prefix) for log in log_names(root) if log.startswith(prefix)]
        source.check_beside(preflight, others, f"--output {root}")
        if not is_local(root):
            make_folder(root, _LONGEST_BELOW)
        ArchiveLog(root, log).check_writable()
        keep_layout(root, layout)
        if source.live and not given.start_from and log in log_names(root):
            source = source.resumed()
            second = None if second is None else replace(second, first=second.first.resumed())
        if owner.by_workers:
            owner = replace(owner, replaces=ArchiveLog(root, log).current_owner())
    if source.gives == "records":
        say(writers.describe())
    say(source.describe())
    if hidden := layout.hidden(rows.names):
        say(
            f"{root} was begun by an older release: DuckDB, pandas and Spark show its folders' names in place of the "
            f"columns {', '.join(hidden)}; docs/archive.md says how to move to a new one"
        )
    say(f"writing {content} to {root}, {layout.describe()}, files finished every {wanted.max_file_age:g} s")
    label = carried(use_case)
    needed = rows.names if content == "events" else [*preprocessor.input_columns, *([label] if label else [])]
    return ArchiveJob(
        name=name,
        use_case=use_case,
        content=content,
        columns=tuple(field["name"] for field in use_case.schema["fields"] if field["name"] in needed),
        source=source,
        writers=writers,
        write=ArchiveSettings(
            root,
            log,
            schema,
            use_case.event_time,
            wanted.file_format,
            compression,
            layout,
            int(wanted.max_file_mb * _MB),
            stream,
            exact=source.gives != "records" or second is not None,
            max_file_age_s=wanted.max_file_age,
            key=None if wanted.keep_keys else use_case.key,
            ids=source.message_ids(preflight, before_us=target_of(parsed).describe().reads_pubsub),
            owner=owner,
        ),
        lookup=lookup,
        lookup_every_s=wanted.enrich_every,
        dead_letters=dead,
        max_dead_letter_rate=max_dead_letter_rate,
        events=event_settings(parsed),
        windows=windows,
        second=second,
        payload=payload,
        schema_ids={"dead_letter": output_id(preflight, writers, dead.address, schemas.load("dead_letter"))},
    )


def check_alone(root: str, stream: str) -> None:
    """Refuses a folder that holds anything but ``stream``, "car_sensors-features": training would take it all for one.

    Raises:
      UserError: as above.
    """
    others = sorted(log for log in log_names(root) if not log.startswith((f"{stream}-", f"{stream}@")))
    if others:
        raise UserError(f"--output {root}: holds {others[0]} already; choose another folder for {stream}")


@contextmanager
def owning(parsed: PipelineOptions, write: ArchiveSettings) -> Iterator[bool]:
    """Makes the job the owner of its archive's log while the block runs, once the job before it has ended.

    What a job that was killed had committed is finished then. On Dataflow the workers take the log and keep it: the
    block begins when no other job writes the archive, or the service itself has to end it first (--update, templates).

    Yields:
      False: a stop signal came while it waited.
    """
    owner, log = write.owner, write.log()
    lease = Lease(log.folder, owner.token)
    try:
        with _raised_on_signal(), writing(log.folder):
            if not owner.by_workers:
                lease.hold_here()
                _say_if_anew(take_over(log, lease, say, write.adopted), write.stream)
            else:
                if owner.waits and not parsed.view_as(GoogleCloudOptions).template_location:
                    lease.wait(say, take=False)
                _say_if_anew(log.look()[1], write.stream)
        yield True
    except _StoppedError:
        say("stopped before it had begun: nothing was read")
        yield False
    finally:
        if not owner.by_workers:
            lease.release()


class _StoppedError(BaseException):
    """A stop signal came; no ``Exception``, which libraries that wait for storage might take for a failed try."""


@contextmanager
def _raised_on_signal() -> Iterator[None]:
    def stop(signum: int, frame: FrameType | None) -> None:
        raise _StoppedError

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say_if_anew(held: Held, stream: StreamId | None) -> None:
    """Says where a log knows another topic of the same name."""
    if stream is None or not stream.is_known:
        return
    name = stream.name
    known = {remembered for remembered, _ in held.ranges.of}
    if stream.positions() not in known and any(other.startswith(f"{name}#") for other in known):
        say(
            f"{name} was made anew since it was last archived: its offsets count from 0 again, its records are "
            "archived beside those of the old one"
        )


def _lookup(wanted: options.ArchiveOptions, use_case: UseCase, rows: pa.Schema) -> LookupFile | None:
    """The table that --enrich names, read once, for the archive's rows."""
    if not wanted.enrich:
        if wanted.enrich_on:
            raise UserError(f"--enrich_on {wanted.enrich_on}: name the lookup table with --enrich")
        return None
    key = wanted.enrich_on or use_case.key
    if key not in rows.names:
        raise UserError(f"--enrich_on {key}: no column of the archive; there are {', '.join(rows.names)}")
    try:
        lookup = describe(root_of(wanted.enrich), key, rows.field(key).type)
    except FileNotFoundError:
        raise UserError(
            f"--enrich {wanted.enrich}: no such file; name a .csv with a header or a .parquet file"
        ) from None
    except (UserError, OSError) as error:
        raise UserError(f"--enrich: {one_line(error)}") from error
    say(f"enriching with {lookup.path} by {key}: {', '.join(field['name'] for field in lookup.fields)}")
    return lookup


def check_archive(archive: ArchiveInput, content: Content, source: str, target: str) -> None:
    """Refuses what an archive can't be made from: features back into events, or from itself."""
    if archive.content == "features" and content == "events":
        raise UserError(f"{source} holds features, which can't be turned back into events; leave out --raw")
    if f"{target}/".startswith(f"{source}/") or f"{source}/".startswith(f"{target}/"):
        raise UserError(f"--output {target}: within --input, or around it; name a folder of its own")


def check_processes(job: ArchiveJob, count: int) -> None:
    """Refuses several processes where a message may come to any of them: two could write one that comes again.

    Raises:
      UserError: as above.
    """
    if count > 1 and job.write.ids is not None:
        bus = job.source.bus
        raise UserError(f"--direct_num_workers={count}: one process writes an archive from {bus}; leave it out")


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_dictionary(kind)
