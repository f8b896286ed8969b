"""Labels that came after their events were archived: Parquet files that ``highbeam feedback`` writes, by alert id."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_jobs.errors import UserError, one_line, shown
from beam_jobs.storage.files import download, is_local, list_files, root_of

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # "topic-partition-offset" of the event, as in its alert
        pa.field("label", pa.string(), nullable=False),  # as text, whatever type the label has
        pa.field("at", pa.timestamp("ms", "UTC"), nullable=False),  # when somebody said so
        pa.field("partition", pa.int32(), nullable=False),  # of the record that says so; -1: of none
        pa.field("offset", pa.int64(), nullable=False),
    ]
)
PLACE = ("at", "partition", "offset")  # of several labels of an id that with the highest counts
_SUFFIX = ".parquet"
_NAMED = ("id", "label", "at")  # what a file has to hold; others may write one


@dataclass(frozen=True)
class KnownLabels:
    """What was said of each event last."""

    ids: pa.Array  # string [n], each once
    labels: pa.Array  # string [n]
    files: pa.Array | None = None  # string [n], for messages
    _met: set[int] = field(default_factory=set, init=False, compare=False)

    @property
    def met(self) -> int:
        """How many of them have met a row up to now."""
        return len(self._met)

    def on(self, rows: pa.RecordBatch, label: str, prefix: str) -> pa.RecordBatch:
        """Rows with the labels that are known, in place of those they had.

        Args:
          label: its column.
          prefix: of the columns of the position: "source_".

        Raises:
          UserError: a label that is none of the column's type.
        """
        position = (rows.column(f"{prefix}{name}").cast(pa.string()) for name in ("topic", "partition", "offset"))
        place = pc.index_in(pc.binary_join_element_wise(*position, "-"), self.ids)
        if place.null_count == len(place):
            return rows
        self._met.update(pc.unique(place.drop_null()).to_pylist())
        index = rows.schema.get_field_index(label)
        kind = rows.schema.field(index).type
        try:
            said = self.labels.take(place).cast(kind)
        except pa.ArrowInvalid:
            raise self._refusal(place.drop_null(), label, kind) from None
        field = rows.schema.field(index).with_nullable(True)
        return rows.set_column(index, field, pc.coalesce(said, rows.column(index)))

    def _refusal(self, places: pa.Array, label: str, kind: pa.DataType) -> UserError:
        """Names the first label that is none of ``kind``."""
        for place in places.to_pylist():
            value = self.labels[place].as_py()
            try:
                pa.array([value], pa.string()).cast(kind)
            except pa.ArrowInvalid:
                file = "" if self.files is None else f" {self.files[place].as_py()}"
                return UserError(
                    f"--labels{file}: the label of {shown(self.ids[place].as_py(), None, str)} is {shown(value)}, and "
                    f"{label} is {kind}; remove the file, highbeam feedback writes anew what is still on its topic"
                )
        raise AssertionError("each of them can be cast")


def known_labels(folder: str) -> KnownLabels:
    """All of a folder, here or on ``gs://``.

    Raises:
      UserError: there is none, or a file is no such Parquet.
    """
    found = read_labels(folder)
    if not found.num_rows:
        raise UserError(f"--labels {folder}: no labels there; highbeam feedback writes them")
    return KnownLabels(*(found.column(name).combine_chunks() for name in ("id", "label", "file")))


def read_labels(folder: str) -> pa.Table:
    """The last label of each id, in SCHEMA and with its ``file``; without rows where there is no file.

    The last is that of the highest PLACE; of the same one that of the file whose name comes last.

    Raises:
      UserError: as above.
    """
    root = root_of(folder)
    paths = sorted(path for path in list_files(f"{root}/*") if path.endswith(_SUFFIX))
    tables = [_of_file(SCHEMA.empty_table(), "")]
    with tempfile.TemporaryDirectory() as copies:
        for path in paths:
            file = Path(path)
            if not is_local(path):
                file = Path(copies, path.rpartition("/")[2])
                download(path, file)
            try:
                tables.append(_of_file(pq.read_table(file), path))
            except (OSError, KeyError, ValueError, pa.ArrowException) as error:
                raise UserError(
                    f"{path}: no labels of highbeam feedback ({one_line(error, 200)}); move it elsewhere"
                ) from error
    rows = pa.concat_tables(reversed(tables))
    rows = rows.take(pc.sort_indices(rows, [(name, "descending") for name in PLACE]))  # stable
    first = rows.append_column("row", pa.array(range(rows.num_rows))).group_by("id").aggregate([("row", "min")])
    return rows.take(first.column("row_min"))


def _of_file(rows: pa.Table, path: str) -> pa.Table:
    for name in SCHEMA.names:
        if name not in _NAMED and name not in rows.schema.names:
            rows = rows.append_column(name, pa.array([-1] * rows.num_rows, SCHEMA.field(name).type))
    rows = rows.select(SCHEMA.names).cast(SCHEMA)
    return rows.append_column("file", pa.array([path] * rows.num_rows, pa.string()))
