"""Training data: Avro and Parquet files, through the same preprocessing as the stream."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from beam_jobs.archive_rows import archive_schema
from beam_jobs.codec.avro_file import read_avro
from beam_jobs.codec.schema import arrow_schema
from beam_jobs.errors import UserError
from beam_jobs.io.archive_input import check_content, described, read_rows
from beam_jobs.preprocessing.windows import in_time_order
from model.manifest import sha256
from use_cases import UseCase

SUFFIXES = (".avro", ".parquet")

_SOUND = ("", "false", "0", "no", "none", "normal")  # what labels say, in lower case, of rows that are no failure
_BATCH_ROWS = 32_768  # rows of a Parquet file at a time
_MIN_KEYS = 20  # with fewer cars a split by car may leave a side without any


@dataclass(frozen=True)
class TrainingData:
    """The rows that passed the preprocessing."""

    x: NDArray[np.float32]  # [n, F], features in the preprocessing's order
    keys: pa.Array  # string [n], the car or account
    times: NDArray[np.int64]  # [n], event time, milliseconds since the epoch
    kinds: pa.Array  # string [n], what the label says of a failure ("true", or its kind); "" for other rows
    failed: NDArray[np.bool_]  # [n], labelled as a failure
    read: int  # rows read
    filtered: int  # rows the WHERE removed
    refused: Mapping[str, int]  # reason to rows the preprocessing refused
    files: tuple[str, ...]  # names of the files
    sha256: str  # of the files' own sha256, in that order


@dataclass(frozen=True)
class Split:
    """Which rows serve what; three masks, bool [n], that share no row."""

    train: NDArray[np.bool_]  # normal rows the network learns from
    validation: NDArray[np.bool_]  # normal rows for early stopping and the threshold
    test: NDArray[np.bool_]  # normal and failed rows to judge by
    by: str  # "key" or "time"


def find_files(pattern: str) -> list[Path]:
    """The Avro and Parquet files that a file, a folder or a glob names, sorted.

    Raises:
      UserError: there are none.
    """
    if "://" in pattern and not pattern.startswith("file://"):
        raise UserError(f"--data {pattern}: only local files so far; copy them to a folder first")
    path = Path(pattern.removeprefix("file://"))
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = [p for p in path.rglob("*") if p.suffix in SUFFIXES]
    else:
        anchor = Path(path.anchor)
        files = [p for p in anchor.glob(str(path.relative_to(anchor))) if p.is_file()]
    files = sorted(p for p in files if p.name[0] not in "._")
    if not files:
        raise UserError(f"--data {pattern}: no .avro or .parquet file there; name a file, a folder or a glob")
    for file in files:
        if file.suffix not in SUFFIXES:
            raise UserError(f"--data {file}: neither .avro nor .parquet; write one of these formats")
    return files


def read(
    use_case: UseCase, pattern: str, limit: int | None = None, progress: Callable[[float], None] = lambda share: None
) -> TrainingData:
    """Reads and preprocesses the files; where the SQL has windows, their rows in the order of their event times.

    Args:
      use_case: says which fields, and how they become features.
      pattern: a file, a folder or a glob.
      limit: rows to read at most.
      progress: called now and then with the share of the files' bytes done, 0..1.

    Raises:
      UserError: no files, files that can't be read or lack a field, or no row that can be used.
    """
    files = find_files(pattern)
    preprocessor = use_case.preprocessor()
    columns = list(dict.fromkeys([*preprocessor.input_columns, *([use_case.label] if use_case.label else [])]))
    parts: list[tuple[NDArray[np.float32], pa.Array, NDArray[np.int64], pa.Array]] = []
    refused: Counter[str] = Counter()
    read_rows = filtered = done = 0
    size = sum(file.stat().st_size for file in files)
    history, unordered = preprocessor.history(), []

    def add(events: pa.RecordBatch, archived: bool) -> None:
        nonlocal filtered
        rows, kept = events, np.arange(events.num_rows)
        if not archived:
            result = preprocessor.apply(events, history)
            filtered += result.filtered
            refused.update(result.errors.reasons)
            rows, kept = result.rows, result.kept
        x = np.stack([rows[name].to_numpy() for name in preprocessor.features], axis=1)
        times = rows[use_case.event_time].cast(pa.int64()).to_numpy()
        label = events[use_case.label] if use_case.label else pa.nulls(events.num_rows, pa.string())
        parts.append((x, rows[use_case.key], times, _kinds(label).take(pa.array(kept))))

    for file in files:
        archived = _is_features(file, use_case)
        for events in _read_features(file, use_case) if archived else _read_file(file, use_case, columns):
            events = events if limit is None else events.slice(0, limit - read_rows)
            read_rows += events.num_rows
            if history is not None and not archived:
                unordered.append(events)
            else:
                add(events, archived)
            if limit is not None and read_rows >= limit:
                break
        done += file.stat().st_size
        progress(done / max(1, size))
        if limit is not None and read_rows >= limit:
            break
    for events in in_time_order(unordered, use_case.event_time):
        add(events, archived=False)
    if not sum(len(part[0]) for part in parts):
        why = ", ".join(f"{n} {reason}" for reason, n in refused.most_common()) or "none refused"
        raise UserError(f"--data {pattern}: {read_rows} rows, {filtered} filtered, {why}: nothing left to train on")
    hashes = "".join(sha256(file) for file in files)
    kinds = pa.concat_arrays([part[3] for part in parts])
    return TrainingData(
        x=np.concatenate([part[0] for part in parts]),
        keys=pa.concat_arrays([part[1] for part in parts]),
        times=np.concatenate([part[2] for part in parts]),
        kinds=kinds,
        failed=pc.not_equal(kinds, "").to_numpy(zero_copy_only=False),
        read=read_rows,
        filtered=filtered,
        refused=dict(refused),
        files=tuple(file.name for file in files),
        sha256=hashlib.sha256(hashes.encode()).hexdigest(),
    )


def split(data: TrainingData, validation_fraction: float, seed: int, by: str = "auto") -> Split:
    """Divides the rows into training, validation and test, the last two ``validation_fraction`` of the keys each.

    By key, a car is wholly in one of the three, so the figures hold for cars the model has never seen; by time, the
    newest rows are test, those before them validation. "auto" is by key unless there are fewer than 20 keys. A car's
    part depends on the seed and its key alone: more data moves no car to another part.
    """
    encoded = data.keys.dictionary_encode()
    if by == "auto":
        by = "key" if len(encoded.dictionary) >= _MIN_KEYS else "time"
    if by == "key":
        # A loop over cars, not over rows.
        shares = np.array([_share_of(str(key), seed) for key in encoded.dictionary.to_pylist()])
        position = shares[encoded.indices.to_numpy()]
    else:
        position = np.empty(len(data.times))
        position[np.argsort(-data.times, kind="stable")] = np.arange(len(data.times)) / len(data.times)
    test, validation = position < validation_fraction, position < 2 * validation_fraction
    normal = ~data.failed
    return Split(~validation & normal, validation & ~test & normal, test, by)


def _share_of(key: str, seed: int) -> float:
    digest = hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def _kinds(label: pa.Array) -> pa.Array:
    """string [n]: the label of failures, "" for other rows."""
    text = pc.utf8_lower(pc.fill_null(label.cast(pa.string()), ""))
    return pc.if_else(pc.is_in(text, pa.array(_SOUND)), "", text)


def _is_features(file: Path, use_case: UseCase) -> bool:
    """Whether ``beam_jobs.archive`` wrote the file with the features of this preprocessing.

    Raises:
      UserError: with those of another preprocessing, or of another use case.
    """
    about = described(str(file))
    if about is None or about["content"] != "features":
        return False
    check_content(str(file), about, use_case)
    return True


def _read_features(file: Path, use_case: UseCase) -> Iterator[pa.RecordBatch]:
    return read_rows(str(file), archive_schema(use_case, "features"))


def _read_file(file: Path, use_case: UseCase, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    if file.suffix == ".avro":
        yield from read_avro(file, use_case.schema, columns)
        return
    schema = arrow_schema(use_case.schema, columns)
    try:
        parquet = pq.ParquetFile(file)
        names = _parquet_columns(file, parquet.schema_arrow.names, use_case.schema, schema)
        for batch in parquet.iter_batches(_BATCH_ROWS, columns=list(names.values())):
            arrays = [_cast(file, batch[names[f.name]], f) if f.name in names else _nulls(batch, f) for f in schema]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"--data {file}: can't be read ({' '.join(str(error).split())[:200]}); write it again"
        ) from error


def _parquet_columns(file: Path, there: Sequence[str], schema: Mapping[str, Any], wanted: pa.Schema) -> dict[str, str]:
    """Field to the file's column, which may go by one of the field's aliases; nullable fields may be missing."""
    aliases = {field["name"]: [field["name"], *field.get("aliases", ())] for field in schema["fields"]}
    found: dict[str, str] = {}
    for field in wanted:
        name = next((alias for alias in aliases[field.name] if alias in there), None)
        if name is not None:
            found[field.name] = name
        elif not field.nullable:
            raise UserError(f"--data {file}: no column {field.name!r}; it has {', '.join(there)}")
    return found


def _cast(file: Path, array: pa.Array, field: pa.Field) -> pa.Array:
    if array.null_count and not field.nullable:
        raise UserError(f"--data {file}: column {field.name!r} has nulls, which the schema forbids; drop those rows")
    try:
        return array.cast(field.type)
    except pa.ArrowException as error:
        raise UserError(
            f"--data {file}: column {field.name!r} is {array.type} and can't become {field.type} ({error})"
        ) from error


def _nulls(batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    return pa.nulls(batch.num_rows, field.type)
