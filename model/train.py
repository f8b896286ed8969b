"""Trains a model and puts it into the registry.

python -m model.train --use_case car_sensors --data history/ --registry models
"""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

import use_cases
from beam_jobs import cli
from beam_jobs.codec.schema import fingerprint
from beam_jobs.errors import UserError
from beam_jobs.io import files
from model import autoencoder, baseline, manifest, registry, tf
from model import data as training_data
from model.autoencoder import NetworkConfig, TrainedNetwork
from model.data import Split, TrainingData
from model.evaluate import Evaluation, evaluate
from model.loaded import GOLDEN_FILE, LoadedModel, write_golden
from model.manifest import DataSummary, Manifest
from model.network import Scores
from model.report import ReportData, metrics_table, write_report
from model.threshold import ScoreDistribution
from use_cases import UseCase

GOLDEN_ROWS = 64  # of held-out rows, half of them the strangest
LIBRARIES = ("highbeam", "tensorflow", "tensorflow-cpu", "keras", "numpy", "pyarrow", "polars")


@dataclass(frozen=True)
class Settings:
    """What the command line says; None: what the use case says."""

    use_case: str
    data: str
    registry: str
    epochs: int | None = None
    alert_budget: float | None = None
    seed: int | None = None
    limit: int | None = None
    validation_fraction: float = 0.2
    split: str = "auto"
    alias: str | None = None
    logdir: str | None = None
    baseline: bool = True


@dataclass(frozen=True)
class Trained:
    """What ``train`` made."""

    manifest: Manifest
    folder: str  # of the version: a local path, or gs://
    evaluations: dict[str, Evaluation]  # "autoencoder", and "baseline" where it was trained
    data: TrainingData
    split: str  # "key" or "time"
    training_seconds: float
    alias: str | None  # that points at the version now

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
    training_data.find_files(settings.data)  # before anything is made or drawn
    use_case.preprocessor()
    with registry.new_version(settings.registry, use_case.name) as draft, _progress(console) as bar:
        step = bar.add_task("reading", total=100)
        data = training_data.read(
            use_case, settings.data, settings.limit, lambda s: bar.update(step, completed=s * 100)
        )
        split = training_data.split(data, settings.validation_fraction, seed, settings.split)
        _check_split(data, split)

        keras = tf.keras()
        keras.utils.set_random_seed(seed)
        tf.tensorflow().config.experimental.enable_op_determinism()
        logs = str(settings.logdir or draft.path / "logs")
        callbacks = [keras.callbacks.TensorBoard(logs, write_graph=False), _EpochBar.callback(bar, config.epochs)]
        started = time.monotonic()
        trained = autoencoder.train(data.x[split.train], data.x[split.validation], config, callbacks)
        training_seconds = time.monotonic() - started

        step = bar.add_task("judging and writing", total=None)
        autoencoder.export(trained.network, draft.path)
        normal = _score_all(trained.network, data.x[split.validation]).score
        distribution = ScoreDistribution.fit(normal)
        test = _score_all(trained.network, data.x[split.test])
        threshold = distribution.threshold(budget)
        evaluations = {"autoencoder": _evaluate(test.score, threshold, data, split)}
        features = use_case.preprocessor().features
        if settings.baseline and baseline.fits(features):
            evaluations["baseline"] = _baseline(data, split, features, seed, budget)
        _golden(draft.path, trained.network, data.x[split.test], test.score)
        described = _describe(use_case, draft, data, split, config, seed, threshold, budget, distribution, evaluations)
        (draft.path / manifest.FILE_NAME).write_text(described.to_json(), encoding="utf-8")
        _report(draft.path, described, trained, test, data.failed[split.test], evaluations)
        LoadedModel.load(draft.path)  # what is published can be loaded and repeats its own scores
        bar.update(step, total=1, completed=1)
    alias = settings.alias
    if alias is not None:
        registry.promote(draft.model, draft.version, alias)
    elif registry.promote(draft.model, draft.version, only_if_absent=True) is None:
        alias = registry.CHAMPION
    return Trained(described, draft.folder, evaluations, data, split.by, training_seconds, alias)


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
    for module in ("matplotlib", "tensorboard"):
        if importlib.util.find_spec(module) is None:
            raise UserError(f"training needs {module}, which is not installed; run pip install 'highbeam[train]'")


def _check_split(data: TrainingData, split: Split) -> None:
    for name, rows in (("training", split.train), ("validation", split.validation), ("test", split.test)):
        if not rows.any():
            raise UserError(
                f"no {name} rows among {len(data.x)} usable ones ({int(data.failed.sum())} labelled as failures); "
                "use more data, or --split time"
            )
    ScoreDistribution.check(int(split.validation.sum()))


def _score_all(network: Any, x: NDArray[np.float32], block: int = 8192) -> Scores:
    parts = [network(x[i : i + block], training=False) for i in range(0, len(x), block)]
    joined = {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]}
    return Scores(joined["score"], joined["expected"], joined["error"])


def _evaluate(scores: NDArray[np.float32], threshold: float, data: TrainingData, split: Split) -> Evaluation:
    rows = np.flatnonzero(split.test)
    return evaluate(scores, threshold, data.failed[rows], data.kinds.take(rows), data.keys.take(rows))


def _baseline(data: TrainingData, split: Split, features: Sequence[str], seed: int, budget: float) -> Evaluation:
    network = baseline.train(data.x[split.train], features, seed)
    normal = baseline.score(network, data.x[split.validation], features)
    threshold = ScoreDistribution.fit(normal).threshold(budget)
    return _evaluate(baseline.score(network, data.x[split.test], features), threshold, data, split)


def _golden(folder: Path, network: Any, x: NDArray[np.float32], scores: NDArray[np.float32]) -> None:
    """Golden vectors: ordinary rows and the strangest ones."""
    order = np.argsort(scores, kind="stable")
    half = GOLDEN_ROWS // 2
    chosen = np.unique(np.concatenate([order[-half:], order[:: max(1, len(order) // half)][:half]]))
    write_golden(folder / GOLDEN_FILE, x[chosen], _score_all(network, x[chosen]))


def _describe(
    use_case: UseCase,
    draft: registry.Draft,
    data: TrainingData,
    split: Split,
    config: NetworkConfig,
    seed: int,
    threshold: float,
    budget: float,
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
        threshold=threshold,
        alert_budget=budget,
        score_quantiles=distribution.quantiles(),
        data=DataSummary(
            files=data.files,
            sha256=data.sha256,
            rows=data.read,
            training_rows=int(split.train.sum()),
            first_event_time=_iso(int(data.times.min())),
            last_event_time=_iso(int(data.times.max())),
        ),
        network={**asdict(config), "hidden": list(config.hidden), "seed": seed, "split": split.by},
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


def _report(
    folder: Path,
    described: Manifest,
    trained: TrainedNetwork,
    test: Scores,
    failed: NDArray[np.bool_],
    evaluations: dict[str, Evaluation],
) -> None:
    shown = ReportData(trained.loss, trained.validation_loss, test.score, failed, test.error, evaluations)
    write_report(folder / "report", described, shown)


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


class _EpochBar:
    """A Keras callback that moves the progress bar; made late, since its base class is TensorFlow's."""

    @staticmethod
    def callback(bar: Progress, epochs: int) -> Any:
        task = bar.add_task("training", total=epochs)

        def on_epoch_end(epoch: int, logs: dict[str, float]) -> None:
            bar.update(task, completed=epoch + 1, description=f"training (loss {logs['val_loss']:.4f})")

        def on_train_end(logs: dict[str, float] | None) -> None:
            bar.update(task, total=bar.tasks[task].completed)  # early stopping

        return tf.keras().callbacks.LambdaCallback(on_epoch_end=on_epoch_end, on_train_end=on_train_end)


def print_summary(console: Console, made: Trained, settings: Settings) -> None:
    """What came out, and what to do next."""
    data, described = made.data, made.manifest
    refused = ", ".join(f"{n:,} {reason}" for reason, n in sorted(data.refused.items())) or "0"
    console.print(
        f"{data.read:,} rows read, {data.filtered:,} filtered, refused: {refused}; "
        f"{int(data.failed.sum()):,} labelled as failures; {described.data.training_rows:,} trained on "
        f"in {made.training_seconds:.1f} s (held out by {made.split})",
        highlight=False,
    )
    table = Table(title="held-out rows")
    header, *rows = metrics_table(made.evaluations)
    for column in header:
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    lines = [
        f"version    {described.version}" + (f" ({made.alias})" if made.alias else ""),
        f"threshold  {described.threshold:.4g}, expected to alert on {described.alert_budget:g} of normal rows",
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
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m model.train", description="Train a model and register it.")
    add = result.add_argument
    add("--use_case", required=True, help="a use case that ships (car_sensors), or the folder of one")
    add("--data", required=True, metavar="PATH", help="Avro or Parquet: a file, a folder or a glob")
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
