"""A RunInference handler whose batch is a block: one graph call a block, no Python per row."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
from apache_beam.ml.inference.base import ModelHandler
from numpy.typing import NDArray

from beam_jobs.block import Block
from beam_jobs.isolate import Isolate
from model.kinds.protocol import Scores
from model.loaded import LoadedModel
from model.registry import ModelVersion

_LOGGER = logging.getLogger(__name__)

SCORE = "score"  # float32
THRESHOLD = "threshold"  # float32, of the version that made the score
PERCENTILE = "percentile"  # float32, per cent of normal scores below; NaN where the score is no anomaly
MODEL = "model"  # dictionary<string>
VERSION = "version"  # dictionary<string>
EXPECTED = "expected"  # list<float32>[F], what the model expected, physical units; NaN where it can't say
FEATURE_ERROR = "feature_error"  # list<float32>[F], each feature's part of the score
RARITY = "rarity"  # list<float32>[F], share of normal rows that show as much; there only if the kind says so
# They are null where the score is no anomaly, and where the model gives no reasons.


class BlockModelHandler(ModelHandler[Block, Block, LoadedModel]):
    """Scores features blocks with a version of a registered model.

    The batch that RunInference passes on is the block itself; the result is the same block with the columns named
    above. The version's name travels with the loaded object, so that no score can carry the name of another one.
    """

    def __init__(self, version: ModelVersion, features: Sequence[str]) -> None:
        super().__init__()
        self._version = version
        self._features = tuple(features)

    def load_model(self) -> LoadedModel:
        return LoadedModel.load(self._version.path, self._version.digest)

    def run_inference(
        self, batch: Block, model: LoadedModel, inference_args: dict[str, Any] | None = None
    ) -> Iterable[Block]:
        return [score_block(batch, model, self._features)]

    def get_num_bytes(self, batch: Block) -> int:
        return int(batch.nbytes)  # Beam's default pickles the batch to measure it

    def should_skip_batching(self) -> bool:
        return True  # blocks are the batches

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        return {}

    def get_metrics_namespace(self) -> str:
        return "highbeam"


def feature_matrix(block: Block, features: Sequence[str]) -> NDArray[np.float32]:
    """The features of a block as float32 [n, F] in the model's order; columns are contiguous, as in the block.

    Nothing is copied where they still lie one behind the other in one buffer, as the preprocessing leaves them.
    """
    n, columns = block.num_rows, [block.column(name) for name in features]
    buffers = [column.buffers()[1] for column in columns]
    if n and all(
        column.type == pa.float32() and buffer.address == buffers[0].address and column.offset == first + i * n
        for first in [columns[0].offset]
        for i, (column, buffer) in enumerate(zip(columns, buffers, strict=True))
    ):
        flat = np.frombuffer(buffers[0], np.float32, len(columns) * n, columns[0].offset * 4)
        return flat.reshape(len(columns), n).T
    matrix = np.empty((len(features), n), np.float32)
    for row, column in zip(matrix, columns, strict=True):
        row[:] = column.to_numpy(zero_copy_only=False)
    return matrix.T


@dataclass(frozen=True)
class _Part:
    """What the model says of some rows: a score of each, and why of those above the threshold."""

    score: NDArray[np.float32]  # [n]
    anomalies: NDArray[np.int64]  # rows
    why: Scores  # of the anomalies


def _score(block: Block, model: LoadedModel, features: Sequence[str]) -> _Part:
    x = feature_matrix(block, features)
    score = model.score(x)
    anomalies = np.flatnonzero(score > model.manifest.threshold)
    return _Part(score, anomalies, model.explain(x[anomalies]))


def score_block(block: Block, model: LoadedModel, features: Sequence[str]) -> Block:
    """Adds score, threshold, percentile, model, version, expected and feature_error to a features block.

    Rows that make the model raise come back with NaN scores, which the next step turns into dead letters.

    Raises:
      RetryError, MemoryError, OSError: what befell the model has nothing to do with the rows.
    """
    n = block.num_rows
    parts, failed = Isolate(lambda part: _score(part, model, features), _zeros(tuple(features)))(block)
    if len(failed):
        _LOGGER.error("model %s failed on %d of %d rows: %s", model.manifest.version, len(failed), n, failed.errors[0])
    score, percentiles = np.full((2, n), np.nan, np.float32)
    anomaly = np.zeros(n, np.bool_)
    for part in parts:
        score[part.rows] = part.result.score
        anomaly[part.rows[part.result.anomalies]] = True
    # Few: only alerts name their percentile and their reasons.
    percentiles[anomaly] = model.manifest.percentile(score[anomaly])
    first = pa.array(np.zeros(n, np.int32))
    listed = partial(_lists, anomaly=anomaly, width=len(features))
    added = {
        SCORE: pa.array(score),
        THRESHOLD: pa.array(np.full(n, model.manifest.threshold, np.float32)),
        PERCENTILE: pa.array(percentiles),
        MODEL: pa.DictionaryArray.from_arrays(first, pa.array([model.manifest.name])),
        VERSION: pa.DictionaryArray.from_arrays(first, pa.array([model.manifest.version])),
        EXPECTED: listed([_expected(part.result.why) for part in parts]),
        FEATURE_ERROR: listed([part.result.why.error for part in parts]),
    }
    rarity = [part.result.why.rarity for part in parts]
    if any(each is not None for each in rarity):
        added[RARITY] = listed(rarity)
    return pa.RecordBatch.from_arrays([*block.columns, *added.values()], names=[*block.schema.names, *added])


def _expected(why: Scores) -> NDArray[np.float32] | None:
    """[n, F]; None: the model gives no reasons."""
    if why.error is None:
        return None
    return np.full_like(why.error, np.nan) if why.expected is None else why.expected


@cache
def _zeros(features: tuple[str, ...]) -> Block:
    """A row that a model has scored when it was loaded."""
    return pa.record_batch({name: np.zeros(1, np.float32) for name in features})


def _lists(parts: Sequence[NDArray[np.float32] | None], anomaly: NDArray[np.bool_], width: int) -> pa.Array:
    """list<float32> [n]: the next ``width`` values of ``parts`` for an anomaly, else null; without values, all null."""
    given = [part.reshape(-1) for part in parts if part is not None]
    if len(given) < len(parts):
        return pa.nulls(len(anomaly), pa.list_(pa.float32()))
    offsets = np.zeros(len(anomaly) + 1, np.int32)
    np.cumsum(anomaly, out=offsets[1:], dtype=np.int32)
    values = np.concatenate(given) if given else np.zeros(0, np.float32)
    return pa.ListArray.from_arrays(pa.array(offsets * width), pa.array(values, pa.float32()), mask=pa.array(~anomaly))
