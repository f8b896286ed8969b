"""The report of a training: one picture, and one page of HTML that carries it."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.evaluate import Evaluation
from model.manifest import Manifest

_NORMAL, _FAILED, _LIMIT = "#4878a8", "#d1603d", "#222222"


@dataclass(frozen=True)
class ReportData:
    """What the report shows beside the manifest."""

    loss: Sequence[float]  # per epoch
    validation_loss: Sequence[float]  # per epoch
    scores: NDArray[np.float32]  # [n], of the test rows
    failed: NDArray[np.bool_]  # [n]
    deviation: Mapping[bool, NDArray[np.float64]]  # failed or not to [F]: root mean error of such test rows, in spreads
    evaluations: Mapping[str, Evaluation]  # net to how it did on the test rows


def write_report(folder: Path, manifest: Manifest, data: ReportData) -> Path:
    """Writes ``report.png`` and ``report.html`` (one file, nothing to load) into ``folder``; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / "report.png"
    _draw(picture, manifest, data)
    page = folder / "report.html"
    page.write_text(_page(manifest, data, picture.read_bytes()), encoding="utf-8")
    return page


def metrics_table(evaluations: Mapping[str, Evaluation]) -> list[list[str]]:
    """Rows of text, the header first: one metric a row, one net a column."""
    nets = list(evaluations.values())
    rows = [
        ["", *evaluations],
        ["ROC AUC", *(_figure(e.roc_auc, 5) for e in nets)],
        ["average precision", *(_figure(e.average_precision, 5) for e in nets)],
        ["recall at the alert budget", *(_figure(e.recall) for e in nets)],
        ["precision at the alert budget", *(_figure(e.precision) for e in nets)],
        ["false alerts among normal rows", *(_figure(e.false_alert_share, 6) for e in nets)],
    ]
    for kind in nets[0].recall_by_kind:
        rows.append([f"recall: {kind}", *(_figure(e.recall_by_kind[kind]) for e in nets)])
        rows.append([f"failed keys caught: {kind}", *(_figure(e.keys_caught_by_kind[kind]) for e in nets)])
    return rows


def _figure(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _draw(path: Path, manifest: Manifest, data: ReportData) -> None:
    # Imported here: it takes a second, and only the report needs it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 10), layout="constrained")
    FigureCanvasAgg(figure)
    loss, histogram, features = figure.subplot_mosaic([["loss", "histogram"], ["features", "features"]]).values()

    epochs = np.arange(1, len(data.loss) + 1)
    loss.plot(epochs, data.loss, color=_NORMAL, label="training (with noise)")
    loss.plot(epochs, data.validation_loss, color=_FAILED, label="validation")
    loss.set(title="Loss", xlabel="epoch", ylabel="mean squared error (standard deviations²)", yscale="log")
    loss.legend()

    scores = np.maximum(data.scores, 1e-6)
    bins = np.geomspace(scores.min(), max(scores.max(), manifest.threshold) * 1.1, 80)
    for rows, color, label in ((~data.failed, _NORMAL, "normal"), (data.failed, _FAILED, "labelled as failure")):
        if rows.any():
            histogram.hist(scores[rows], bins=bins.tolist(), color=color, alpha=0.7, label=f"{label} ({rows.sum():,})")
    text = f"threshold {manifest.threshold:.3g} (alert budget {manifest.alert_budget:g})"
    histogram.axvline(manifest.threshold, color=_LIMIT, linestyle="--", label=text)
    histogram.set(title="Scores of held-out rows", xlabel="score", ylabel="rows", xscale="log", yscale="log")
    histogram.legend()

    position = np.arange(len(manifest.features))
    for offset, failed, color, label in (
        (-0.2, False, _NORMAL, "normal"),
        (0.2, True, _FAILED, "labelled as failure"),
    ):
        if failed in data.deviation:
            features.bar(position + offset, data.deviation[failed], width=0.4, color=color, label=label)
    features.set(title="Deviation by feature, held-out rows", ylabel="root mean square (spreads)", yscale="log")
    features.set_xticks(position, manifest.features, rotation=45, ha="right")
    features.legend()
    figure.savefig(path, dpi=90)


def _page(manifest: Manifest, data: ReportData, picture: bytes) -> str:
    summary: dict[str, Any] = {
        "version": manifest.version,
        "created": manifest.created_at,
        "use case": manifest.use_case,
        "threshold": f"{manifest.threshold:.6g}",
        "alert budget": f"{manifest.alert_budget:g}",
        "rows read": f"{manifest.data.rows:,}",
        "rows trained on": f"{manifest.data.training_rows:,}",
        "event times": f"{manifest.data.first_event_time} to {manifest.data.last_event_time}",
        "files": f"{manifest.data.files:,} of {manifest.data.source}",
        "preprocessing": manifest.preprocessing_fingerprint,
        "libraries": ", ".join(f"{name} {version}" for name, version in manifest.libraries.items()),
    }
    title = html.escape(f"{manifest.name} {manifest.version}")
    image = base64.b64encode(picture).decode()
    parts = [
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{title}</title><style>",
        "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1100px;padding:0 1em}",
        "table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:.3em .7em;text-align:left}",
        "img{max-width:100%}</style></head><body>",
        f"<h1>{title}</h1>",
        _table([[key, value] for key, value in summary.items()], header=False),
        "<h2>Held-out rows</h2>",
        _table(metrics_table(data.evaluations), header=True),
        f"<img alt='loss, scores, deviation by feature' src='data:image/png;base64,{image}'>",
        "</body></html>\n",
    ]
    return "".join(parts)


def _table(rows: Sequence[Sequence[str]], header: bool) -> str:
    lines = []
    for i, row in enumerate(rows):
        tag = "th" if header and i == 0 else "td"
        lines.append("<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in row) + "</tr>")
    return f"<table>{''.join(lines)}</table>"
