"""The open files of a bundle: one a folder, with bounded descriptors and memory however many folders there are.

A file keeps its descriptor only while it is among the last that were written to. What its writer keeps in memory is
counted; above the limit the file that was written to longest ago is finished, and followed by another if more comes.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from beam_jobs.archives.rows import PROPERTY
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.codec.avro.file import AvroWriter
from beam_jobs.codec.schema import arrow_schema

FileFormat = Literal["avro", "parquet"]

COMPRESSIONS: dict[FileFormat, tuple[str, ...]] = {
    "avro": ("deflate", "none"),
    "parquet": ("zstd", "snappy", "none"),
}
"""What files can be compressed by; the first is the default."""

MAX_DESCRIPTORS = 64
MAX_BYTES = 128 << 20  # of what writers keep in memory
_AVRO_BYTES = 4_000  # of a writer
_PARQUET_COLUMN_BYTES, _PARQUET_CHUNK_BYTES = 3_200, 900  # of a writer; of each row group (docs/decisions.md)


class _Rows(Protocol):
    """Writes rows to one open file."""

    def write(self, batch: pa.RecordBatch) -> None: ...


class _Descriptors:
    """The descriptors of those spools that were written to last."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, IO[bytes]] = OrderedDict()

    def of(self, path: Path) -> IO[bytes]:
        file = self._open.get(path)
        if file is None:
            while len(self._open) >= MAX_DESCRIPTORS:
                self._open.popitem(last=False)[1].close()
            file = self._open[path] = path.open("ab")
        self._open.move_to_end(path)
        return file

    def close(self, path: Path) -> None:
        file = self._open.pop(path, None)
        if file is not None:
            file.close()

    def close_all(self) -> None:
        while self._open:
            self._open.popitem()[1].close()


class _Spool:
    """A file that is only ever appended to, as writers want it; whether it has a descriptor is nobody's business."""

    def __init__(self, path: Path, descriptors: _Descriptors) -> None:
        self.path, self._descriptors = path, descriptors
        self._size, self.closed = 0, False
        path.open("wb").close()

    def write(self, data: Any) -> int:
        written = self._descriptors.of(self.path).write(data)
        self._size += written
        return written

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        self.closed = True
        self._descriptors.close(self.path)

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


@dataclass
class OpenFile:
    """A file of a bundle."""

    folder: str  # of the archive
    number: int  # within the bundle
    path: Path
    spool: _Spool
    writer: _Rows
    rows: int = 0
    memory: int = 0  # bytes its writer keeps


class BundleFiles:
    """The files that a bundle writes, one bundle after the other: what is made of the schema serves all of them.

    Args:
      schema: the rows' Avro schema.
      max_file_bytes: a file that has reached it is finished.
    """

    def __init__(
        self,
        schema: Mapping[str, Any],
        file_format: FileFormat,
        compression: str,
        max_file_bytes: int,
    ) -> None:
        self._avro, self._format, self._compression = schema, file_format, compression
        self._max_file_bytes = max_file_bytes
        self._encoder = AvroEncoder(schema, None) if file_format == "avro" else None
        self._arrow = arrow_schema(schema).with_metadata({PROPERTY: json.dumps(schema[PROPERTY])})
        self._descriptors = _Descriptors()

    def begin(self, path: Callable[[int], Path]) -> None:
        """Begins a bundle; what is left of one that failed is let go.

        Args:
          path: where the n-th file of the bundle is written.
        """
        self.abandon()
        self._path = path
        self._open: OrderedDict[str, OpenFile] = OrderedDict()
        self._memory = 0
        self._count = 0
        self.finished: list[OpenFile] = []
        self.bytes = 0  # written in all

    def __len__(self) -> int:
        return len(self._open) + len(self.finished)

    def write(self, folder: str, rows: pa.RecordBatch) -> None:
        """Appends rows to the folder's file."""
        file = self._open.get(folder) or self._begin(folder)
        self._open.move_to_end(folder)
        before = file.spool.tell()
        file.writer.write(rows)
        file.rows += rows.num_rows
        self.bytes += file.spool.tell() - before
        kept = _AVRO_BYTES if self._format == "avro" else _PARQUET_CHUNK_BYTES * len(self._arrow)
        if not file.memory or self._format == "parquet":
            self._keep(file, kept)
        if file.spool.tell() >= self._max_file_bytes:
            self._finish(folder)
        while self._memory > MAX_BYTES:
            self._finish(next(iter(self._open)))

    def finish(self) -> list[OpenFile]:
        """Finishes all; they are complete on disk."""
        while self._open:
            self._finish(next(iter(self._open)))
        return self.finished

    def abandon(self) -> None:
        """Lets go of what is not finished."""
        self._descriptors.close_all()

    def _begin(self, folder: str) -> OpenFile:
        number, self._count = self._count, self._count + 1
        path = self._path(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        spool: Any = _Spool(path, self._descriptors)
        file = self._open[folder] = OpenFile(folder, number, path, spool, self._writer(spool))
        if self._format == "parquet":
            self._keep(file, _PARQUET_COLUMN_BYTES * len(self._arrow))
        return file

    def _writer(self, spool: Any) -> _Rows:
        if self._encoder is not None:
            codec = "deflate" if self._compression == "deflate" else "null"
            return AvroWriter(spool, self._avro, codec, self._encoder)
        writer: _Rows = pq.ParquetWriter(spool, self._arrow, compression=self._compression, write_page_checksum=True)
        return writer

    def _keep(self, file: OpenFile, more: int) -> None:
        file.memory += more
        self._memory += more

    def _finish(self, folder: str) -> None:
        done = self._open.pop(folder)
        before = done.spool.tell()
        if isinstance(done.writer, pq.ParquetWriter):
            done.writer.close()
        self.bytes += done.spool.tell() - before
        done.spool.close()
        self._keep(done, -done.memory)
        self.finished.append(done)
