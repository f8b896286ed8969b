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

from beam_jobs import metrics
from beam_jobs.block import SOURCE_PREFIX, Block, millis_of, take
from beam_jobs.isolate import Isolate
from beam_jobs.origin import origin
from beam_jobs.steps.alerting.budget import AlertBudget
from beam_jobs.steps.alerting.cooldown import CoolDown, SharedCoolDown
from beam_jobs.steps.alerting.judge import ByBudget, ByThreshold, Judge, Tells, all_told
from model.kinds.protocol import Scores
from model.loaded import LoadedModel
from model.registry import ModelVersion

_LOGGER = logging.getLogger(__name__)

OVER_BUDGET = metrics.Metric(
    "alerts_over_budget",
    "scored records above the threshold for which the alert budget had nothing left; no alerts",
    report="alerts_over_budget",
    row={"score": "above the threshold, over the alert budget"},
    optional=True,
)

SUPPRESSED = metrics.Metric(
    "alerts_suppressed",
    "alerts within the cool-down of their key, not written",
    report="alerts_suppressed",
    row={"score": "alerts not written: within the cool-down of their key"},
    optional=True,
)

SCORE = "score"  # float32
THRESHOLD = "threshold"  # float32, of the version that made the score, or the budget's
ALERT = "alert"  # bool, the score is above the threshold, and the budget has an alert left for it
TOLD = "told"  # bool, it is an alert, and no cool-down keeps it back
SEVERITY = "severity"  # string, one of judge.SEVERITIES; null where it is no alert
RECENT_PERCENTILE = "recent_percentile"  # float64, per cent of the scores of late below; null where nobody knows
PERCENTILE = "percentile"  # float32, per cent of normal scores below; NaN where the score is no alert
MODEL = "model"  # dictionary<string>
VERSION = "version"  # dictionary<string>
EXPECTED = "expected"  # list<float32>[F], what the model expected, physical units; NaN where it can't say
FEATURE_ERROR = "feature_error"  # list<float32>[F], each feature's part of the score
RARITY = "rarity"  # list<float32>[F], share of normal rows that show as much; there only if the kind says so
# The last three are null where the score is no alert, and where the model gives no reasons.


@dataclass(frozen=True)
class Judging:
    """A model, and what decides which of its scores are alerts."""

    model: LoadedModel
    judge: Judge
    key: str  # column of the events' key
    event_time: str
    cooldown: CoolDown | None


def judge_of(model: LoadedModel, budget: AlertBudget | None) -> Judge:
    """What decides about a version's scores: its threshold, or a budget."""
    described = model.manifest
    if budget is None:
        return ByThreshold(described.threshold, described.score_quantiles)
    return ByBudget(budget, described.threshold, described.score_quantiles)


class BlockModelHandler(ModelHandler[Block, Block, Judging]):
    """Scores features blocks with a version of a registered model.

    The batch that RunInference passes on is the block itself; the result is the same block with the columns named
    above. The version's name travels with the loaded object, so that no score can carry the name of another one, and
    so does what decides about alerts: there is one in a process.

    Args:
      budget: of alerts; None: the version's threshold decides.
      key, event_time: columns of the events, for a budget by keys and a cool-down.
      cooldown: of alerts; what it keeps back is counted.
    """

    def __init__(
        self,
        version: ModelVersion,
        features: Sequence[str],
        budget: AlertBudget | None = None,
        key: str = "",
        event_time: str = "",
        cooldown: SharedCoolDown | None = None,
    ) -> None:
        super().__init__()
        self._version = version
        self._features = tuple(features)
        self._budget = budget
        self._key = key
        self._event_time = event_time
        self._cooldown = cooldown

    def load_model(self) -> Judging:
        model = LoadedModel.load(self._version.path, self._version.digest)
        cooldown = None if self._cooldown is None else self._cooldown.here()
        return Judging(model, judge_of(model, self._budget), self._key, self._event_time, cooldown)

    def run_inference(
        self, batch: Block, model: Judging, inference_args: dict[str, Any] | None = None
    ) -> Iterable[Block]:
        tells = all_told if model.cooldown is None else _tells(batch, model.key, model.event_time, model.cooldown)
        return [score_block(batch, model.model, self._features, model.judge, model.key, tells)]

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


def score_block(
    block: Block,
    model: LoadedModel,
    features: Sequence[str],
    judge: Judge | None = None,
    key: str = "",
    tells: Tells = all_told,
) -> Block:
    """Adds what is named above to a features block.

    Rows that make the model raise come back with NaN scores, which the next step turns into dead letters.

    Args:
      judge: what decides which scores are alerts; None: the version's threshold.
      key: column of the events' key, for a judge that asks for it.
      tells: asked which alerts are told.

    Raises:
      RetryError, MemoryError, OSError: what befell the model has nothing to do with the rows.
    """
    described, zeros, n = model.manifest, _zeros(tuple(features)), block.num_rows
    parts, failed = Isolate(lambda part: model.score(feature_matrix(part, features)), zeros)(block)
    score = np.full(n, np.nan, np.float32)
    for part in parts:
        score[part.rows] = part.result
    judged = (judge or judge_of(model, None))(score, _times_ms(block), partial(block.column, key), tells)
    if judged.over:
        metrics.inc(OVER_BUDGET, judged.over)
    metrics.inc(SUPPRESSED, len(judged.told) - int(judged.told.sum()))

    # Few: only alerts name their percentile and their reasons.
    rows = np.flatnonzero(judged.alert)
    explained = Isolate(lambda part: model.explain(feature_matrix(part, features)), zeros)
    why, unexplained = explained(take(block.select(list(features)), rows))
    alert = judged.alert.copy()
    alert[rows[unexplained.rows]] = False
    score[rows[unexplained.rows]] = np.nan
    for errors in (failed, unexplained):
        if len(errors):
            _LOGGER.error("model %s failed on %d of %d rows: %s", described.version, len(errors), n, errors.errors[0])

    percentiles = np.full(n, np.nan, np.float32)
    percentiles[alert] = described.percentile(score[alert])
    first, among = pa.array(np.zeros(n, np.int32)), alert[rows]
    told = np.zeros(n, np.bool_)
    told[rows] = judged.told & among
    listed = partial(_lists, anomaly=alert, width=len(features))
    added = {
        SCORE: pa.array(score),
        THRESHOLD: pa.array(judged.threshold),
        ALERT: pa.array(alert),
        TOLD: pa.array(told),
        SEVERITY: _at(alert, judged.severity.filter(pa.array(among))),
        RECENT_PERCENTILE: _at(alert, pa.array(judged.recent[among], from_pandas=True)),
        PERCENTILE: pa.array(percentiles),
        MODEL: pa.DictionaryArray.from_arrays(first, pa.array([described.name])),
        VERSION: pa.DictionaryArray.from_arrays(first, pa.array([described.version])),
        EXPECTED: listed([_expected(part.result) for part in why]),
        FEATURE_ERROR: listed([part.result.error for part in why]),
    }
    rarity = [part.result.rarity for part in why]
    if any(each is not None for each in rarity):
        added[RARITY] = listed(rarity)
    return pa.RecordBatch.from_arrays([*block.columns, *added.values()], names=[*block.schema.names, *added])


def _tells(block: Block, key: str, event_time: str, cooldown: CoolDown) -> Tells:
    """Asks a cool-down about rows of a features block."""
    named = [name for name in block.schema.names if name in (key, event_time) or name.startswith(SOURCE_PREFIX)]
    wanted = block.select(named)

    def tells(rows: NDArray[np.intp], levels: NDArray[np.int64]) -> NDArray[np.bool_]:
        asked = take(wanted, rows)
        keys = asked.column(key).cast(pa.string())
        return cooldown.passing(keys, origin(asked).ids(), millis_of(asked.column(event_time)), levels)

    return tells


def _times_ms(block: Block) -> NDArray[np.int64]:
    """Of the records, epoch milliseconds [n]; 0 where rows come from no record."""
    name = f"{SOURCE_PREFIX}timestamp"
    if name not in block.schema.names:
        return np.zeros(block.num_rows, np.int64)
    return np.asarray(block.column(name).view(pa.int64()).to_numpy(zero_copy_only=False))


def _at(alert: NDArray[np.bool_], values: pa.Array) -> pa.Array:
    """``values`` at the places that are true, [n], null elsewhere."""
    place = np.cumsum(alert) - 1
    return values.take(pa.array(place, pa.int64(), mask=~alert))


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
