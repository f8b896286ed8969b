"""Trains a model and puts it into the registry.

python -m model.train --use_case car_sensors --data history/ --registry models
"""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

import use_cases
from beam_jobs import cli
from beam_jobs.codec.schema import fingerprint
from beam_jobs.errors import UserError
from beam_jobs.io import files
from model import autoencoder, baseline, manifest, registry, tf
from model import data as training_data
from model.autoencoder import CHUNK_ROWS, NetworkConfig
from model.data import Counts, Source
from model.evaluate import Evaluation, evaluate
from model.loaded import GOLDEN_FILE, LoadedModel, write_golden
from model.manifest import DataSummary, Manifest
from model.network import FILE_NAME as NETWORK_FILE
from model.network import Network, Scores
from model.report import ReportData, budget_lines, left_out_lines, metrics_table, strangest_lines, write_report
from model.rows import Floats, Matrix, Part, Parts, Spool, slices
from model.strangest import strangest
from model.threshold import SCORES_FILE, ScoreDistribution
from model.training import checks, normal, peers, sentinels
from model.training.alert_rate import AlertRate, ThresholdFit
from model.training.fit import LAST_NETWORK, Fitted, fit, signed_deviations
from model.training.groups import LeftOut, find_groups
from model.training.sentinels import Screen
from use_cases import UseCase

GOLDEN_ROWS = 64  # of held-out rows, half of them the strangest
LIBRARIES = ("highbeam", "tensorflow", "tensorflow-cpu", "keras", "numpy", "pyarrow", "polars")


@dataclass(frozen=True)
class Settings:
    """What the command line says; None: what the use case says."""

    use_case: str
    data: str
    registry: str
    start: str | None = None  # --from
    until: str | None = None
    epochs: int | None = None
    alert_budget: float | None = None
    seed: int | None = None
    limit: int | None = None
    validation_fraction: float = 0.2
    split: str = "auto"
    alias: str | None = None
    logdir: str | None = None
    baseline: bool = True
    on_outlier: str = "leave_out"  # or "refuse"
    normal: Sequence[str] = ()  # conditions, or names of groups
    peers: bool = True  # False, which no option says: for those who train many times and look at no report


@dataclass(frozen=True)
class Trained:
    """What ``train`` made."""

    manifest: Manifest
    folder: str  # of the version: a local path, or gs://
    evaluations: dict[str, Evaluation]  # "autoencoder", and "baseline" where it was trained
    counts: Counts  # what became of the rows
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
    console = console or Console(stderr=True, quiet=True)
    use_case = use_cases.load(settings.use_case)
    config = _network_config(settings, use_case)
    seed = int(use_case.model.get("seed", 0)) if settings.seed is None else settings.seed
    budget = float(use_case.model.get("alert_budget", 1e-4)) if settings.alert_budget is None else settings.alert_budget
    _check(settings, budget)
    source = training_data.source(settings.data, settings.start, settings.until)  # before anything is made or drawn
    features = use_case.preprocessor().features
    called_normal = normal.conditions(use_case, settings.normal, settings.registry)
    is_normal = normal.compile_normal(called_normal, features)
    with (
        registry.new_version(settings.registry, use_case.name) as draft,
        tempfile.TemporaryDirectory(prefix="highbeam-training-") as scratch,
        _progress(console) as bar,
    ):
        counts, spool = Counts(), Spool(Path(scratch), len(features), seed)
        _read(use_case, source, counts, spool, settings.limit, bar)
        screen = Screen(sentinels.find(spool.unlabelled(), features), features, is_normal)
        parts = spool.divide(settings.validation_fraction, settings.split, screen.sound)
        told = sentinels.told(screen.sentinels(), settings.on_outlier == "refuse")
        checks.check_rows(parts, spool, counts, screen.sentinels())
        for line in [*told, *checks.check_features(parts.train.x, features)]:
            bar.console.print(line, highlight=False, soft_wrap=True, markup=False)

        keras = tf.keras()
        keras.utils.set_random_seed(seed)
        tf.tensorflow().config.experimental.enable_op_determinism()
        logs = str(settings.logdir or draft.path / "logs")
        started = time.monotonic()
        fitted = fit(parts.train, parts.validation, config, seed, partial(_callbacks, bar, logs), is_normal)
        training_seconds = time.monotonic() - started

        step = bar.add_task("judging and writing", total=None)
        autoencoder.export(fitted.network, draft.path)
        fitted.compiled.save(draft.path / NETWORK_FILE)
        held_out = fitted.validation
        checks.check_scores(held_out.scores, config.learning_rate)
        kept = ~held_out.left_out
        distribution = ScoreDistribution.fit(held_out.scores[kept], parts.validation.keys[kept])
        scores, deviation = _judge(fitted.compiled, parts)
        limit = distribution.fit_threshold(budget, held_out.cut)
        threshold, test_alerts = limit.threshold, limit.compare(scores[~parts.failed])
        distribution.save(draft.path / SCORES_FILE)
        keys = pa.array(parts.test.keys)
        evaluations = {"autoencoder": evaluate(scores, threshold, parts.failed, parts.kinds, keys)}
        if settings.baseline and baseline.fits(features):
            evaluations["baseline"] = _baseline(parts, features, budget)
        _golden(draft.path, fitted.network, parts.test.x, scores)
        (draft.path / training_data.LIST_FILE).write_text(counts.list_files(), encoding="utf-8")
        summary = _summary(source, counts, spool, int(np.sum(~fitted.train.left_out)))
        network = {**asdict(config), "hidden": list(config.hidden), "seed": seed, "split": parts.by}
        described = replace(
            _describe(use_case, draft, summary, network, limit, test_alerts, distribution, evaluations),
            sentinels=screen.sentinels(),
            normal=tuple(one.where for one in called_normal),
            left_out=_left_out(fitted, parts.train, features),
        )
        (draft.path / manifest.FILE_NAME).write_text(described.to_json(), encoding="utf-8")
        shown = ReportData(
            loss=fitted.loss,
            validation_loss=fitted.validation_loss,
            scores=scores,
            failed=parts.failed,
            deviation=deviation,
            evaluations=evaluations,
            peers=peers.judge(parts, scores, threshold, budget, seed) if settings.peers else (),
            strangest=strangest(
                parts.test,
                parts.kinds,
                scores,
                threshold,
                described.percentile,
                fitted.compiled.explain,
                features,
            ),
            command=command(settings),
        )
        write_report(draft.path / "report", described, shown)
        LoadedModel.load(draft.path)  # what is published can be loaded and repeats its own scores
        bar.update(step, total=1, completed=1)
    alias = settings.alias
    if alias is not None:
        registry.promote(draft.model, draft.version, alias)
    elif registry.promote(draft.model, draft.version, only_if_absent=True) is None:
        alias = registry.CHAMPION
    return Trained(
        described, draft.folder, evaluations, counts, spool.failures, parts.by, training_seconds, alias, shown
    )


def command(settings: Settings) -> str:
    """The command line that says so."""
    words = ["python", "-m", "model.train"]
    for field in fields(settings):
        value, flag = getattr(settings, field.name), "from" if field.name == "start" else field.name
        if field.name == "peers" or value == field.default:
            continue
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            for each in [value] if isinstance(value, str | int | float) else value:
                words += [f"--{flag}", str(each)]
    return shlex.join(words)


def _network_config(settings: Settings, use_case: UseCase) -> NetworkConfig:
    config = NetworkConfig.of(use_case.model)
    return config if settings.epochs is None else replace(config, epochs=settings.epochs)


def _check(settings: Settings, budget: float) -> None:
    if not 0 < budget < 1:
        raise UserError(f"--alert_budget {budget} is not a share between 0 and 1, such as 0.0001")
    if not 0 < settings.validation_fraction < 0.5:
        raise UserError(f"--validation_fraction {settings.validation_fraction} is not between 0 and 0.5; use 0.2")
    for name, value in (("epochs", settings.epochs), ("limit", settings.limit)):
        if value is not None and value < 1:
            raise UserError(f"--{name} {value} is not at least 1")
    for module in ("matplotlib", "sklearn", "tensorboard"):
        if importlib.util.find_spec(module) is None:
            raise UserError(f"training needs {module}, which is not installed; run pip install 'highbeam[train]'")


def _read(use_case: UseCase, source: Source, counts: Counts, spool: Spool, limit: int | None, bar: Progress) -> None:
    step = bar.add_task("reading", total=len(source.paths))

    def show(share: float) -> None:
        text = f"reading ({counts.read:,} rows)"
        bar.update(step, completed=int(share * len(source.paths)), description=text)

    for examples in training_data.read(use_case, source, counts, spool.folder, limit, show):
        spool.add(examples)


def _left_out(fitted: Fitted, rows: Part, features: Sequence[str]) -> LeftOut:
    """What was left out of the training, and what was put back, in groups."""
    judged, cut = fitted.train, fitted.train.cut
    find = partial(find_groups, rows.x, rows.keys, rows.times)
    groups, others = find(judged.left_out, partial(signed_deviations, fitted.compiled), features)
    put_back, _ = find(judged.put_back, None, features, mark="p")  # the network expects them now
    return LeftOut(
        rows=int(judged.left_out.sum()),
        share=float(judged.left_out.mean()),
        cut=cut.score if np.isfinite(cut.score) else None,
        doubt=cut.doubt,
        groups=groups,
        others=others,
        of_keys=int(np.sum(judged.left_out & (judged.scores <= cut.score))),
        put_back=put_back,
    )


def _judge(network: Network, parts: Parts) -> tuple[Floats, dict[bool, NDArray[np.float64]]]:
    """Scores of the test rows, float32 [n]; and the root mean error of each feature, [F], by whether rows failed."""
    scores, start = [], 0
    sums: dict[bool, Any] = {}
    for x in slices(parts.test.x, CHUNK_ROWS):
        block = network.explain(x)
        failed = parts.failed[start : start + len(block.score)]
        start += len(failed)
        scores.append(block.score)
        for which in np.unique(failed).tolist():
            sums[which] = sums.get(which, 0) + block.error[failed == which].sum(axis=0, dtype=np.float64)
    rows = {True: int(parts.failed.sum()), False: int((~parts.failed).sum())}
    return np.concatenate(scores), {which: np.sqrt(total / rows[which]) for which, total in sums.items()}


def _baseline(parts: Parts, features: Sequence[str], budget: float) -> Evaluation:
    network = baseline.train(parts.train.x, features)
    threshold = ScoreDistribution.fit(baseline.score(network, parts.validation.x, features)).threshold(budget)
    scores = baseline.score(network, parts.test.x, features)
    return evaluate(scores, threshold, parts.failed, parts.kinds, pa.array(parts.test.keys))


def _golden(folder: Path, network: Any, rows: Matrix, scores: Floats) -> None:
    """Golden vectors: ordinary rows and the strangest ones."""
    order = np.argsort(scores, kind="stable")
    half = GOLDEN_ROWS // 2
    chosen = np.unique(np.concatenate([order[-half:], order[:: max(1, len(order) // half)][:half]]))
    x = np.concatenate([rows[i : i + 1] for i in chosen.tolist()])
    found = network(x, training=False)
    write_golden(folder / GOLDEN_FILE, x, Scores(*(np.asarray(found[name]) for name in ("score", "expected", "error"))))


def _summary(source: Source, counts: Counts, spool: Spool, training_rows: int) -> DataSummary:
    start, until = (None if time is None else _iso(time) for time in (source.start_ms, source.end_ms))
    return DataSummary(
        source=source.root,
        files=len(counts.files),
        sha256=counts.sha256(),
        rows=counts.read,
        training_rows=training_rows,
        start=start,
        until=until,
        first_event_time=_iso(spool.first_ms),
        last_event_time=_iso(spool.last_ms),
        seed=spool.seed,
    )


def _describe(
    use_case: UseCase,
    draft: registry.Draft,
    data: DataSummary,
    network: Mapping[str, Any],
    fitted: ThresholdFit,
    test_alerts: AlertRate,
    distribution: ScoreDistribution,
    evaluations: dict[str, Evaluation],
) -> Manifest:
    preprocessor = use_case.preprocessor()
    return Manifest(
        name=draft.name,
        version=draft.version,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        use_case=use_case.name,
        features=preprocessor.features,
        units=tuple(preprocessor.units[name] for name in preprocessor.features),
        preprocessing_fingerprint=preprocessor.fingerprint,
        schema_fingerprint=fingerprint(use_case.schema),
        threshold=fitted.threshold,
        alert_budget=fitted.alert_budget,
        threshold_fit=fitted,
        test_alerts=test_alerts,
        score_quantiles=distribution.quantiles(),
        data=data,
        network=network,
        metrics={name: evaluation.to_json() for name, evaluation in evaluations.items()},
        libraries=_libraries(),
        files=manifest.file_hashes(draft.path),
    )


def _iso(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")


def _libraries() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = library_version(name)
        except PackageNotFoundError:
            continue  # one of tensorflow and tensorflow-cpu, or a checkout that isn't installed
    return found


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


def _callbacks(bar: Progress, logs: str, name: str, epochs: int) -> list[Any]:
    """Keras callbacks of a training: its progress, and for the last one TensorBoard's logs."""
    keras = tf.keras()
    task = bar.add_task(name, total=epochs)

    def on_epoch_end(epoch: int, losses: dict[str, float]) -> None:
        bar.update(task, completed=epoch + 1, description=f"{name} (loss {losses['val_loss']:.4f})")

    def on_train_end(losses: dict[str, float] | None) -> None:
        bar.update(task, total=bar.tasks[task].completed)  # early stopping

    found = [keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end, on_train_end=on_train_end)]
    return found if name != LAST_NETWORK else [keras.callbacks.TensorBoard(logs, write_graph=False), *found]


def print_summary(console: Console, made: Trained, settings: Settings) -> None:
    """What came out, and what to do next."""
    counts, described = made.counts, made.manifest
    console.print(
        f"{', '.join([f'{counts.read:,} rows read', *counts.losses()])}; "
        f"{made.failures:,} labelled as failures; {described.data.training_rows:,} trained on "
        f"in {made.training_seconds:.1f} s (held out by {made.split})",
        highlight=False,
    )
    table = Table(title="held-out rows")
    header, *rows = metrics_table(made.evaluations, made.shown.peers)
    for column in header:
        table.add_column(column)
    for row in rows:
        table.add_row(*(Text(_printable(cell)) for cell in row))  # kinds of failures are data, no markup
    console.print(table)
    lines = [
        *peers.explain(made.shown.peers),
        *[f"sentinels  {one}: {one.left_out:,} left out" for one in described.sentinels],
        *([] if described.left_out is None else left_out_lines(described.left_out)),
        *strangest_lines(made.shown.strangest),
        f"version    {described.version}" + (f" ({made.alias})" if made.alias else ""),
        *budget_lines(described),
        f"model      {made.folder}",
        f"report     {made.report}",
    ]
    model = shlex.quote(made.folder.rsplit("/", 2)[0])
    if made.alias is None:
        lines.append(f"promote    python -m model.registry promote {model}@{described.version}")
    which = "" if made.alias == registry.CHAMPION else f"@{described.version}"
    lines += [
        "next       python -m beam_jobs.score "
        f"--use_case {shlex.quote(settings.use_case)} --model {model}{which} --input kafka://HOST:9092/TOPIC "
        "--alerts kafka://HOST:9092/ALERTS --dead_letters kafka://HOST:9092/DEAD_LETTERS",
    ]
    for line in lines:
        console.print(_printable(line), highlight=False, soft_wrap=True, markup=False)


def _printable(text: str) -> str:
    """Without what a terminal would obey: names of features and labels are data."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = cli.Parser(prog="python -m model.train", description="Train a model and register it.")
    add = result.add_argument
    add("--use_case", required=True, help="a use case that ships (car_sensors), or the folder of one")
    add(
        "--data",
        required=True,
        metavar="PATH",
        help="Avro or Parquet, an archive or other files: a file, a folder or a glob; gs://bucket/folder",
    )
    add("--from", dest="start", metavar="TIME", help="event time of the first rows: 2026-11-22T07:00:00Z, or epoch ms")
    add("--until", metavar="TIME", help="event time of the first rows not wanted any more")
    add(
        "--registry",
        required=True,
        metavar="DIR",
        help="folder of model versions, a path or gs://; made if missing",
    )
    add("--epochs", type=int, help="at most; default: the use case's")
    add("--alert_budget", type=float, help="share of normal rows that may be alerts; default: the use case's")
    add("--seed", type=int, help="of the split, the weights and the order; default: the use case's")
    add("--limit", type=int, help="rows to read at most")
    add(
        "--validation_fraction",
        type=float,
        default=0.2,
        help="for validation, and again for test; default: %(default)s",
    )
    add("--split", choices=("auto", "key", "time"), default="auto", help="how rows are held out; default: by key")
    add(
        "--on_outlier",
        choices=("leave_out", "refuse"),
        default="leave_out",
        help="with rows that hold what looks like a sentinel, such as 65535: train without them, or not at all; "
        "default: %(default)s",
    )
    add(
        "--normal",
        action="append",
        default=[],
        metavar="CONDITION",
        help="rows that are normal however rare they are: a condition over the features, such as 'speed = 0', or a "
        "group of the latest version's report, such as g2; may be given several times",
    )
    add("--alias", help="alias to point at the new version; default: champion, if there is none yet")
    add("--logdir", help="folder for TensorBoard logs; default: logs in the version's folder")
    add("--baseline", action=argparse.BooleanOptionalAction, default=True, help="train the reference net as well")
    add("--gcs_anonymous", action="store_true", help="read public gs:// buckets without Google credentials")
    add("--verbose", action="store_true", help="stack traces with errors")
    return result


def main(argv: Sequence[str]) -> None:
    """Trains, and prints what came out."""
    given = vars(parser().parse_args(argv))
    given.pop("verbose")
    files.configure(given.pop("gcs_anonymous"))
    settings = Settings(**given)
    made = train(settings, Console(stderr=True))
    print_summary(Console(), made, settings)


if __name__ == "__main__":
    cli.run(main)
