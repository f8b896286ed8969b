"""What ``model.evaluate`` found, as tables for a terminal and as a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from beam_jobs.errors import UserError
from beam_jobs.page import page, paragraph, table
from model.backtest.rounds import DAY_MS, Judgement, Split
from model.outliers.groups import iso

_FIGURES = {
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "key_precision": "precision of the top keys",
}


@dataclass(frozen=True)
class Result:
    """A round: what it was of, and what came of it."""

    start_ms: int
    split: Split
    trained_on: int  # rows
    judged: Judgement  # mean of the trainings
    each: tuple[Judgement, ...]  # one a seed


def figures_table(found: Sequence[Result], whole: Judgement, top: int) -> list[list[str]]:
    """Rows of text, the header first: a round a row, then their mean."""
    header = ["from", "trained on", "rows", "failures", "ROC AUC", "average precision", f"precision@{top}"]
    rows = [[_day(result), f"{result.trained_on:,}", *_counts(result.judged), *_cells(result)] for result in found]
    last = [f"{value:.4f}" for value in (whole.roc_auc, whole.average_precision, whole.key_precision)]
    return [header, *rows, ["mean", "", *_counts(whole), *last]]


def kinds_table(whole: Judgement) -> list[list[str]]:
    """Rows of text, the header first: a kind of failure a row."""
    rows = [[kind, f"{whole.recall[kind]:.3f}", f"{whole.precision[kind]:.3f}"] for kind in whole.recall]
    return [["kind of failure", "rows found", "alerts that are right"], *rows]


def write_page(path: Path, found: Sequence[Result], whole: Judgement, top: int, use_case: str) -> None:
    """One HTML file with everything in it; UserError if it can't be written."""
    split, image = found[0].split, base64.b64encode(_picture(found, whole)).decode()
    body = [
        paragraph(
            f"{len(found)} round{'s'[: len(found) != 1]}: trained on {split.train} days, {split.delay} days until "
            f"labels are known, judged by {split.test} days. Keys that were known by then to have failed are left out. "
            f"precision@{top}: each day the {top} keys with the highest scores, how many of them have a failure."
        ),
        table(figures_table(found, whole, top)),
        f"<img alt='figures by round, failures found by kind' src='data:image/png;base64,{image}'>",
        "<h2>Within the alert budget</h2>",
        table(kinds_table(whole)),
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(f"{use_case}, judged by its past", "".join(body)), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--html {path}: {error}; name a file in a folder you may write to") from error


def _day(result: Result) -> str:
    return iso(result.start_ms + (result.split.train + result.split.delay) * DAY_MS)[:10]


def _counts(judged: Judgement) -> list[str]:
    return [f"{judged.rows:,}", f"{judged.failures:,}"]


def _cells(result: Result) -> list[str]:
    """The mean of the trainings, and their range where there are some."""
    cells = []
    for name in _FIGURES:
        values = [getattr(one, name) for one in result.each]
        low, high = f"{min(values):.4f}", f"{max(values):.4f}"
        middle = f"{getattr(result.judged, name):.4f}"
        cells.append(middle if low == high else f"{middle} ({low} to {high})")
    return cells


def _picture(found: Sequence[Result], whole: Judgement) -> bytes:
    # Imported here: it takes a second, and only the page needs it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    days = [_day(result) for result in found]
    for name, label in _FIGURES.items():
        left.plot(days, [getattr(result.judged, name) for result in found], "o-", label=label)
    left.set(title="Rounds", ylim=(0, 1.02))
    left.legend()
    kinds = [kind[:40].replace("$", r"\$") for kind in whole.recall]
    right.barh(kinds, [100 * share for share in whole.recall.values()], color="#4878a8")
    right.set(title="Failure rows within the alert budget, by kind", xlabel="%", xlim=(0, 100))
    file = io.BytesIO()
    figure.savefig(file, dpi=90)
    return file.getvalue()
