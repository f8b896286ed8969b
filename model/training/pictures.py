"""The picture of a training: loss, scores of the held-out rows, deviation by feature."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.training.evaluate import AtBudget

_NORMAL, _FAILED, _LIMIT, _CUT = "#4878a8", "#d1603d", "#222222", "#7a3e9d"
_MOST_FEATURES = 40  # in the picture: those that deviate most


def draw(
    path: Path,
    loss: Sequence[float],
    validation_loss: Sequence[float],
    scores: NDArray[np.float32],
    failed: NDArray[np.bool_],
    lines: Mapping[str, float],
    deviation: Mapping[bool, NDArray[np.float64]],
    features: Sequence[str],
    at_budgets: Sequence[AtBudget] = (),
    budget: float = 0.0,
) -> None:
    """Writes a PNG with what there is: a model may have no epochs, or give no reasons.

    Args:
      loss, validation_loss: per epoch.
      scores, failed: of the test rows, [n].
      lines: label to the score where it is drawn; the first is the threshold, the next the cut.
      deviation: failed or not to the root mean error of such test rows, [F], in spreads.
      at_budgets: what several alert budgets find; none without labels.
      budget: that of the model.
    """
    # Imported here: it takes a second, and only the report needs it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 10), layout="constrained")
    FigureCanvasAgg(figure)
    first = ["histogram", *(["recall"] if at_budgets else []), *(["loss"] if loss else [])]
    layout: list[Any] = [first, ["features"] * len(first)] if deviation else [first]
    panels = figure.subplot_mosaic(layout)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters the font does not have
        if loss:
            _loss(panels["loss"], loss, validation_loss)
        _histogram(panels["histogram"], scores, failed, lines)
        if at_budgets:
            _recall(panels["recall"], at_budgets, budget)
        if deviation:
            _deviation(panels["features"], deviation, features)
        figure.savefig(path, dpi=90)


def _loss(panel: Any, loss: Sequence[float], validation_loss: Sequence[float]) -> None:
    panel.plot(np.arange(1, len(loss) + 1), loss, color=_NORMAL, label="training (with noise)")
    epochs = np.arange(1, len(validation_loss) + 1)
    panel.plot(epochs, validation_loss, color=_FAILED, label="validation")
    panel.set(title="Loss", xlabel="epoch", ylabel="mean squared error (spreads²)", yscale="log")
    panel.legend()


def _histogram(panel: Any, scores: NDArray[np.float32], failed: NDArray[np.bool_], lines: Mapping[str, float]) -> None:
    shown = np.clip(np.nan_to_num(scores, nan=1e-6), 1e-6, 1e30)
    bins = np.geomspace(shown.min(), max(shown.max(), *lines.values()) * 1.1, 80)
    for rows, color, label in ((~failed, _NORMAL, "normal"), (failed, _FAILED, "labelled as failure")):
        if rows.any():
            panel.hist(shown[rows], bins=bins.tolist(), color=color, alpha=0.7, label=f"{label} ({rows.sum():,})")
    for (label, score), color, style in zip(lines.items(), (_LIMIT, _CUT), ("--", ":"), strict=False):
        panel.axvline(score, color=color, linestyle=style, label=label)
    panel.set(title="Scores of held-out rows", xlabel="score", ylabel="rows", xscale="log", yscale="log")
    panel.legend()


def _recall(panel: Any, at_budgets: Sequence[AtBudget], budget: float) -> None:
    budgets = [each.budget for each in at_budgets]
    panel.plot(budgets, [each.recall * 100 for each in at_budgets], "o-", color=_FAILED, label="failure rows found")
    right = [np.nan if each.precision is None else each.precision * 100 for each in at_budgets]
    panel.plot(budgets, right, "o--", color=_NORMAL, label="alerts that are right")
    panel.axvline(budget, color=_LIMIT, linestyle="--", label=f"this version ({budget:g})")
    panel.set(title="What an alert budget finds", xlabel="alert budget", ylabel="%", xscale="log", ylim=(-3, 103))
    panel.legend()


def _deviation(panel: Any, deviation: Mapping[bool, NDArray[np.float64]], features: Sequence[str]) -> None:
    largest = np.max(list(deviation.values()), axis=0)
    chosen = np.sort(np.argsort(-largest, kind="stable")[:_MOST_FEATURES])
    position = np.arange(len(chosen))
    for offset, failed, color, label in (
        (-0.2, False, _NORMAL, "normal"),
        (0.2, True, _FAILED, "labelled as failure"),
    ):
        if failed in deviation:
            panel.bar(position + offset, deviation[failed][chosen], width=0.4, color=color, label=label)
    more = f" ({len(chosen)} of {len(features)} features)" if len(chosen) < len(features) else ""
    title = f"Deviation by feature, held-out rows{more}"
    panel.set(title=title, ylabel="root mean square (spreads)", yscale="log")
    names = [features[j][:40].replace("$", r"\$") for j in chosen]  # a dollar sign would begin a formula
    panel.set_xticks(position, names, rotation=45, ha="right")
    panel.legend()
