"""From scored blocks to the rows of ``score.avsc`` and ``alert.avsc``. No Beam here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

import schemas
from beam_jobs.block import SOURCE_PREFIX, Block, take
from beam_jobs.codec.schema import arrow_schema
from beam_jobs.errors import Reason, RowErrors
from beam_jobs.jit import compiled
from beam_jobs.origin import Origin, origin
from beam_jobs.preprocessing.told import Told, usual
from beam_jobs.steps import infer as h
from beam_jobs.steps.alerting.story import story

Floats = NDArray[np.float32]

# Of an event. Its scores and alerts hold the key twice and the attributes once, JSON makes up to six bytes of one, and
# Kafka's topics take a megabyte where nothing else is set.
MAX_KEY_BYTES = 100_000
MAX_TEXT_BYTES = 100_000  # key and attributes together
MAX_FEATURES = 5  # an alert names the features that made it, at most this many, largest share first

_TINY = np.finfo(np.float32).tiny
_SOURCE = tuple(SOURCE_PREFIX + name for name in ("topic", "partition", "offset", "headers"))
_SCORED = (
    h.SCORE,
    h.THRESHOLD,
    h.PERCENTILE,
    h.RECENT_PERCENTILE,
    h.SEVERITY,
    h.MODEL,
    h.VERSION,
    h.EXPECTED,
    h.FEATURE_ERROR,
)


def unwritable(scored: Block, key: str, attributes: Sequence[str] = ()) -> RowErrors:
    """Rows whose score is not a finite number, or whose texts are more than any topic is sure to take.

    Args:
      key, attributes: the columns of the events' key and of their attributes.
    """
    score = scored.column(h.SCORE).to_numpy(zero_copy_only=False)
    sizes = _bytes(scored, key)
    together = sum((_bytes(scored, name) for name in attributes), sizes)
    found: dict[int, tuple[Reason, str]] = (
        {
            row: (
                "attributes_too_large",
                f"{', '.join((key, *attributes))} have {together[row]:,} bytes, expected {MAX_TEXT_BYTES:,} at most",
            )
            for row in (np.flatnonzero(together > MAX_TEXT_BYTES).tolist() if attributes else ())
        }
        | {
            row: ("key_too_large", f"{key} has {sizes[row]:,} bytes, expected {MAX_KEY_BYTES:,} at most")
            for row in np.flatnonzero(sizes > MAX_KEY_BYTES).tolist()
        }
        | {
            row: ("score_not_finite", f"the model's score is {score[row]}, expected a finite number")
            for row in np.flatnonzero(~np.isfinite(score)).tolist()
        }
    )
    rows = sorted(found)
    reasons, errors = tuple(found[row][0] for row in rows), tuple(found[row][1] for row in rows)
    return RowErrors(np.array(rows, np.int64), reasons, errors)


def _bytes(scored: Block, column: str) -> NDArray[np.int64]:
    """Of each text of a column, [n]; a null has none."""
    sizes = pc.binary_length(scored.column(column).cast(pa.string()))
    return np.asarray((sizes.fill_null(0) if sizes.null_count else sizes).to_numpy(zero_copy_only=False), np.int64)


def is_anomaly(scored: Block) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """bool [n]: the score is above its threshold, and within the budget where there is one."""
    found: np.ndarray[tuple[int], np.dtype[np.bool_]] = scored.column(h.ALERT).to_numpy(zero_copy_only=False)
    return found


def score_rows(scored: Block, key: str, event_time: str, attributes: Sequence[str] = ()) -> Block:
    """Every row of a scored block as ``score.avsc``."""
    own = {"is_anomaly": pa.array(is_anomaly(scored)), "attributes": _attributes(scored, attributes)}
    return _rows("score", scored, origin(scored), key, event_time, own)


def alert_rows(
    scored: Block,
    key: str,
    event_time: str,
    features: Sequence[str],
    units: Mapping[str, str | None],
    attributes: Sequence[str] = (),
    told: Sequence[Told] = (),
) -> Block:
    """The anomalies of a scored block that are told, as ``alert.avsc``; possibly no row.

    The id is "topic-partition-offset" of the event's origin: the same on every replay, whatever model made the alert.
    """
    rows = np.flatnonzero(scored.column(h.TOLD).to_numpy(zero_copy_only=False))
    also = {h.RARITY} & set(scored.schema.names)
    needed = [key, event_time, *features, *attributes, *_SOURCE, *_SCORED, *also]
    anomalies = take(scored.select(list(dict.fromkeys(needed))), rows)
    source = origin(anomalies)
    why = _features(anomalies, features, units, told)
    own = {
        "id": source.ids(),
        "features": why,
        "story": _story(why, told),
        "attributes": _attributes(anomalies, attributes),
    }
    return _rows("alert", anomalies, source, key, event_time, own)


def _attributes(scored: Block, names: Sequence[str]) -> pa.Array:
    """For each row the text columns ``names`` by their names, map<string, string> [n]; null where there are none."""
    n, width = scored.num_rows, len(names)
    if not names:
        return pa.nulls(n, pa.map_(pa.string(), pa.string()))
    columns = pa.concat_arrays([scored.column(name).cast(pa.string()) for name in names])
    by_row = np.arange(n * width).reshape(width, n).T.reshape(-1)
    keys = pa.array(names, pa.string()).take(pa.array(np.tile(np.arange(width), n)))
    offsets = pa.array(np.arange(n + 1, dtype=np.int32) * width)
    return pa.MapArray.from_arrays(offsets, keys, columns.take(pa.array(by_row)))


def _story(why: pa.Array, told: Sequence[Told]) -> pa.Array:
    """What each alert says in words, string [n]; null where the use case does not say how."""
    if not told:
        return pa.nulls(len(why), pa.string())
    words = {each.feature: each for each in told}
    return pa.array([story(features, words) for features in why.to_pylist()], pa.string())


def _usual(anomalies: Block, features: Sequence[str], told: Sequence[Told], order: NDArray[np.int32]) -> pa.Array:
    """What is usual for the keys, of the chosen features, [n * k], by their places, [n, k]; null: nobody says."""
    found = np.full((len(order), len(features)), np.nan)
    if any(each.usual for each in told):
        matrix = h.feature_matrix(anomalies, features)
        for name, values in usual(told, dict(zip(features, matrix.T, strict=True))).items():
            found[:, features.index(name)] = values
    chosen = np.take_along_axis(found, order, axis=1).reshape(-1)
    return pa.array(chosen, mask=~np.isfinite(chosen))


def _features(
    anomalies: Block, features: Sequence[str], units: Mapping[str, str | None], told: Sequence[Told]
) -> pa.Array:
    """For each row the features with the largest share of the error, none if the model gives none: list<struct> [n]."""
    n, width = anomalies.num_rows, len(features)
    if anomalies.column(h.FEATURE_ERROR).null_count:  # all: one model has scored the block
        return pa.array([[]] * n, _schema("alert").field("features").type)
    top = min(MAX_FEATURES, width)
    observed = np.ascontiguousarray(h.feature_matrix(anomalies, features))
    expected, error = (
        anomalies.column(name).flatten().to_numpy().reshape(n, width) for name in (h.EXPECTED, h.FEATURE_ERROR)
    )
    order = np.empty((n, top), np.int32)
    values = np.empty((3, n, top), np.float32)
    largest(observed, expected, error, order, *values)
    chosen = pa.array(order.reshape(-1))
    columns = {
        "name": pa.array(features, pa.string()).take(chosen),
        "observed": pa.array(values[0].reshape(-1)),
        "expected": pa.array(values[1].reshape(-1)),
        "unit": pa.array([units.get(name) for name in features], pa.string()).take(chosen),
        "share": pa.array(values[2].reshape(-1)),
        "rarity": _rarity(anomalies, order, width),
        "usual": _usual(anomalies, features, told, order),
    }
    item = _schema("alert").field("features").type.value_type
    structs = pa.StructArray.from_arrays([_as(columns[f.name], f.type) for f in item], fields=list(item))
    return pa.ListArray.from_arrays(pa.array(np.arange(n + 1, dtype=np.int32) * top), structs)


def _rarity(anomalies: Block, order: NDArray[np.int32], width: int) -> pa.Array:
    """How rare the chosen features are, [n * k], by their places, [n, k]; null where it can't be said."""
    if h.RARITY not in anomalies.schema.names:
        return pa.nulls(order.size, pa.float64())
    rarity = anomalies.column(h.RARITY).flatten().to_numpy().reshape(len(order), width)
    chosen = np.take_along_axis(rarity, order, axis=1).reshape(-1)
    return pa.array(chosen.astype(np.float64), mask=np.isnan(chosen))


@compiled
def largest(
    observed: Floats,
    expected: Floats,
    error: Floats,
    order: Any,
    top_observed: Floats,
    top_expected: Floats,
    top: Floats,
) -> None:
    """Picks the features with the largest share of each row's error, largest first, the first of equals first.

    Args:
      observed, expected, error: [n, F].
      order: int32 [n, k], which they are; filled.
      top_observed, top_expected, top: [n, k], their values and their shares, 0..1; filled.
    """
    n, width = error.shape
    k = order.shape[1]
    for row in range(n):
        total = np.float32(0)
        for f in range(width):
            value = error[row, f]
            total += value
            place = min(f, k)
            while place > 0 and value > error[row, order[row, place - 1]]:
                if place < k:
                    order[row, place] = order[row, place - 1]
                place -= 1
            if place < k:
                order[row, place] = f
        total = max(total, _TINY)
        for place in range(k):
            f = order[row, place]
            top_observed[row, place] = observed[row, f]
            top_expected[row, place] = expected[row, f]
            top[row, place] = error[row, f] / total


def warm_up() -> None:
    """Loads what is compiled, so that the first alert does not wait for it."""
    one = np.zeros((1, 1), np.float32)
    largest(one, one, one, np.zeros((1, 1), np.int32), *np.zeros((3, 1, 1), np.float32))


def _rows(name: str, scored: Block, source: Origin, key: str, event_time: str, own: Mapping[str, pa.Array]) -> Block:
    """Puts together the columns that scores and alerts share and their own, in the order of the schema."""
    renamed = {"key": key, "event_time": event_time}
    own = {**own, **{f"source_{column}": values for column, values in source._asdict().items()}}
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
