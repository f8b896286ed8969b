"""Trains, judges, writes and checks one version of a model of any kind."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from beam_jobs.storage.files import local_path
from model import manifest, registry
from model.kinds import KINDS
from model.kinds.protocol import FittedModel, Scorer, Training, learns_from_labels
from model.loaded import GOLDEN_FILE, LoadedModel, write_golden
from model.manifest import Manifest
from model.rows import Floats, Matrix
from model.training import data as training_data
from model.training import peers
from model.training.data import Counts
from model.training.describe import describe
from model.training.distribution import SCORES_FILE
from model.training.evaluate import Evaluation, at_budgets
from model.training.gather import Rows, gather
from model.training.judge import Verdict, judge, judge_baseline
from model.training.plan import Plan, Settings, command, without_folders
from model.training.report import ReportData, write_report
from model.training.strangest import strangest

BUDGETS = (0.00001, 0.0001, 0.001, 0.01, 0.1)  # beside that of the training, in the report
GOLDEN_ROWS = 64  # of held-out rows, half of them the strangest


@dataclass(frozen=True)
class Trained:
    """What ``train`` made."""

    manifest: Manifest
    folder: str  # of the version: a local path, or gs://
    evaluations: dict[str, Evaluation]  # of the model, by its kind, and "baseline" where one was trained
    counts: Counts  # what happened to the rows
    failures: int  # usable rows labelled as failures
    split: str  # "key" or "time"
    training_seconds: float
    alias: str | None  # that points at the version now
    shown: ReportData  # in the report

    @property
    def path(self) -> Path:
        """The folder of a version on this machine."""
        return Path(self.folder)

    @property
    def report(self) -> str:
        """The HTML page."""
        return f"{self.folder}/report/report.html"


def train(settings: Settings, console: Console | None = None) -> Trained:
    """Trains, judges, writes and checks one version.

    Raises:
      UserError: settings, data or a registry that won't do.
    """
    plan = Plan.of(settings)
    with (
        registry.new_version(settings.registry, plan.use_case.name) as draft,
        tempfile.TemporaryDirectory(prefix="highbeam-training-") as scratch,
        _progress(console or Console(stderr=True, quiet=True)) as bar,
    ):
        rows = gather(plan, Path(scratch), bar)
        started = time.monotonic()
        logs = local_path(settings.logdir) if settings.logdir else draft.path / "logs"
        training = _training(plan, rows, plan.own, logs, bar)
        fitted = plan.kind.fit(training)
        seconds = time.monotonic() - started
        step = bar.add_task("judging and writing", total=None)
        fitted.save(draft.path)
        scorer = plan.kind.load(draft.path)
        verdict = judge(scorer, fitted, training.validation, rows.parts, plan.budget)
        evaluations = {plan.use_case.model.kind: verdict.evaluation}
        if settings.baseline and plan.use_case.model.baseline:
            evaluations["baseline"] = _baseline(plan, rows, plan.use_case.model.baseline, Path(scratch), bar)
        verdict.distribution.save(draft.path / SCORES_FILE)
        _golden(draft.path, fitted.scorer, rows.parts.test.x, verdict.scores)
        (draft.path / training_data.LIST_FILE).write_text(rows.counts.list_files(), encoding="utf-8")
        described = describe(plan, rows, training.train, draft, fitted, scorer, verdict, evaluations)
        (draft.path / manifest.FILE_NAME).write_text(described.to_json(), encoding="utf-8")
        if plan.signer is not None:
            plan.signer.sign(draft.path)
        shown = _shown(plan, rows, fitted, scorer, verdict, evaluations, described)
        write_report(draft.path / "report", described, shown)
        LoadedModel.load(draft.path)  # what is published can be loaded and repeats its own scores
        bar.update(step, total=1, completed=1)
    alias = settings.alias
    if alias is not None:
        registry.promote(draft.model, draft.version, alias)
    elif registry.promote(draft.model, draft.version, only_if_absent=True) is None:
        alias = registry.CHAMPION
    return Trained(
        manifest=described,
        folder=draft.folder,
        evaluations=evaluations,
        counts=rows.counts,
        failures=rows.spool.failures,
        split=rows.parts.by,
        training_seconds=seconds,
        alias=alias,
        shown=shown,
    )


def _training(plan: Plan, rows: Rows, own: Any, logs: Path, bar: Progress) -> Training[Any]:
    tasks: dict[str, TaskID] = {}
    train, validation = rows.parts.train, rows.parts.validation

    def progress(name: str, done: int, total: int, remark: str) -> None:
        if name not in tasks:
            tasks[name] = bar.add_task(name)
        text = f"{name} ({remark})" if remark else None
        bar.update(tasks[name], completed=done, total=total, description=text)

    return Training(
        train=train if learns_from_labels(own) else train.without_failures(),
        validation=validation if learns_from_labels(own) else validation.without_failures(),
        features=plan.use_case.preprocessor().features,
        settings=own,
        seed=plan.seed,
        normal=plan.is_normal,
        logs=logs,
        progress=progress,
    )


def _baseline(plan: Plan, rows: Rows, name: str, scratch: Path, bar: Progress) -> Evaluation:
    """Another kind on the same rows, by its own defaults."""
    kind = KINDS.get(name)
    training = _training(plan, rows, kind.settings(), scratch / "logs", bar)
    return judge_baseline(kind.fit(training), training.validation, rows.parts, plan.budget)


def _golden(folder: Path, scorer: Scorer, rows: Matrix, scores: Floats) -> None:
    """Golden vectors: ordinary rows and the strangest ones."""
    order = np.argsort(scores, kind="stable")
    half = GOLDEN_ROWS // 2
    chosen = np.unique(np.concatenate([order[-half:], order[:: max(1, len(order) // half)][:half]]))
    x = np.concatenate([rows[i : i + 1] for i in chosen.tolist()])
    write_golden(folder / GOLDEN_FILE, x, scorer.explain(x))


def _shown(
    plan: Plan,
    rows: Rows,
    fitted: FittedModel,
    scorer: Scorer,
    verdict: Verdict,
    evaluations: dict[str, Evaluation],
    described: Manifest,
) -> ReportData:
    parts, threshold = rows.parts, described.threshold
    others = peers.judge(parts, verdict.scores, threshold, plan.budget, plan.seed) if plan.settings.peers else ()
    return ReportData(
        loss=fitted.loss,
        validation_loss=fitted.validation_loss,
        scores=verdict.scores,
        failed=parts.failed,
        deviation=verdict.deviation,
        evaluations=evaluations,
        peers=others,
        strangest=strangest(
            parts.test,
            parts.kinds,
            verdict.scores,
            threshold,
            described.percentile,
            scorer.explain,
            described.features,
            dict(zip(described.features, described.units, strict=True)),
        ),
        command=command(without_folders(plan.settings)),
        at_budgets=at_budgets({*BUDGETS, plan.budget}, verdict.distribution.threshold, verdict.scores, parts.failed),
    )


@contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        yield bar
