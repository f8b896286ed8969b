"""Judges the kind of model a use case names on labelled data of the past, round after round.

    python -m model.evaluate --use_case fraud_benchmark --data runs/payments.parquet --from 2018-07-25T00:00:00Z

A round trains on some days, waits until their labels are known, and is judged by the days behind them
(``model/backtest/rounds.py``); no version comes of it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from beam_jobs.errors import UserError, one_line
from beam_jobs.storage import files
from beam_jobs.terminal import cli
from beam_jobs.terminal.commands import MODELS
from beam_jobs.use_case import UseCase, load_use_case
from model.backtest.page import Result, figures_table, kinds_table, write_page
from model.backtest.rounds import DAY_MS, Judgement, Labelled, Round, Split, fit, judge, rounds
from model.kinds import KINDS
from model.training import data as training_data
from model.training.data import Counts


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command line's to a parser."""
    add = parser.add_argument
    add("--use_case", required=True, help="a use case that ships (fraud_benchmark), or the folder of one, with a label")
    add("--data", required=True, metavar="PATH", help="labelled rows, as for training; windows see all of them")
    add("--from", dest="start", required=True, metavar="TIME", help="event time from which the first round trains on")
    add("--rounds", type=int, default=1, help="each begins --test_days after the one before; default: %(default)s")
    add("--train_days", type=int, default=7, help="days to train on; default: %(default)s")
    add("--delay_days", type=int, default=7, help="days until labels are known; default: %(default)s")
    add("--test_days", type=int, default=7, help="days to judge by; default: %(default)s")
    add("--top", type=int, default=100, help="keys, such as cards, that people look at in a day; default: %(default)s")
    add("--alert_budget", type=float, help="share of the rows that may be alerts; default: the use case's")
    add("--seeds", type=int, default=1, help="trainings a round, of which the mean is told; default: %(default)s")
    add(
        "--validation_fraction",
        type=float,
        default=0.2,
        help="share of the keys for stopping early, not learnt from; default: %(default)s",
    )
    add(
        "--labels",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="leave labelled failures out of training, or give them to kinds that learn from them; --no-labels trains "
        "as if nobody had labelled a row",
    )
    add("--html", metavar="FILE", help="write a page with the tables and a picture too")
    add("--gcs_anonymous", action="store_true", help="read public gs:// buckets without Google credentials")
    add("--verbose", action="store_true", help="show stack traces")


def evaluate(given: argparse.Namespace, console: Console) -> list[Result]:
    """Reads, trains and judges; a result for each round.

    Raises:
      UserError: options, a use case or data that won't do.
    """
    use_case = load_use_case(given.use_case)
    budget = use_case.model.alert_budget if given.alert_budget is None else given.alert_budget
    _check(given, use_case, budget)
    split = Split(given.train_days, given.delay_days, given.test_days)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        labelled, start_ms = _read(given, use_case, split, bar)
        step = bar.add_task("training and judging", total=given.rounds * given.seeds)
        found = []
        for one in rounds(labelled, start_ms, split, given.rounds):
            _check_round(one, given)
            judged = []
            for seed in range(use_case.model.seed, use_case.model.seed + given.seeds):
                judged.append(_judged(use_case, one, seed, given, budget))
                bar.update(step, advance=1)
            found.append(Result(one.start_ms, split, len(one.train.x), mean(judged), tuple(judged)))
    return found


def mean(judged: Sequence[Judgement]) -> Judgement:
    """Of judgements of the same rows, or of rounds: a kind of failure counts in those that have it."""
    first = judged[0]
    numbers = {
        each.name: type(getattr(first, each.name))(np.mean([getattr(one, each.name) for one in judged]))
        for each in fields(Judgement)
        if each.name not in ("recall", "precision")
    }
    kinds = sorted({kind for one in judged for kind in one.recall})
    recall, precision = (
        {kind: float(np.mean([getattr(one, name)[kind] for one in judged if kind in one.recall])) for kind in kinds}
        for name in ("recall", "precision")
    )
    return replace(first, **numbers, recall=recall, precision=precision)


def _read(given: argparse.Namespace, use_case: UseCase, split: Split, bar: Progress) -> tuple[Labelled, int]:
    """The rows of the rounds, and when the first begins; windows have seen those before."""
    whole = training_data.source(given.data, given.start)
    start = whole.start_ms
    assert start is not None
    end = start + (split.days + (given.rounds - 1) * split.test) * DAY_MS
    source, counts = training_data.source(given.data, None, str(end)), Counts()
    step = bar.add_task("reading", total=1.0)

    def show(share: float) -> None:
        bar.update(step, completed=share, description=f"reading ({counts.read:,} rows)")

    with tempfile.TemporaryDirectory(prefix="highbeam-evaluate-") as scratch:
        parts = training_data.read(use_case, source, counts, Path(scratch), progress=show)
        rows = Labelled.of(part.since(start) for part in parts)
    for line in counts.losses():
        bar.console.print(line, highlight=False, markup=False)
    return rows, start


def _judged(use_case: UseCase, one: Round, seed: int, given: argparse.Namespace, budget: float) -> Judgement:
    kind, own = KINDS.get(use_case.model.kind), use_case.model.of_kind()
    features = use_case.preprocessor().features
    fitted = fit(kind, own, one.train, features, seed, given.validation_fraction, given.labels)
    return judge(fitted.scorer.score(one.test.x), one, given.top, budget)


def _check(given: argparse.Namespace, use_case: UseCase, budget: float) -> None:
    for name in ("rounds", "train_days", "test_days", "top", "seeds"):
        if getattr(given, name) < 1:
            raise UserError(f"--{name} {getattr(given, name)} is not at least 1")
    if given.delay_days < 0:
        raise UserError(f"--delay_days {given.delay_days} is below 0; use the days until labels are known")
    if not 0 < budget < 1:
        raise UserError(f"--alert_budget {budget} is not a share between 0 and 1, such as 0.001")
    if not 0 < given.validation_fraction < 0.5:
        raise UserError(f"--validation_fraction {given.validation_fraction} is not between 0 and 0.5; use 0.2")
    if use_case.label is None:
        raise UserError(f"{given.use_case}: no field of the schema is tagged label, so there is nothing to judge by")


def _check_round(one: Round, given: argparse.Namespace) -> None:
    for part, name in ((one.train, "to train on"), (one.test, "to judge by")):
        failures = int(part.failed.sum())
        if len(part.x) - failures < 1 or (name == "to judge by" and not failures):
            raise UserError(
                f"--from {given.start}, --rounds {given.rounds}: a round has {len(part.x):,} rows {name}, {failures:,} "
                "of them labelled as failures; --data holds too few days, labels that say nothing of them, or no key "
                "without a known failure, for those with one are left out"
            )


def main(argv: Sequence[str]) -> None:
    """Evaluates, and prints what came out."""
    given = MODELS["evaluate"].parser().parse_args(argv)
    files.configure(given.gcs_anonymous)
    found = evaluate(given, Console(stderr=True))
    whole, console = mean([result.judged for result in found]), Console()
    for title, (header, *lines) in (
        ("rounds", figures_table(found, whole, given.top)),
        ("within the alert budget", kinds_table(whole)),
    ):
        table = Table(title=title)
        for column in header:
            table.add_column(column, overflow="fold")
        for line in lines:
            table.add_row(*(Text(one_line(cell)) for cell in line))
        console.print(table)
    if given.html is not None:
        write_page(Path(given.html), found, whole, given.top, given.use_case)
        console.print(f"page       {given.html}", highlight=False, markup=False)


if __name__ == "__main__":
    cli.run(main)
