"""How good scores are, judged by labels."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs.errors import UserError

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Evaluation:
    """Scores of labelled held-out rows against their labels; None where a class of rows is missing."""

    rows: int
    failures: int  # rows labelled as failures
    roc_auc: float | None  # probability that a failure scores above a normal row
    average_precision: float | None  # area under precision over recall
    recall: float | None  # share of failure rows above the threshold
    precision: float | None  # share of failure rows among those above the threshold; None: nothing is above it
    false_alert_share: float | None  # share of normal rows above the threshold; the alert budget, as it turned out
    recall_by_kind: Mapping[str, float]  # kind of failure to the share of its rows above the threshold
    keys_caught_by_kind: Mapping[str, float]  # kind to the share of failed keys (cars) with a failure row above it

    def to_json(self) -> dict[str, Any]:
        """The same as JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class AtBudget:
    """What another alert budget would find of the labelled held-out rows."""

    budget: float  # share of normal rows, 0..1
    threshold: float
    recall: float  # share of failure rows above the threshold
    precision: float | None  # share of failure rows among those above it; None: nothing is
    false_alert_share: float  # share of normal rows above it


def at_budgets(
    budgets: Iterable[float], threshold: Callable[[float], float], scores: NDArray[Any], failed: Bools
) -> tuple[AtBudget, ...]:
    """Judges several alert budgets; none where a class of rows is missing.

    Args:
      threshold: of a budget.
      scores, failed: of the test rows, [n].
    """
    if not failed.any() or failed.all():
        return ()
    found = []
    for budget in sorted(budgets):
        limit = threshold(budget)
        alerts = scores > limit
        precision = float(failed[alerts].mean()) if alerts.any() else None
        found.append(AtBudget(budget, limit, float(alerts[failed].mean()), precision, float(alerts[~failed].mean())))
    return tuple(found)


def evaluate(scores: NDArray[Any], threshold: float, failed: Bools, kinds: pa.Array, keys: pa.Array) -> Evaluation:
    """Judges scores.

    Args:
      scores: float [n].
      threshold: rows with a score above it are alerts.
      failed: [n], true for rows labelled as failures.
      kinds: string or dictionary of it [n], what the label says of a failure: its kind, or just "true".
      keys: string, or a number that stands for it, [n], whose row it is.
    """
    alerts = scores > threshold
    kinds = kinds if isinstance(kinds, pa.DictionaryArray) else kinds.dictionary_encode()
    kind_codes, key_codes, names = kinds.indices.to_numpy(), _codes(keys), kinds.dictionary.to_pylist()
    recall, caught = {}, {}
    for code in sorted(np.unique(kind_codes[failed]).tolist(), key=names.__getitem__):
        kind, rows = names[code], failed & (kind_codes == code)
        recall[kind] = float(alerts[rows].mean())
        caught[kind] = len(np.unique(key_codes[rows & alerts])) / len(np.unique(key_codes[rows]))
    any_failed, any_normal = bool(failed.any()), bool((~failed).any())
    both = any_failed and any_normal
    return Evaluation(
        rows=len(scores),
        failures=int(failed.sum()),
        roc_auc=roc_auc(scores, failed) if both else None,
        average_precision=average_precision(scores, failed) if both else None,
        recall=float(alerts[failed].mean()) if any_failed else None,
        precision=float(failed[alerts].mean()) if any_failed and alerts.any() else None,
        false_alert_share=float(alerts[~failed].mean()) if any_normal else None,
        recall_by_kind=recall,
        keys_caught_by_kind=caught,
    )


def roc_auc(scores: NDArray[Any], failed: Bools) -> float:
    """Area under the ROC curve; ties count half. Both classes must be there."""
    return float(_metrics().roc_auc_score(failed, _ranks(scores)))


def average_precision(scores: NDArray[Any], failed: Bools) -> float:
    """Sum of precision times the step of recall over falling thresholds; rows with one score fall together."""
    return float(_metrics().average_precision_score(failed, _ranks(scores)))


def _metrics() -> Any:
    """scikit-learn's; it takes a second to import, and jobs that score have none."""
    try:
        return importlib.import_module("sklearn.metrics")
    except ImportError as error:
        raise UserError("to judge scores by labels needs scikit-learn; run pip install 'highbeam[train]'") from error


def _ranks(scores: NDArray[Any]) -> NDArray[np.int64]:
    """The scores' places among them: finite, whatever they are."""
    return np.asarray(np.unique(scores, return_inverse=True)[1], np.int64)


def _codes(keys: pa.Array) -> NDArray[np.int64]:
    codes = keys.dictionary_encode().indices
    return np.asarray(codes.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)
