"""Training data: an archive, or files of events that others wrote, through the same preprocessing as the stream."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.archives.event_files import READERS, read_events
from beam_jobs.archives.layout import may_hold
from beam_jobs.archives.read import SUFFIXES, check_content, described, find, read_rows
from beam_jobs.archives.rows import SOURCE_FIELDS, archive_schema
from beam_jobs.block import SOURCE_PREFIX, millis_of
from beam_jobs.codec.decoded import Decoded
from beam_jobs.errors import RowErrors, UserError, shown
from beam_jobs.io.position import OffsetKind, OffsetSpec
from beam_jobs.preprocessing.fields import fields_of
from beam_jobs.preprocessing.preprocessor import Preprocessed
from beam_jobs.preprocessing.stages import Unordered
from beam_jobs.preprocessing.whole import over_all
from beam_jobs.preprocessing.windows.order import by_log
from beam_jobs.storage.files import check_access, download, is_local, list_files, patiently, root_of
from beam_jobs.use_case import UseCase
from model.known_labels import KnownLabels
from model.manifest import sha256
from model.training.spool import Examples

ENDINGS = tuple(READERS)  # of the files' names
LIST_FILE = "training_files.json"  # in a version's folder

_KINDS = f"{', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"
_SOUND = ("", "false", "0", "no", "none", "normal")  # what labels say, in lower case, of rows that are no failure


@dataclass(frozen=True)
class Source:
    """The files to train on, and which of their rows."""

    root: str  # what the files' names are relative to: a folder or gs:// prefix
    paths: tuple[str, ...]  # sorted
    start_ms: int | None = None  # event time, inclusive
    end_ms: int | None = None  # event time, exclusive
    labels: KnownLabels | None = None  # that count in place of the files' own

    def name(self, path: str) -> str:
        """A file as the manifest names it."""
        return path.removeprefix(self.root).lstrip("/")


@dataclass(frozen=True)
class TrainingFile:
    """A file that was read."""

    name: str  # relative to the source's root
    sha256: str
    rows: int  # of it that were read: within the time asked for, and within --limit


@dataclass
class Counts:
    """What happened to the rows; grows while they are read."""

    read: int = 0  # rows within the time asked for
    filtered: int = 0  # rows the WHERE removed
    refused: Counter[str] = field(default_factory=Counter)  # reason to rows the preprocessing refused
    examples: dict[str, str] = field(default_factory=dict)  # reason to what was said of the first such row
    files: list[TrainingFile] = field(default_factory=list)
    unordered: Unordered = field(default_factory=Unordered)  # of those that windows have seen
    labels: tuple[int, int] | None = None  # of --labels: how many met a row of the files, of how many

    def refuse(self, errors: RowErrors) -> None:
        """Counts rows that were refused."""
        self.refused.update(errors.reasons)
        for reason in set(errors.reasons) - self.examples.keys():
            self.examples[reason] = errors.errors[errors.reasons.index(reason)]

    def losses(self) -> list[str]:
        """What happened to the rows that can't be used, or whose windows miss others, a phrase each."""
        filtered = [f"{self.filtered:,} filtered by the WHERE"] if self.filtered else []
        named = ((n, reason, self.examples.get(reason)) for reason, n in self.refused.most_common())
        refused = [f"{n:,} refused: {reason}" + (f" ({first})" if first else "") for n, reason, first in named]
        return [*filtered, *refused, *self.unordered.phrases()]

    def met(self) -> str | None:
        """What became of the labels of ``--labels``; None: there are none."""
        if self.labels is None:
            return None
        met, known = self.labels
        return f"{met:,} of --labels met a row, {known - met:,} did not"

    def sha256(self) -> str:
        """Of the files' own sha256, in their order: the same for the same contents under any names."""
        return hashlib.sha256("".join(file.sha256 for file in self.files).encode()).hexdigest()

    def list_files(self) -> str:
        """The text of LIST_FILE: a JSON array, a file a line."""
        lines = (json.dumps(asdict(file), ensure_ascii=False) for file in self.files)
        return "[\n" + ",\n".join(lines) + "\n]\n"


def source(pattern: str, start: str | None = None, until: str | None = None) -> Source:
    """The Avro, Parquet, CSV and JSON lines files that a file, a folder or a glob names, here or on ``gs://``.

    Args:
      pattern: of a folder, all files below it but hidden ones and an archive's log.
      start, until: event times as jobs take them; files of an archive that can't hold a wanted row are left out.

    Raises:
      UserError: there are none, or no such time.
    """
    start_ms, end_ms = _time("--from", start), _time("--until", until)
    if start_ms is not None and end_ms is not None and start_ms >= end_ms:
        raise UserError(f"--from {start} is not before --until {until}; no row is of that time")
    try:
        root = root_of(pattern)
        check_access(root)
        if root.endswith(ENDINGS) or any(sign in root for sign in "*?") or Path(root).is_file():
            paths = [path for path in list_files(root) if path.rpartition("/")[2][0] not in "._"]
            paths = [path for path in paths if may_hold(path, start_ms, end_ms)]
            root = re.split(r"[*?]", root, maxsplit=1)[0].rpartition("/")[0]
        else:
            paths = find(root, start_ms, end_ms, ENDINGS)
    except UserError as error:
        raise UserError(f"--data {error}") from error
    if not paths:
        raise UserError(f"--data {pattern}: no {_KINDS} file there; name a file, a folder or a glob")
    for path in paths:
        if not path.endswith(ENDINGS):
            raise UserError(f"--data {path}: is no {_KINDS}; write one of these formats")
    return Source(root, tuple(paths), start_ms, end_ms)


def _time(flag: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        spec = OffsetSpec.parse(text)
    except UserError:
        spec = None
    if spec is None or spec.kind is OffsetKind.OFFSETS:
        raise UserError(f"{flag} {text}: expected an event time like 2026-11-22T07:00:00Z or epoch milliseconds")
    return spec.timestamp_ms


def read(
    use_case: UseCase,
    source: Source,
    counts: Counts,
    scratch: Path,
    limit: int | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Iterator[Examples]:
    """Reads and preprocesses the files, some thousand rows at a time.

    Args:
      use_case: says which fields, and how they become features.
      counts: is counted on.
      scratch: folder for a copy of one file at a time, where they are not local.
      limit: rows to read at most.
      progress: called now and then with the share of the files done, 0..1.

    Raises:
      UserError: files that can't be read or lack a field, features beside events, or no row that can be used.
    """
    used, kinds = 0, set[bool]()
    windows = bool(use_case.preprocessor().windows)
    waiting: list[pa.RecordBatch] = []  # of an SQL with windows, which need the rows in the order they came
    for number, path in enumerate(source.paths):
        if limit is not None and counts.read >= limit:
            break
        before = counts.read
        with local_copy(path, scratch) as file:
            digest = sha256(file)
            for decoded, archived in rows_of(file, use_case, source.labels):
                kinds.add(archived)
                events = decoded.rows
                counts.read += len(decoded.errors)
                counts.refuse(decoded.errors)
                if len(kinds) > 1:
                    raise UserError(
                        f"--data {source.root} holds features as well as events, perhaps of the same records; name a "
                        "folder of either"
                    )
                events = _within(events, use_case.event_time, source)
                events = events if limit is None else events.slice(0, max(0, limit - counts.read))
                counts.read += events.num_rows
                if windows and not archived:
                    waiting.append(events)
                else:
                    result = None if archived else use_case.preprocessor().apply(events)
                    examples = _examples(events, result, use_case, counts)
                    used += len(examples.x)
                    yield examples
                progress(number / len(source.paths))
                if limit is not None and counts.read >= limit:
                    break
        counts.files.append(TrainingFile(source.name(path), digest, counts.read - before))
        progress((number + 1) / len(source.paths))
    logs = by_log(waiting, use_case.event_time)
    for events, result in over_all(use_case.preprocessor(), logs, counts.unordered):
        examples = _examples(events, result, use_case, counts)
        used += len(examples.x)
        yield examples
    if source.labels is not None:
        counts.labels = source.labels.met, len(source.labels.ids)
    if not used:
        why = ", ".join([f"{counts.read:,} rows", *counts.losses()])
        raise UserError(f"--data {source.root}: {why}: nothing left to train on")


def rows_of(file: Path, use_case: UseCase, labels: KnownLabels | None = None) -> Iterator[tuple[Decoded, bool]]:
    """Blocks of a file's events, or of its features if ``beam_jobs.archive`` has preprocessed them already (True).

    Args:
      labels: that count in place of the file's; of an archive alone.

    Raises:
      UserError: features of another preprocessing, or a file of another use case.
    """
    about = described(str(file)) if file.suffix in SUFFIXES else None
    if about is not None:
        check_content(str(file), about, use_case)
    if about is not None and about["content"] == "features":
        preprocessor, label = use_case.preprocessor(), [use_case.label] if use_case.label else []
        columns = [*preprocessor.features, preprocessor.key, preprocessor.event_time, *label]
        columns += [field["name"] for field in SOURCE_FIELDS] if labels else []
        schema = archive_schema(use_case, "features")
        for rows in read_rows(str(file), schema, list(dict.fromkeys(columns))):
            if labels and use_case.label:
                rows = labels.on(rows, use_case.label, "source_")
            yield Decoded(rows, RowErrors.none()), True
        return
    columns = [*use_case.preprocessor().input_columns, *([use_case.label] if use_case.label else [])]
    if about is not None and (use_case.preprocessor().windows or labels):  # their order matters: that of the log
        renamed = {name: name for name in columns} | {
            field["name"]: field["name"].replace("source_", SOURCE_PREFIX, 1) for field in SOURCE_FIELDS
        }
        for rows in read_rows(str(file), archive_schema(use_case, "events"), list(renamed)):
            rows = rows.rename_columns(list(renamed.values()))
            if labels and use_case.label:
                rows = labels.on(rows, use_case.label, SOURCE_PREFIX)
            yield Decoded(rows, RowErrors.none()), False
        return
    if labels:
        raise UserError(f"--data {file.name}: --labels goes by the positions of records, which an archive has alone")
    try:
        for decoded in read_events(file, use_case, list(dict.fromkeys(columns))):
            yield decoded, False
    except UserError as error:
        raise UserError(f"--data {error}") from error


def _within(rows: pa.RecordBatch, event_time: str, source: Source) -> pa.RecordBatch:
    if source.start_ms is None and source.end_ms is None:
        return rows
    times = pa.array(millis_of(rows[event_time]))
    low, high = source.start_ms, source.end_ms
    keep = pc.is_valid(rows[event_time])
    if low is not None:
        keep = pc.and_kleene(keep, pc.greater_equal(times, low))
    if high is not None:
        keep = pc.and_kleene(keep, pc.less(times, high))
    return rows.filter(keep)


def _examples(events: pa.RecordBatch, result: Preprocessed | None, use_case: UseCase, counts: Counts) -> Examples:
    """What training has of events and what the SQL made of them; None: they are features, from an archive."""
    preprocessor = use_case.preprocessor()
    rows, label = events, events[use_case.label] if use_case.label else pa.nulls(events.num_rows, pa.string())
    if result is not None:
        counts.filtered += result.filtered
        counts.refuse(result.errors)
        rows, label = result.rows, label.take(pa.array(result.kept))
    x = np.stack([rows[name].to_numpy() for name in preprocessor.features], axis=1)
    times = rows[use_case.event_time].cast(pa.int64()).to_numpy()
    return Examples(x, rows[use_case.key], times, _kinds(label, use_case))


@contextmanager
def local_copy(path: str, scratch: Path) -> Iterator[Path]:
    """The file on this machine."""
    if is_local(path):
        yield Path(path)
        return
    copy = scratch / path.rpartition("/")[2]
    patiently(partial(download, path, copy))
    try:
        yield copy
    finally:
        copy.unlink()


def _kinds(label: pa.Array, use_case: UseCase) -> pa.Array:
    """string [n]: what reports call the label of failures, "" for other rows."""
    text = pc.utf8_lower(pc.fill_null(label.cast(pa.string()), "")).dictionary_encode()
    personal = any(field.label and field.pii for field in fields_of(use_case.schema).values())
    names = ["" if name in _SOUND else shown(name, personal, str) for name in text.dictionary.to_pylist()]
    return pa.array(names, pa.string()).take(text.indices)
