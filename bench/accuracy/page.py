"""The tables of docs/accuracy.md and docs/fraud.md, made from docs/accuracy.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from beam_jobs.sandbox.fleet import FAILURE_KINDS
from bench.accuracy import fraud, history
from bench.accuracy.cars import SHARES
from bench.accuracy.figures import Figures, mean, read
from bench.accuracy.goals import goals
from bench.accuracy.world import CASES

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
JSON, PAGE, FRAUD_PAGE = DOCS / "accuracy.json", DOCS / "accuracy.md", DOCS / "fraud.md"
BEGIN, END = "<!-- {} -->", "<!-- end of {} -->"  # around each table


def update() -> None:
    """Puts the tables into the pages."""
    for page in (PAGE, FRAUD_PAGE):
        page.write_text(rendered(page.read_text(encoding="utf-8")), encoding="utf-8")


def rendered(page: str) -> str:
    """A page with its tables made anew from the file of figures."""
    figures, said, run = read(JSON)
    tables = {
        "run": [_run(figures, run)],
        "goals": _goals(figures),
        "six": _six(figures),
        "state": _state(figures),
        "peers": _peers(figures),
        "shuttle": _shuttle(figures),
        "cars": _cars(figures),
        "history": _history(figures),
        "history rates": _history_rates(figures),
        "said": _said(said),
        "fraud": _fraud(figures),
        "fraud recall": _fraud_recall(figures),
        "fraud goals": _goals(figures, of_fraud=True),
    }
    for name, lines in tables.items():
        begin, end = BEGIN.format(name), END.format(name)
        if begin not in page:
            continue
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        page = before + "\n".join([begin, *lines, end]) + after
    return page


def _run(figures: Figures, run: Mapping[str, Any]) -> str:
    """When and with what the figures were made, and how many trainings each is of."""
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    counts: dict[str, set[int]] = {}
    for path, values in figures.items():
        counts.setdefault(path.partition(".")[0], set()).add(len(values))
    trainings = "; ".join(f"{section} {_range(sorted(found))}" for section, found in sorted(counts.items()))
    seeds = ", ".join(map(str, run["seeds"]))
    return f"Measured on {run['date']}, seeds {seeds} ({versions}). Trainings a case: {trainings}."


def _range(counts: Sequence[int]) -> str:
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]


def _goals(figures: Figures, of_fraud: bool = False) -> list[str]:
    chosen = {path: values for path, values in figures.items() if path.startswith("fraud.") == of_fraud}
    rows = [(g.what, g.reach, g.found, "yes" if g.met else "**no**") for g in goals(chosen)]
    return _table(("goal", "reach", "found", "met"), rows)


def _six(figures: Figures) -> list[str]:
    names = ("rate", "found_45", "found_10", "found_5", "odd_found_10", "state_rate", "left_out", "said")
    header = (
        *("rows", "alerts on normal rows", "45 sigma found", "10 sigma", "5 sigma", "10 sigma, the odd features"),
        *("alerts in the state", "left out of training", "says it cannot tell"),
    )
    rows = [[case.about, *(_cell(figures, f"six.{case.name}.{name}") for name in names)] for case in CASES]
    return _table(header, rows)


def _state(figures: Figures) -> list[str]:
    names = ("state_left_out", "named", "rate", "state_rate", "called_normal_rate", "called_normal_state_rate")
    header = (
        *("rows", "of the state left out", "of these, in groups the report names", "alerts", "in the state"),
        *("alerts once it is called normal", "in the state"),
    )
    cases = [case for case in CASES if f"six.{case.name}.named" in figures]
    return _table(
        header, [[case.about, *(_cell(figures, f"six.{case.name}.{name}") for name in names)] for case in cases]
    )


def _peers(figures: Figures) -> list[str]:
    names = [f"{peer}_{figure}" for peer in ("iforest", "mahalanobis") for figure in ("rate", "found_45", "found_10")]
    header = ["rows", *(f"{peer}: {f}" for peer in ("isolation forest", "robust Mahalanobis") for f in _PEER_FIGURES)]
    rows = [[case.about, *(_cell(figures, f"six.{case.name}.{name}") for name in names)] for case in CASES]
    return _table(header, rows)


_PEER_FIGURES = ("alerts on normal rows", "45 sigma found", "10 sigma found")


def _shuttle(figures: Figures) -> list[str]:
    rows = []
    for name, about in (("batch", "contaminated 60 %"), ("normal", "normal rows only")):
        for peer, who in (("", "Highbeam"), ("iforest", "isolation forest"), ("mahalanobis", "robust Mahalanobis")):
            start = f"shuttle.{name}_{peer}"
            auc, prefix = (start, f"{start}_") if peer else (f"{start}roc_auc", start)
            rows.append([about, who, *(_cell(figures, path) for path in (auc, f"{prefix}found", f"{prefix}rate"))])
    rows.append(["first 10,000 rows, as a stream", "Highbeam", _cell(figures, "shuttle.streaming_roc_auc"), "-", "-"])
    return _table(("trained on", "detector", "ROC AUC", "found at 0.01", "alerts on normal rows"), rows)


def _cars(figures: Figures) -> list[str]:
    names = ("rate_over_budget", "bump_rate_over_budget", "left_out", "said", "top_1")
    header = (
        *("unlabelled failures", *(kind.replace("_", " ") for kind in FAILURE_KINDS)),
        *("alerts over the budget", "on bumps", "left out of training", "says it cannot tell", "blames the right one"),
    )
    rows = []
    for name in (*SHARES, "again"):
        about = f"{100 * SHARES[name]:g} %" if name in SHARES else "0 %, other trainings"
        paths = (*(f"recall_{kind}" for kind in FAILURE_KINDS), *names)
        rows.append([about, *(_cell(figures, f"cars.{name}.{path}") for path in paths)])
    return _table(header, rows)


def _history(figures: Figures) -> list[str]:
    header = ["failure"]
    for what in ("recall", "cars found", "seconds to the first alert"):
        header += [f"{what}, without memory", "with"]
    rows = []
    for kind in history.KINDS:
        paths = [f"history.{name}.{figure}_{kind}" for figure in ("recall", "found", "delay") for name in history.TASKS]
        rows.append([kind.replace("_", " "), *(_cell(figures, path) for path in paths)])
    return _table(header, rows)


def _history_rates(figures: Figures) -> list[str]:
    names = ("rate_over_budget", "left_out", "said")
    header = (
        "use case",
        "alerts over the budget, at training's threshold",
        "left out of training",
        "says it cannot tell",
    )
    rows = [[f"`{name}`", *(_cell(figures, f"history.{name}.{figure}") for figure in names)] for name in history.TASKS]
    return _table(header, rows)


_FRAUD = {
    "logistic_regression": "logistic regression, 15 inputs, labels",
    **{name: way.about + (", labels" if way.labels else "") for name, way in fraud.WAYS.items()},
    "ceiling": "ceiling: all frauds that anything known could tell",
}
_OF_FRAUD = ("roc_auc", "average_precision", "key_precision")


def _fraud(figures: Figures) -> list[str]:
    header = ["way"]
    for week in ("validation: ROC AUC / AP / CP@100", "test", "five weeks"):
        header += [week, "of the ceiling's AP / CP@100"]
    rows = []
    for name, about in _FRAUD.items():
        row = [about]
        for week in ("validation", "test", "weeks"):
            row.append(" / ".join(_cell(figures, f"fraud.{name}.{week}.{figure}") for figure in _OF_FRAUD))
            shares = []
            for figure in _OF_FRAUD[1:]:
                found, most = (figures.get(f"fraud.{who}.{week}.{figure}") for who in (name, "ceiling"))
                shares.append(f"{100 * mean(found) / mean(most):.1f} %" if found and most else "-")
            row.append(" / ".join(shares))
        rows.append(row)
    return _table(header, rows)


def _fraud_recall(figures: Figures) -> list[str]:
    rows = [
        [
            about,
            *(
                _cell(figures, f"fraud.{name}.{week}.recall_{kind}")
                for week in ("validation", "test")
                for kind in "123"
            ),
        ]
        for name, about in _FRAUD.items()
    ]
    header = ["way", *(f"{week}, scenario {kind}" for week in ("validation", "test") for kind in "123")]
    return _table(header, rows)


def _said(said: Mapping[str, str]) -> list[str]:
    rows = [(f"`{path}`", sentence.replace("|", "\\|")) for path, sentence in sorted(said.items())]
    return _table(("rows", "what training said"), rows) if rows else ["Training said nothing of the kind."]


def _cell(figures: Figures, path: str) -> str:
    """The mean, and the range of the trainings where it is not one number."""
    values = figures.get(path)
    if not values:
        return "-"
    middle, low, high = (f"{value:.4g}" for value in (mean(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"
