"""Reading an archive back: the same rows, with the positions they came from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Any, ClassVar

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.transforms.window import TimestampedValue
from numpy.typing import NDArray

from beam_jobs import metrics, stop
from beam_jobs.archives.layout import may_hold
from beam_jobs.archives.log import FOLDER
from beam_jobs.archives.rows import PROPERTY, SOURCE_FIELDS, SOURCE_KEY, Content, archive_schema
from beam_jobs.block import MAX_BLOCK_ROWS, RAW_SCHEMA, Block, millis_of, min_timestamp, take, with_source
from beam_jobs.codec.avro.container import read_header
from beam_jobs.codec.avro.file import read_avro
from beam_jobs.codec.columns import Fit
from beam_jobs.codec.parquet import open_parquet, readable
from beam_jobs.codec.schema import arrow_schema
from beam_jobs.errors import UserError
from beam_jobs.io.source import Source
from beam_jobs.storage.files import list_files, open_file, patiently
from beam_jobs.use_case import UseCase

SUFFIXES = (".avro", ".parquet")


@dataclass(frozen=True)
class ArchiveInput(Source):
    """The files of an archive that may hold wanted rows, checked."""

    bus: ClassVar[str] = "an archive"

    files: tuple[str, ...]
    use_case: UseCase
    content: Content
    start_ms: int | None  # event time, inclusive
    end_ms: int | None  # event time, exclusive
    keyless: frozenset[str] = frozenset()  # files of events from before keys were kept: the key field stands for them
    name: str = ""  # of the archive, as the user has it
    address: None = field(default=None, init=False)

    def read(self) -> ReadFromArchive:
        return ReadFromArchive(self)

    def describe(self) -> str:
        return f"reading {len(self.files)} files of {self.content} from {self.name}"

    @property
    def gives(self) -> Content:
        return self.content

    @property
    def input_files(self) -> int:
        return len(self.files)

    def share(self, number: int, count: int) -> ArchiveInput:
        return replace(self, files=self.files[number::count])

    def key_of(self, path: str) -> str | None:
        """The column that stands for the records' keys in a file; None: they are there."""
        return self.use_case.key if self.content == "features" or path in self.keyless else None


def find(
    root: str, start_ms: int | None = None, end_ms: int | None = None, suffixes: Sequence[str] = SUFFIXES
) -> list[str]:
    """The data files of an archive, sorted; those whose time can't hold a wanted row are left out.

    Raises:
      UserError: there are none.
    """
    found = [path for path in list_files(f"{root}/**") if path.endswith(tuple(suffixes)) and _counts(path, root)]
    if not found:
        kinds = f"{', '.join(suffixes[:-1])} or {suffixes[-1]}"
        raise UserError(f"{root}: no {kinds} file there; name the folder that beam_jobs.archive wrote to")
    wanted = [path for path in found if may_hold(path, start_ms, end_ms)]
    if not wanted:
        raise UserError(f"{root}: none of its {len(found)} files is of that time")
    return wanted


def _counts(path: str, root: str) -> bool:
    parts = path.removeprefix(root).strip("/").split("/")
    return FOLDER not in parts and not any(part[:1] in "._" for part in parts)


def described(path: str) -> Mapping[str, Any] | None:
    """What the archive job wrote about a file's rows: use_case, content, preprocessing; None: it wrote nothing.

    Raises:
      UserError: the file can't be read.
    """
    with readable(f"{path}: can't be read", "restore it"), _open(path) as file:
        if path.endswith(".parquet"):
            text = (pq.read_schema(file).metadata or {}).get(PROPERTY.encode())
            found = None if text is None else json.loads(text)
        else:
            schema = json.loads(read_header(file).schema)
            found = schema.get(PROPERTY) if isinstance(schema, dict) else None
        if isinstance(found, dict) and not {"use_case", "content", "preprocessing"} <= found.keys():
            raise ValueError(f"its property {PROPERTY} lacks what the archive job writes")
        return found if isinstance(found, dict) else None


def check_content(path: str, about: Mapping[str, Any], use_case: UseCase) -> None:
    """Refuses a file of another use case, or with the features of another preprocessing."""
    if about["use_case"] != use_case.name:
        raise UserError(f"{path} holds {about['use_case']}, not {use_case.name}; name its own use case")
    now = use_case.preprocessor().fingerprint
    if about["content"] == "features" and about["preprocessing"] != now:
        raise UserError(
            f"{path} holds features of preprocessing {about['preprocessing'][:12]}, now it is {now[:12]}; "
            "use an archive of events (--raw), or restore the old SQL"
        )


def open_archive(root: str, use_case: UseCase, start_ms: int | None = None, end_ms: int | None = None) -> ArchiveInput:
    """Finds the files and checks that the use case can read them.

    Raises:
      UserError: no file, another use case, mixed content, or features of another preprocessing.
    """
    files = find(root, start_ms, end_ms)
    contents, keyless = set(), set()
    for path in files:
        about = described(path)
        if about is None:
            raise UserError(f"{path}: not written by beam_jobs.archive, its positions are not known")
        check_content(path, about, use_case)
        contents.add(about["content"])
        if about["content"] == "events" and not about.get("keys"):
            keyless.add(path)
    if len(contents) > 1:
        raise UserError(f"{root} holds features as well as events; keep them in folders of their own")
    return ArchiveInput(tuple(files), use_case, contents.pop(), start_ms, end_ms, frozenset(keyless))


def _open(path: str) -> IO[bytes]:
    return patiently(lambda: open_file(path))


def read_rows(path: str, schema: Mapping[str, Any], columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a file in the columns of a record schema (``columns``: these of them, in that order).

    Raises:
      UserError: the file can't be read, is damaged, or lacks a column.
    """
    with _open(path) as file:
        if path.endswith(".avro"):
            yield from read_avro(file, schema, columns)
            return
        wanted = arrow_schema(schema, columns)
        with readable(f"{path}: can't be read", "restore it"):
            parquet = open_parquet(file)
            fit = Fit(path, parquet.schema_arrow.names, schema, wanted)
            for batch in parquet.iter_batches(MAX_BLOCK_ROWS, columns=list(fit.columns.values())):
                yield fit.rows(batch, batch.num_rows)


def wanted_rows(archive: ArchiveInput, event_times: pa.Array) -> NDArray[np.bool_]:
    """Which rows lie between the bounds of event time, bool [n]."""
    times = millis_of(event_times)
    keep = np.ones(len(times), np.bool_)
    if archive.start_ms is not None:
        keep &= times >= archive.start_ms
    if archive.end_ms is not None:
        keep &= times < archive.end_ms
    return keep


def as_block(rows: pa.RecordBatch, key: str | None) -> Block:
    """Rows of an archive as a features or events block; values and headers are null.

    Args:
      key: the column whose text is the records' key; None: the archive has kept their keys.
    """
    columns = {field["name"]: rows.column(field["name"]) for field in SOURCE_FIELDS}
    n = rows.num_rows
    kept = rows.column(SOURCE_KEY["name"]) if key is None else rows.column(key).cast(pa.string()).cast(pa.binary())
    raw = pa.RecordBatch.from_arrays(
        [
            columns["source_topic"].dictionary_encode(),
            columns["source_partition"],
            columns["source_offset"],
            columns["source_timestamp"].cast(RAW_SCHEMA.field("timestamp").type),
            kept,
            pa.nulls(n, pa.binary()),
            pa.nulls(n, RAW_SCHEMA.field("headers").type),
        ],
        schema=RAW_SCHEMA,
    )
    own = {*columns, SOURCE_KEY["name"]}
    return with_source(rows.select([name for name in rows.schema.names if name not in own]), raw)


class ReadFiles(beam.DoFn):
    """File names to blocks of the archive's content with their source columns."""

    def __init__(self, archive: ArchiveInput) -> None:
        self._archive = archive

    def process(self, path: str) -> Iterator[TimestampedValue]:
        archive = self._archive
        schema = archive_schema(archive.use_case, archive.content)
        key = archive.key_of(path)
        for rows in read_rows(path, schema):
            if stop.requested():
                return
            keep = wanted_rows(archive, rows.column(archive.use_case.event_time))
            rows = rows if keep.all() else take(rows, np.flatnonzero(keep))
            for start in range(0, rows.num_rows, MAX_BLOCK_ROWS):
                block = as_block(rows.slice(start, MAX_BLOCK_ROWS), key)
                metrics.inc(metrics.RECORDS_READ, block.num_rows)
                yield TimestampedValue(block, min_timestamp(block))
        metrics.inc(metrics.FILES_READ)


class ReadFromArchive(beam.PTransform):
    """Blocks of an archive, of features or events as it holds; bounded."""

    def __init__(self, archive: ArchiveInput) -> None:
        super().__init__()
        self._archive = archive

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection[pa.RecordBatch]:
        read = beam.ParDo(ReadFiles(self._archive)).with_output_types(Block)
        return pbegin | "Files" >> beam.Create(self._archive.files) | "Read" >> read
