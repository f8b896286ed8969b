"""The rows of a training: read, without those that hold a sentinel, divided, and looked at before they cost time.

There may be too few of them, they may be all alike, or beyond what float32 holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import Progress

from beam_jobs.errors import UserError
from model.outliers.sentinels import Screen, Sentinel, find, number, told
from model.rows import Matrix, slices
from model.training import data as training_data
from model.training.data import Counts
from model.training.distribution import MIN_ROWS
from model.training.plan import Plan
from model.training.spool import MIN_KEYS, Parts, Spool

HUGE = 1e18  # the square of a spread must stay inside float32
STEPS = 16  # of float32's that a feature's values should at least differ by
_SAMPLE = 50_000  # rows
_WHOLE = 1 << 24  # up to here float32 holds every whole number
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Rows:
    """What there is to learn from."""

    parts: Parts
    counts: Counts
    spool: Spool
    sentinels: tuple[Sentinel, ...]


def gather(plan: Plan, scratch: Path, bar: Progress) -> Rows:
    """Reads, screens, divides and checks the rows, and says on ``bar``'s console what is odd about them.

    Raises:
      UserError: data that can't be read, or that no model can learn from.
    """
    features, settings = plan.use_case.preprocessor().features, plan.settings
    counts, spool = Counts(), Spool(scratch, len(features), plan.seed)
    step = bar.add_task("reading", total=len(plan.source.paths))

    def show(share: float) -> None:
        text = f"reading ({counts.read:,} rows)"
        bar.update(step, completed=int(share * len(plan.source.paths)), description=text)

    for examples in training_data.read(plan.use_case, plan.source, counts, spool.folder, settings.limit, show):
        spool.add(examples)
    screen = Screen(find(spool.unlabelled(), features), features, plan.is_normal)
    parts = spool.divide(settings.validation_fraction, settings.split, screen.sound, plan.labels)
    lines = told(screen.sentinels(), settings.on_outlier == "refuse")
    check_rows(parts, spool, counts, screen.sentinels())
    if counts.labels is not None and not counts.labels[0]:
        lines = [f"warning: {counts.met()}: are they of these files' topic, and of their time?", *lines]
    for line in [*lines, *check_features(parts.train.x, features)]:
        bar.console.print(line, highlight=False, soft_wrap=True, markup=False)
    return Rows(parts, counts, spool, screen.sentinels())


def check_rows(parts: Parts, spool: Spool, counts: Counts, found: Sequence[Sentinel]) -> None:
    """UserError, saying where the rows have gone, if a part has too few."""
    sound = spool.count - spool.failures
    for part, name, least in (
        (parts.validation, "validation", MIN_ROWS),
        (parts.train, "training", MIN_ROWS),
        (parts.test, "the test", 1),
    ):
        if len(part) >= least:
            continue
        held = sum(one.left_out for one in found)
        if not sound:
            remedy = "a model learns from rows without a failure: add some, or correct the label"
        elif 2 * held > sound:
            remedy = f"if these are readings, call them normal: --normal '{found[0].where}'"
        elif counts.refused.total() > spool.count:
            remedy = "mend those values, or keep them out with COALESCE or WHERE in the SQL"
        elif parts.by == "key" and spool.keys < MIN_KEYS:
            remedy = f"with {spool.keys} key{'s'[: spool.keys != 1]} use --split time"
        else:
            remedy = "use more data, or another --validation_fraction"
        raise UserError(
            f"{len(part)} rows for {name}, at least {least} are needed; {whereabouts(spool, counts, found)}: {remedy}"
        )


def whereabouts(spool: Spool, counts: Counts, found: Sequence[Sentinel]) -> str:
    """What happened to the rows that were read."""
    held = [f"{one.left_out:,} left out for {one.where}" for one in found if one.left_out]
    parts = [f"{counts.read:,} rows read", *counts.losses()]
    parts += [f"{spool.failures:,} labelled as failures"] if spool.failures else []
    return ", ".join([*parts, *held])


def check_features(rows: Matrix, features: Sequence[str]) -> list[str]:
    """Sentences about features a model can't tell anything from.

    Args:
      rows: to learn from, float32 [n, F], in random order; at least one.
      features: names of the F columns.

    Raises:
      UserError: no feature ever changes, or one is too large to calculate with.
    """
    sample = rows[:_SAMPLE]
    low, middle, high = (np.quantile(sample, level, axis=0, method="nearest") for level in (0.05, 0.5, 0.95))
    sizes = np.maximum(np.abs(low), np.abs(high))
    for name, size, value in zip(features, sizes.tolist(), middle.tolist(), strict=True):
        if size > HUGE:
            raise UserError(
                f"column {name}: values such as {number(value if abs(value) > HUGE else size)} are beyond what a "
                f"network can calculate with ({HUGE:g}); divide it in the SQL, such as {name} / 1e20 AS {name}, or "
                f"keep such rows out with WHERE"
            )
    if _constant(rows):
        values = ", ".join(f"{name} is {number(value)}" for name, value in zip(features, middle.tolist(), strict=True))
        raise UserError(
            f"all {len(rows):,} rows to learn from are the same ({values[:200]}): there is nothing to learn; select "
            "features that change, or use other data"
        )
    steps = np.spacing(np.abs(middle).astype(np.float32)).astype(np.float64)
    said = []
    for i, name in enumerate(features):
        width, step = float(high[i]) - float(low[i]), steps[i]
        if width < STEPS * step and abs(middle[i]) > _WHOLE:
            offset = number(float(middle[i]))
            spread = f"nearly all values lie within {width:g}" if width else "nearly all values are the same"
            said.append(
                f"column {name}: near {offset} float32 tells apart steps of {step:g}, and {spread}; if the readings "
                f"differ by less, subtract an offset in the SQL: {name} - {offset} AS {name}"
            )
    return said


def _constant(rows: Matrix) -> bool:
    first = rows[:1]
    return all(bool((chunk == first).all()) for chunk in slices(rows, _CHUNK))
