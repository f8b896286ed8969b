"""Two versions of a model side by side: what they come from, what they promise, and how they do on the same rows.

    python -m model.compare models@champion models@challenger
    python -m model.compare models@champion models@challenger --data held_out/

Without ``--data`` each is judged by its own test rows, which need not be the same. Exit status 1 if the second does not
keep to its alert budget, as far as can be told.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from beam_jobs.errors import UserError, one_line
from beam_jobs.storage import files
from beam_jobs.terminal import cli
from beam_jobs.terminal.cli import EXIT_FAILED
from beam_jobs.terminal.commands import MODELS
from beam_jobs.use_case import load_use_case
from model import registry
from model.alert_rate import AlertRate
from model.loaded import LoadedModel
from model.manifest import Manifest, check_fingerprint
from model.registry import ModelVersion
from model.rows import Floats
from model.training import data as training_data
from model.training.data import LIST_FILE, Counts
from model.training.evaluate import Evaluation, evaluate
from model.training.plan import place

Row = tuple[str, str, str]  # what, and what it is of the first and of the second version

_FIGURES = (("roc_auc", "ROC AUC"), ("recall", "failure rows found"), ("precision", "alerts that are right"))


@dataclass(frozen=True)
class Judged:
    """How a version does on the rows of ``--data``."""

    alerts: AlertRate | None  # among the rows without a failure; None: its version does not say where outliers begin
    evaluation: Evaluation
    raised: np.ndarray[tuple[int], np.dtype[np.bool_]]  # [n], the rows it alerts on


def judge(versions: Sequence[ModelVersion], data: str, use_case: str | None) -> tuple[list[Judged], list[str]]:
    """Scores the same rows by each version.

    Args:
      data: as ``model.train`` takes it.
      use_case: name or folder; None: the shipped one of the versions' name.

    Returns:
      One for each version, and sentences about rows that one of them was trained on.

    Raises:
      UserError: data that can't be read, or versions of another preprocessing.
    """
    case = load_use_case(use_case or versions[0].manifest.use_case)
    for version in versions:
        check_fingerprint(version.manifest, case.preprocessor())
    counts = Counts()
    with tempfile.TemporaryDirectory(prefix="highbeam-compare-") as scratch:
        parts = list(training_data.read(case, training_data.source(data), counts, Path(scratch)))
    x = np.concatenate([part.x for part in parts])
    keys = pa.concat_arrays([part.keys for part in parts])
    kinds = pa.concat_arrays([part.kinds.cast(pa.string()) for part in parts])
    failed = np.asarray(kinds.to_numpy(zero_copy_only=False) != "", np.bool_)
    warnings = [
        f"{n:,} of the {len(counts.files):,} files were trained on by {version.version}: not held out from it"
        for version in versions
        if (n := len({file.sha256 for file in counts.files} & _trained_on(version)))
    ]
    return [_judge(version, x, failed, kinds, keys) for version in versions], warnings


def _judge(version: ModelVersion, x: Floats, failed: np.ndarray, kinds: pa.Array, keys: pa.Array) -> Judged:
    scores, described = LoadedModel.load(version.path).score(x), version.manifest
    fit = described.threshold_fit
    return Judged(
        None if fit is None else fit.compare(scores[~failed]),
        evaluate(scores, described.threshold, failed, kinds, keys),
        np.asarray(scores > described.threshold, np.bool_),
    )


def _trained_on(version: ModelVersion) -> set[str]:
    """sha256 of the files a version was trained on."""
    if LIST_FILE not in version.manifest.files:
        return set()
    return {file["sha256"] for file in json.loads((version.path / LIST_FILE).read_text(encoding="utf-8"))}


def row(name: str, *texts: str) -> Row:
    """A row of the table."""
    first, second = texts
    return name, first, second


def rows(first: Manifest, second: Manifest) -> list[Row]:
    """What the manifests say, beside each other."""
    both = (first, second)

    lacks = [", ".join(f for f in a.features if f not in b.features) for a, b in (both, both[::-1])]
    found = [
        row("version", *(m.version for m in both)),
        row("made", *(m.created_at for m in both)),
        row("kind", *(m.kind for m in both)),
        row(
            "source", *(f"{place(m.data.source) or '?'}, {m.data.files:,} file{'s'[: m.data.files != 1]}" for m in both)
        ),
        row("contents", *(m.data.sha256[:12] for m in both)),
        row("rows read", *(f"{m.data.rows:,}" for m in both)),
        row("rows learnt from", *(f"{m.data.training_rows:,}" for m in both)),
        row("event times from", *(m.data.first_event_time for m in both)),
        row("to", *(m.data.last_event_time for m in both)),
        row("features", *(f"{len(m.features):,}" for m in both)),
        *([row("only here", *lacks)] if any(lacks) else []),
        row("preprocessing", *(m.preprocessing_fingerprint[:12] for m in both)),
        row("threshold", *(f"{m.threshold:.4g}" for m in both)),
        row("alert budget", *(f"{m.alert_budget:g}" for m in both)),
        row("own test rows: alerts on", *("-" if m.test_alerts is None else str(m.test_alerts) for m in both)),
    ]
    for name, label in _FIGURES:
        figures = [m.metrics.get(m.kind, {}).get(name) for m in both]
        if any(figure is not None for figure in figures):
            found.append(row(f"own test rows: {label}", *("-" if f is None else f"{f:.4g}" for f in figures)))
    return found


def judged_rows(first: Judged, second: Judged) -> list[Row]:
    """How both do on the same rows."""
    both = (first, second)

    shared = f"{int(np.sum(first.raised & second.raised)):,}"
    found = [
        row("same rows: scored", *(f"{each.evaluation.rows:,}" for each in both)),
        row("same rows: labelled as failures", *(f"{each.evaluation.failures:,}" for each in both)),
        row("same rows: alerts", *(f"{int(each.raised.sum()):,}" for each in both)),
        row("same rows: alerts of both", shared, shared),
        row("same rows: alerts on", *("-" if each.alerts is None else str(each.alerts) for each in both)),
    ]
    for name, label in _FIGURES:
        figures = [getattr(each.evaluation, name) for each in both]
        if any(figure is not None for figure in figures):
            found.append(
                row(f"same rows: {label}", *("-" if figure is None else f"{figure:.4g}" for figure in figures))
            )
    return found


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command line's to a parser."""
    parser.description = (__doc__ or "").strip()
    add = parser.add_argument
    add("first", metavar="A", help="registry or model folder, with @alias or @version; without: the champion")
    add("second", metavar="B", help="the same, of the version to compare with it")
    add("--data", help="rows to score by both, as for training: files that neither was trained on")
    add("--use_case", help="name or folder of the use case; default: the shipped one of the versions")
    add("--gcs_anonymous", action="store_true", help="read a public gs:// bucket without credentials")
    add("--verbose", action="store_true", help="stack traces with errors")


def main(argv: Sequence[str]) -> int:
    """Prints the table; returns the exit status."""
    args = MODELS["registry compare"].parser().parse_args(argv)
    files.configure(args.gcs_anonymous)
    wanted = args.use_case and load_use_case(args.use_case).name
    versions = [registry.resolve(spec, wanted) for spec in (args.first, args.second)]
    first, second = (version.manifest for version in versions)
    if first.name != second.name:
        raise UserError(
            f"{args.first} is a model of {first.name}, {args.second} of {second.name}; name two of one use case"
        )
    table, warnings = rows(first, second), [manifest.few_rows for manifest in (first, second)]
    kept = second.test_alerts
    if args.data is not None:
        judged, told = judge(versions, args.data, args.use_case)
        table += judged_rows(*judged)
        warnings += told
        kept = judged[1].alerts
    shown = Table(show_header=True)
    for column in ("", "A", "B"):
        shown.add_column(column, overflow="fold")
    for name, a, b in table:
        shown.add_row(*map(Text, map(one_line, (name, a, b))), style=None if a == b else "bold")
    Console().print(shown)
    for warning in filter(None, warnings):
        cli.say(f"warning: {warning}")
    if kept is not None and kept.warning:
        cli.say(f"B: {kept.warning}")
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    cli.run(main)
