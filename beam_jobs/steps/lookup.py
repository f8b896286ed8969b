"""Enrichment: columns of a lookup table beside rows that have its key; the table is loaded again when it changes.

    >>> cars = Table(pa.table({"car_id": ["a", "b"], "fleet": ["north", "south"]}), "car_id")
    >>> cars.columns_for(pa.array(["b", "x", None, "b"])).to_pydict()
    {'fleet': ['south', None, None, 'south']}

Each row has at most one match, so rows come out as they went in, however they were cut into blocks. The table is in the
memory of every worker.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from beam_jobs.codec.columns import fit
from beam_jobs.codec.parquet import open_parquet, readable
from beam_jobs.codec.schema import arrow_schema
from beam_jobs.errors import UserError, listed, one_line, shown
from beam_jobs.storage.files import FileInfo, find_files, patiently, read_bytes

_LOGGER = logging.getLogger(__name__)

MAX_BYTES = 1 << 30  # of the file; it is held by every worker

AvroFields = tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class LookupFile:
    """Where a lookup table is and what is taken from it; picklable, small."""

    path: str  # .csv or .parquet, as ``files.root_of`` gives it
    key: str  # column of the rows as well as of the table
    key_type: pa.DataType  # string or int64, as ``key_type`` gives it
    fields: AvroFields  # of the other columns: nullable Avro fields

    def load(self) -> Table:
        """The table as it is now.

        Raises:
          UserError: it can't be read, lacks a column, a value doesn't fit its type, or a key is missing or there twice.
        """
        table = _read(self.path, {self.key: self.key_type} | _types(self.fields))
        try:
            return Table(table, self.key, self.path)
        except pl.exceptions.PanicException as error:  # a BaseException, which would end the process
            raise UserError(f"{self.path}: can't be used as a lookup table ({one_line(error, 200)})") from error


def key_type(name: str, kind: pa.DataType) -> pa.DataType:
    """The type a table's keys are read as, for rows whose key column has the type ``kind``.

    Raises:
      UserError: it is neither text nor a whole number.
    """
    if pa.types.is_string(kind) or pa.types.is_dictionary(kind):
        return pa.string()
    if pa.types.is_integer(kind):
        return pa.int64()
    raise UserError(f"{name} is a {kind}; rows are looked up by a text or a whole number")


def describe(path: str, key: str, kind: pa.DataType) -> LookupFile:
    """Reads a table once to learn what it has: types by the Parquet schema, or by all the values of a CSV file.

    Whole numbers become long, fractions double; what has no Avro type of its own becomes text.

    Args:
      kind: type of the rows' key column.

    Raises:
      UserError: as in ``LookupFile.load``, or a column that no Avro field can be called after.
    """
    keys = key_type(key, kind)
    table = _read(path, {key: keys}, all_columns=True)
    if table.num_columns < 2:
        raise UserError(f"{path}: has the column {key} alone; there is nothing to enrich rows with")
    fields = []
    for column in table.schema:
        if column.name != key:
            if not column.name.isidentifier() or not column.name.isascii() or column.name.startswith("_"):
                raise UserError(f"{path}: column {column.name!r}: use letters, digits and underscores, a letter first")
            source = f"from the lookup table {path.rsplit('/', 1)[-1]}, by {key}"
            fields.append({"name": column.name, "type": ["null", _avro_type(column.type)], "doc": source})
    described = LookupFile(path, key, keys, tuple(fields))
    described.load()
    return described


def _avro_type(kind: pa.DataType) -> Any:
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_integer(kind):
        return "long"
    if pa.types.is_floating(kind):
        return "double"
    if pa.types.is_date32(kind):
        return {"type": "int", "logicalType": "date"}
    if pa.types.is_timestamp(kind):
        return {"type": "long", "logicalType": "timestamp-micros" if kind.tz else "local-timestamp-micros"}
    return "string"


def _types(fields: Sequence[Mapping[str, Any]]) -> dict[str, pa.DataType]:
    return {f.name: f.type for f in arrow_schema({"type": "record", "name": "lookup", "fields": list(fields)})}


def _read(path: str, types: Mapping[str, pa.DataType], all_columns: bool = False) -> pa.Table:
    """The columns of a file in the given types; with ``all_columns`` the others as well, as they are."""
    if not path.endswith((".csv", ".parquet")):
        raise UserError(f"{path}: a lookup table is a .csv or a .parquet file")
    data = read_bytes(path)
    if len(data) > MAX_BYTES:
        raise UserError(f"{path}: has {len(data):,} bytes; a lookup table is held in memory, keep it below 1 GiB")
    with readable(f"{path}: can't be read as a lookup table", "write it again"):
        table = _read_csv(data, types) if path.endswith(".csv") else open_parquet(pa.BufferReader(data)).read()
        table.validate(full=True)
    twice = [name for name, n in Counter(table.column_names).items() if n > 1]
    if twice:
        raise UserError(f"{path}: has two columns {twice[0]!r}; rename one of them")
    missing = [name for name in types if name not in table.column_names]
    if missing:
        raise UserError(f"{path}: has no column {missing[0]!r}; it has {listed(table.column_names)}")
    return pa.table(
        {
            name: fit(_array(table.column(name)), types[name], f"{path}: column {name!r}")
            if name in types
            else table.column(name)
            for name in (table.column_names if all_columns else types)
        }
    )


def _read_csv(data: bytes, types: Mapping[str, pa.DataType]) -> pa.Table:
    types = {name: kind for name, kind in types.items() if not pa.types.is_timestamp(kind)}  # fit rounds finer ones
    return pa.csv.read_csv(
        pa.BufferReader(data),
        # One block: the types of the others are inferred from all rows, not from the first megabyte.
        read_options=pa.csv.ReadOptions(block_size=max(len(data), 1) + 1),
        parse_options=pa.csv.ParseOptions(newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=True),
    )


class Table:
    """A lookup table in memory, found by the hash of its key.

    Args:
      table: the key and at least one other column.
      key: name of the key column: string or int64, no value missing, none twice.
      name: what errors call it.

    Raises:
      UserError: a key is missing, or there twice.
    """

    def __init__(self, table: pa.Table, key: str, name: str = "the lookup table") -> None:
        keys = _array(table.column(key))
        if keys.null_count:
            raise UserError(f"{name}: {keys.null_count} rows have no {key}; give each a key, or remove them")
        counts = pc.value_counts(keys)
        twice = counts.filter(pc.greater(counts.field("counts"), 1))
        if len(twice):
            first = twice[0].as_py()
            raise UserError(
                f"{name}: {key} {shown(first['values'])} is there {first['counts']} times ({len(twice)} such keys); "
                "keep one row a key"
            )
        self.rows = len(keys)
        self._seed, hashes = _unique_hashes(keys)
        order = np.argsort(hashes)
        self._hashes = hashes[order]
        self._keys = keys.take(pa.array(order))
        others = table.drop_columns([key]).combine_chunks().take(pa.array(order))
        self._values = pa.RecordBatch.from_arrays([_array(c) for c in others.columns], names=others.column_names)

    def columns_for(self, keys: pa.Array) -> pa.RecordBatch:
        """The other columns for n keys, n rows; null where a key is null or not in the table."""
        return self.columns_at(self.find(keys))

    def columns_at(self, found: pa.Array) -> pa.RecordBatch:
        """The other columns at the rows that ``find`` gave."""
        return self._values.take(found)

    def find(self, keys: pa.Array) -> pa.Array:
        """int64 [n]: the row of each key in the order of this table, null where there is none."""
        keys = keys.cast(self._keys.type) if keys.type != self._keys.type else keys
        if not self.rows:
            return pa.nulls(len(keys), pa.int64())
        coded = keys.dictionary_encode()  # a block has few keys, many times
        distinct = coded.dictionary
        hashes = _hashes(distinct, self._seed)
        order = np.argsort(hashes)  # a search in order stays in the caches: a quarter of the time in a million rows
        place = np.empty(len(hashes), np.int64)
        place[order] = np.minimum(np.searchsorted(self._hashes, hashes[order]), self.rows - 1)
        found = pc.equal(self._keys.take(pa.array(place)), distinct)
        return pc.if_else(found, pa.array(place, pa.int64()), None).take(coded.indices)


def _array(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _hashes(keys: pa.Array, seed: int) -> NDArray[np.uint64]:
    series: Any = pl.from_arrow(keys)
    return series.hash(seed).to_numpy()


def _unique_hashes(keys: pa.Array) -> tuple[int, NDArray[np.uint64]]:
    seed = 0
    while True:  # two keys of one hash: once in 10^7 for tables of a million rows; another seed parts them
        hashes = _hashes(keys, seed)
        if len(np.unique(hashes)) == len(hashes):
            return seed, hashes
        seed += 1


class Lookup:
    """A table that follows its file: looked at now and then, reloaded when it changed.

    A version that can't be used, and a file that can't be reached, leave the previous table in use, and say so once.

    Args:
      every_s: seconds between two looks at the file, at least.
    """

    def __init__(self, file: LookupFile, every_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._file, self._every_s, self._now = file, every_s, now
        self._version = patiently(lambda: _version(file.path))
        self._table = patiently(file.load)
        self._told = ""
        self._next = now() + every_s

    def current(self) -> Table:
        """The table to use now."""
        if self._now() >= self._next:
            self._follow()
            self._next = self._now() + self._every_s
        return self._table

    def _follow(self) -> None:
        try:
            version = _version(self._file.path)
            if version == self._version:
                self._told = ""
                return
            table = self._file.load()
            if _version(self._file.path) != version:
                return  # it is being written
        except Exception as error:  # whatever storage raises: the stream goes on with the table it has
            problem = f"{one_line(error, 300)}; the lookup table of before stays in use"
            if problem != self._told:
                _LOGGER.warning("%s", problem)
                self._told = problem
            return
        _LOGGER.warning("%s: loaded anew, %d rows, %d before", self._file.path, table.rows, self._table.rows)
        self._table, self._version, self._told = table, version, ""


def _version(path: str) -> FileInfo:
    found = find_files(path)
    if len(found) != 1:
        raise UserError(f"{path}: there is no such file; a lookup table is a .csv or a .parquet file")
    return found[0]
