"""A registered model in a notebook: a dataframe of events in, scores out, by the preprocessing of the stream."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from beam_jobs.codec.columns import Fit
from beam_jobs.codec.schema import arrow_schema
from beam_jobs.errors import UserError, one_line
from beam_jobs.use_case import UseCase, load_use_case
from model.loaded import LoadedModel
from model.manifest import Manifest, check_fingerprint
from model.registry import resolve

FILTERED = "filtered"  # as a reason: the WHERE of the SQL removed the row, which is no error

_BLOCK_ROWS = 32_768


def load(model: str, use_case: str | None = None, model_key: str | None = None) -> Detector:
    """Loads a version of a registered model and the preprocessing it was trained with.

    Args:
      model: as ``--model`` takes it: ``DIR``, ``DIR@alias`` or ``DIR@version``; a path, or ``gs://``.
      use_case: name or folder; None: the name in the model's manifest, one that ships.
      model_key: reference to the public key that must have signed the version, as ``--model_key``; None: any will do.

    Raises:
      UserError: no such model or use case, or one that the model was not trained with.
    """
    found = resolve(model, None if use_case is None else load_use_case(use_case).name, model_key)
    case = load_use_case(use_case or found.manifest.use_case)
    check_fingerprint(found.manifest, case.preprocessor())
    return Detector(case, LoadedModel.load(found.path, found.digest))


class Detector:
    """A model and the preprocessing of its use case."""

    def __init__(self, use_case: UseCase, model: LoadedModel) -> None:
        self.use_case = use_case
        self._model = model

    @property
    def manifest(self) -> Manifest:
        """What the version says of itself: threshold, features, data, metrics."""
        return self._model.manifest

    def score(self, events: Any) -> Any:
        """Scores events as the stream would, in the order of the rows.

        Args:
          events: a pandas or polars DataFrame or a pyarrow Table or RecordBatch, n rows with the columns of the use
            case's schema that its SQL reads; others do not matter.

        Returns:
          The same kind of dataframe, with the same index, n rows: ``score``; ``anomaly``, whether it is above the
          threshold; ``percentile``, per cent of normal scores below it; ``reason``, why a row has none of these
          (``filtered``, or the reason of a dead letter), else null; ``error``, a sentence about it.

        Raises:
          UserError: no dataframe, a column that is missing or has another type.
        """
        rows = self._events(events)
        n, preprocessor = rows.num_rows, self.use_case.preprocessor()
        history = preprocessor.history()
        score = np.full(n, np.nan, np.float32)
        reason = np.full(n, FILTERED, object)
        error = np.full(n, None, object)
        for start in range(0, n, _BLOCK_ROWS):
            done = preprocessor.apply(rows.slice(start, _BLOCK_ROWS), history)
            x = np.stack([done.rows[name].to_numpy() for name in preprocessor.features]).T
            score[start + done.kept] = self._model.score(x)
            reason[start + done.kept] = None
            reason[start + done.errors.rows] = done.errors.reasons
            error[start + done.errors.rows] = done.errors.errors
        left_out = np.array([why is not None for why in reason], np.bool_)
        scored = pa.table(
            {
                "score": pa.array(score, mask=left_out),
                "anomaly": pa.array(score > self.manifest.threshold, mask=left_out),
                "percentile": pa.array(self.manifest.percentile(score), mask=left_out),
                "reason": pa.array(reason, pa.string()),
                "error": pa.array(error, pa.string()),
            }
        )
        return _like(events, scored)

    def _events(self, events: Any) -> pa.RecordBatch:
        """The fields that the SQL reads, as a decoded block has them."""
        where, schema = "events", self.use_case.schema
        wanted = arrow_schema(schema, self.use_case.preprocessor().input_columns)
        kind = _kind(events)
        there = events.schema.names if kind == "pyarrow" else [str(name) for name in events.columns]
        fit = Fit(where, there, schema, wanted)
        names = list(fit.columns.values())
        try:
            if kind == "pyarrow":
                table = pa.table(events.select(names))
            elif kind == "pandas":
                frame = events[names]
                zoned = [name for name in frame if getattr(frame[name].dtype, "tz", None) is not None]
                table = pa.table(frame.assign(**{name: frame[name].dt.tz_convert(None) for name in zoned}))
            else:
                table = pa.table(events[names])
        except pa.ArrowException as error:  # quotes a value, and then names the column
            which = one_line(error.args[-1], 200) if len(error.args) > 1 else "no type for them all"
            raise UserError(f"{where}: a column has values of several types ({which}); give it one") from None
        columns = {
            column: _plain(table[column].combine_chunks(), wanted.field(name)) for name, column in fit.columns.items()
        }
        return fit.rows(columns, table.num_rows)


def _kind(events: Any) -> str:
    kind = type(events).__module__.partition(".")[0]
    if kind not in ("pandas", "polars", "pyarrow") or not hasattr(events, "columns"):
        raise UserError(f"score takes a DataFrame of pandas or polars or a pyarrow table, not {type(events).__name__}")
    return kind


def _plain(array: pa.Array, field: pa.Field) -> pa.Array:
    """What dataframes write otherwise than the codec: a missing number as null, text of other widths."""
    if pa.types.is_floating(field.type) and not field.nullable and array.null_count:
        return array.cast(field.type).fill_null(np.nan)  # the row gets the reason not_finite, as NaN does
    if pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type):
        return array.cast(pa.string())
    return array


def _like(events: Any, table: pa.Table) -> Any:
    """The table as a dataframe of the same library."""
    kind = _kind(events)
    if kind == "pandas":
        frame = table.to_pandas()
        frame.index = events.index
        return frame
    if kind == "polars":
        return pl.from_arrow(table)
    return table
