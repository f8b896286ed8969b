"""Labels that came after their events were archived: Parquet files that ``highbeam feedback`` writes, by alert id."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_jobs.errors import UserError, one_line
from beam_jobs.storage.files import download, is_local, list_files, root_of

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # "topic-partition-offset" of the event, as in its alert
        pa.field("label", pa.string(), nullable=False),  # as text, whatever type the label has
        pa.field("at", pa.timestamp("ms", "UTC"), nullable=False),  # when somebody said so
    ]
)
_SUFFIX = ".parquet"


@dataclass(frozen=True)
class KnownLabels:
    """What was said of each event last."""

    ids: pa.Array  # string [n], each once
    labels: pa.Array  # string [n]

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
        index = rows.schema.get_field_index(label)
        kind = rows.schema.field(index).type
        try:
            said = self.labels.take(place).cast(kind)
        except pa.ArrowInvalid as error:
            raise UserError(f"--labels: {one_line(error, 200)}; the label {label} is {kind}") from error
        field = rows.schema.field(index).with_nullable(True)
        return rows.set_column(index, field, pc.coalesce(said, rows.column(index)))


def known_labels(folder: str) -> KnownLabels:
    """All of a folder, here or on ``gs://``.

    Raises:
      UserError: there is none, or a file is no such Parquet.
    """
    found = read_labels(folder)
    if not found.num_rows:
        raise UserError(f"--labels {folder}: no labels there; highbeam feedback writes them")
    return KnownLabels(found.column("id").combine_chunks(), found.column("label").combine_chunks())


def read_labels(folder: str) -> pa.Table:
    """The last label of each id, in SCHEMA; without rows where there is no file.

    Raises:
      UserError: as above.
    """
    root = root_of(folder)
    paths = sorted(path for path in list_files(f"{root}/*") if path.endswith(_SUFFIX))
    tables = [SCHEMA.empty_table()]
    with tempfile.TemporaryDirectory() as copies:
        for path in paths:
            file = Path(path)
            if not is_local(path):
                file = Path(copies, path.rpartition("/")[2])
                download(path, file)
            try:
                tables.append(pq.read_table(file).select(SCHEMA.names).cast(SCHEMA))
            except (OSError, KeyError, pa.ArrowException) as error:
                raise UserError(f"{path}: no labels of highbeam feedback ({one_line(error, 200)})") from error
    rows = pa.concat_tables(tables)
    order = pc.sort_indices(rows, [("at", "descending")])  # stable: of the same moment the first file counts
    rows = rows.take(order)
    first = rows.append_column("row", pa.array(range(rows.num_rows))).group_by("id").aggregate([("row", "min")])
    return rows.take(first.column("row_min"))
