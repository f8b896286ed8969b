"""A RunInference handler whose batch is a block: one graph call a block, no Python per row."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from apache_beam.ml.inference.base import ModelHandler
from numpy.typing import NDArray

from beam_jobs.block import Block
from beam_jobs.dead_letters import isolate
from model.loaded import LoadedModel, Scores
from model.registry import ModelVersion

_LOGGER = logging.getLogger(__name__)

SCORE = "score"  # float32
THRESHOLD = "threshold"  # float32, of the version that made the score
PERCENTILE = "percentile"  # float32, per cent of normal scores below; NaN where the score is no anomaly
MODEL = "model"  # dictionary<string>
VERSION = "version"  # dictionary<string>
EXPECTED = "expected"  # fixed_size_list<float32>[F], what the model expected, physical units
FEATURE_ERROR = "feature_error"  # fixed_size_list<float32>[F], each feature's part of the score


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
        return LoadedModel.load(self._version.path)

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
    """The features of a block as float32 [n, F], in the model's order."""
    matrix = np.empty((block.num_rows, len(features)), np.float32)
    for i, name in enumerate(features):
        matrix[:, i] = block.column(name).to_numpy(zero_copy_only=False)
    return matrix


def _join(
    parts: Sequence[tuple[int, Block, Scores]], n: int, width: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Score [n], expected [n, width], error [n, width] of a block that was scored in parts; NaN where no part is."""
    if len(parts) == 1 and parts[0][1].num_rows == n:
        scores = parts[0][2]
        return scores.score, scores.expected, scores.error
    score = np.full(n, np.nan, np.float32)
    expected, error = np.full((2, n, width), np.nan, np.float32)
    for start, part, scores in parts:
        rows = slice(start, start + part.num_rows)
        score[rows], expected[rows], error[rows] = scores.score, scores.expected, scores.error
    return score, expected, error


def score_block(block: Block, model: LoadedModel, features: Sequence[str]) -> Block:
    """Adds score, threshold, percentile, model, version, expected and feature_error to a features block.

    Rows that make the model raise come back with NaN scores, which the next step turns into dead letters.
    """
    n, width = block.num_rows, len(features)
    parts, failed = isolate(lambda part: model.score(feature_matrix(part, features)), block)
    if len(failed):
        _LOGGER.error("model %s failed on %d of %d rows: %s", model.manifest.version, len(failed), n, failed.errors[0])
    score, expected, error = _join(parts, n, width)
    percentiles = np.full(n, np.nan, np.float32)
    anomalies = np.flatnonzero(score > model.manifest.threshold)  # few: only alerts name their percentile
    percentiles[anomalies] = model.manifest.percentile(score[anomalies])
    constant = pa.array(np.zeros(n, np.int32))
    added = {
        SCORE: pa.array(score),
        THRESHOLD: pa.array(np.full(n, model.manifest.threshold, np.float32)),
        PERCENTILE: pa.array(percentiles),
        MODEL: pa.DictionaryArray.from_arrays(constant, pa.array([model.manifest.name])),
        VERSION: pa.DictionaryArray.from_arrays(constant, pa.array([model.manifest.version])),
        EXPECTED: pa.FixedSizeListArray.from_arrays(pa.array(expected.reshape(-1)), width),
        FEATURE_ERROR: pa.FixedSizeListArray.from_arrays(pa.array(error.reshape(-1)), width),
    }
    return pa.RecordBatch.from_arrays([*block.columns, *added.values()], names=[*block.schema.names, *added])
