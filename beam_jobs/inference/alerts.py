"""From scored blocks to the rows of ``score.avsc`` and ``alert.avsc``. No Beam here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import schemas
from beam_jobs.block import SOURCE_PREFIX, Block, take
from beam_jobs.codec.schema import arrow_schema
from beam_jobs.errors import RowErrors
from beam_jobs.inference import handler as h

MAX_FEATURES = 5  # an alert names the features that made it, at most this many, largest share first

_SOURCE = tuple(SOURCE_PREFIX + name for name in ("topic", "partition", "offset"))
_SCORED = (h.SCORE, h.THRESHOLD, h.PERCENTILE, h.MODEL, h.VERSION, h.EXPECTED, h.FEATURE_ERROR)


def unscored(scored: Block) -> RowErrors:
    """Rows whose score is not a finite number."""
    score = scored.column(h.SCORE).to_numpy(zero_copy_only=False)
    bad = np.flatnonzero(~np.isfinite(score))
    text = "the model's score is {}, expected a finite number"
    return RowErrors(bad, ("score_not_finite",) * len(bad), tuple(text.format(value) for value in score[bad].tolist()))


def is_anomaly(scored: Block) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """bool [n]: the score is above its version's threshold."""
    score = scored.column(h.SCORE).to_numpy(zero_copy_only=False)
    return score > scored.column(h.THRESHOLD).to_numpy(zero_copy_only=False)


def score_rows(scored: Block, key: str, event_time: str) -> Block:
    """Every row of a scored block as ``score.avsc``."""
    return _rows("score", scored, key, event_time, {"is_anomaly": pa.array(is_anomaly(scored))})


def alert_rows(
    scored: Block, key: str, event_time: str, features: Sequence[str], units: Mapping[str, str | None]
) -> Block:
    """The anomalies of a scored block as ``alert.avsc``; possibly no row.

    The id is "topic-partition-offset" of the event: the same on every replay, whatever model made the alert.
    """
    rows = np.flatnonzero(is_anomaly(scored))
    needed = [key, event_time, *features, *_SOURCE, *_SCORED]
    anomalies = take(scored.select(list(dict.fromkeys(needed))), rows)
    ids = pc.binary_join_element_wise(*(anomalies.column(name).cast(pa.string()) for name in _SOURCE), "-")
    made_by = _features(anomalies, features, units)
    return _rows("alert", anomalies, key, event_time, {"id": ids, "features": made_by})


def _features(anomalies: Block, features: Sequence[str], units: Mapping[str, str | None]) -> pa.Array:
    """For each row the features with the largest share of the error: list<struct> [n]."""
    n, width = anomalies.num_rows, len(features)
    top = min(MAX_FEATURES, width)
    observed = h.feature_matrix(anomalies, features)
    expected, error = (
        anomalies.column(name).flatten().to_numpy().reshape(n, width) for name in (h.EXPECTED, h.FEATURE_ERROR)
    )
    share = error / np.maximum(error.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    order = np.argsort(-share, axis=1, kind="stable")[:, :top]
    rows = np.arange(n)[:, None]
    chosen = pa.array(order.reshape(-1))
    columns = {
        "name": pa.array(features, pa.string()).take(chosen),
        "observed": pa.array(observed[rows, order].reshape(-1)),
        "expected": pa.array(expected[rows, order].reshape(-1)),
        "unit": pa.array([units.get(name) for name in features], pa.string()).take(chosen),
        "share": pa.array(share[rows, order].reshape(-1)),
    }
    item = _schema("alert").field("features").type.value_type
    structs = pa.StructArray.from_arrays([_as(columns[f.name], f.type) for f in item], fields=list(item))
    return pa.ListArray.from_arrays(pa.array(np.arange(n + 1, dtype=np.int32) * top), structs)


def _rows(name: str, scored: Block, key: str, event_time: str, own: Mapping[str, pa.Array]) -> Block:
    """Puts together the columns that scores and alerts share and their own, in the order of the schema."""
    renamed = {
        "key": key,
        "event_time": event_time,
        **{f"source_{column}": SOURCE_PREFIX + column for column in ("topic", "partition", "offset")},
    }
    schema = _schema(name)
    columns = [own[f.name] if f.name in own else scored.column(renamed.get(f.name, f.name)) for f in schema]
    return pa.RecordBatch.from_arrays(
        [_as(column, f.type) for column, f in zip(columns, schema, strict=True)], schema=schema
    )


def _as(column: pa.Array, type_: pa.DataType) -> pa.Array:
    return column if column.type == type_ else column.cast(type_)  # a cast to the same type is not free


@cache
def _schema(name: str) -> pa.Schema:
    return arrow_schema(schemas.load(name))
