"""How a kind of model would have done, round after round: trained on what was known by then, judged by what came next.

A round trains on some days, leaves out those whose labels are not known by then, and is judged by the days behind them.
A key (a card) that is known by a day to have failed is out of that day's rows: nobody needs a model for it.

    |  to train on  |  labels on their way  |  to judge by  |
    start                                   each day: without keys with a failure from start up to the delay before
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model.kinds.protocol import FittedModel, ModelKind, Training, learns_from_labels
from model.rows import Floats, Longs, Part
from model.training.evaluate import Bools, average_precision, roc_auc
from model.training.spool import Examples

DAY_MS = 86_400_000


@dataclass(frozen=True)
class Split:
    """Days of a round."""

    train: int = 7  # to train on
    delay: int = 7  # until labels are known
    test: int = 7  # to judge by; the next round begins so many days later

    @property
    def days(self) -> int:
        """Of the whole round."""
        return self.train + self.delay + self.test


@dataclass(frozen=True)
class Labelled:
    """Rows with what is known of them in the end."""

    x: Floats  # [n, F]
    keys: NDArray[np.int64]  # [n], a number for each key
    times: Longs  # [n], event time, milliseconds since the epoch
    kinds: pa.DictionaryArray  # [n], kind of failure, "" for none

    @property
    def failed(self) -> Bools:
        """[n], labelled as a failure."""
        names = np.array([name != "" for name in self.kinds.dictionary.to_pylist()], np.bool_)
        return np.asarray(names[self.kinds.indices.to_numpy()], np.bool_)

    @classmethod
    def of(cls, parts: Iterable[Examples]) -> Labelled:
        """From what ``model.training.data.read`` gives."""
        every = list(parts)
        keys = pa.concat_arrays([part.keys for part in every]).dictionary_encode().indices
        kinds = pa.concat_arrays([part.kinds for part in every]).dictionary_encode()
        x, times = (np.concatenate([getattr(part, name) for part in every]) for name in ("x", "times"))
        return cls(x, keys.to_numpy().astype(np.int64), times, kinds)

    def take(self, rows: NDArray[np.int64]) -> Labelled:
        """Some of them."""
        return Labelled(self.x[rows], self.keys[rows], self.times[rows], self.kinds.take(pa.array(rows)))


@dataclass(frozen=True)
class Round:
    """One of them."""

    start_ms: int
    train: Labelled
    test: Labelled  # without keys that were known by then
    day: NDArray[np.int64]  # [n], of the test rows, from 0 on


def rounds(rows: Labelled, start_ms: int, split: Split, count: int) -> Iterator[Round]:
    """``count`` of them, the first one from ``start_ms`` on."""
    for start in range(start_ms, start_ms + count * split.test * DAY_MS, split.test * DAY_MS):
        day, failed = (rows.times - start) // DAY_MS, rows.failed
        train = np.flatnonzero((day >= 0) & (day < split.train))
        first = split.train + split.delay
        chosen, days = [], []
        for number in range(split.test):
            known = rows.keys[(day >= 0) & (day < split.train + number) & failed]
            here = np.flatnonzero(day == first + number)
            here = here[~np.isin(rows.keys[here], known)]
            chosen.append(here)
            days.append(np.full(len(here), number))
        yield Round(start, rows.take(train), rows.take(np.concatenate(chosen)), np.concatenate(days))


@dataclass(frozen=True)
class Judgement:
    """How scores did in a round."""

    rows: int
    failures: int
    roc_auc: float
    average_precision: float
    key_precision: float  # share of failed keys among the highest of a day, mean of the days
    recall: Mapping[str, float]  # by kind of failure, of the rows within the alert budget
    precision: Mapping[str, float]  # the same, of the alerts on rows of the kind or without a failure


def judge(scores: NDArray[Any], test: Round, top: int, budget: float) -> Judgement:
    """Judges scores of the test rows, [n], higher is stranger.

    Args:
      top: keys looked at a day.
      budget: share of the rows that may be alerts: those with the highest scores.
    """
    failed, kinds = test.test.failed, test.test.kinds
    alerts = np.zeros(len(scores), np.bool_)
    alerts[np.argsort(-scores, kind="stable")[: round(budget * len(scores))]] = True
    false, recall, precision = int((alerts & ~failed).sum()), {}, {}
    codes, names = kinds.indices.to_numpy(), kinds.dictionary.to_pylist()
    for code in sorted(np.unique(codes[failed]).tolist(), key=names.__getitem__):
        hits = int((alerts & (codes == code)).sum())
        recall[names[code]] = hits / int((codes == code).sum())
        precision[names[code]] = hits / max(1, hits + false)
    return Judgement(
        rows=len(scores),
        failures=int(failed.sum()),
        roc_auc=roc_auc(scores, failed),
        average_precision=average_precision(scores, failed),
        key_precision=key_precision(scores, failed, test.test.keys, test.day, top),
        recall=recall,
        precision=precision,
    )


def key_precision(
    scores: NDArray[Any], failed: Bools, keys: NDArray[np.int64], day: NDArray[np.int64], top: int
) -> float:
    """Mean over the days of the share of ``top`` keys, those with the highest scores, that have a failure that day.

    A key that was found is out from the next day on. With payments and cards this is the card precision of
    Le Borgne et al., "Reproducible Machine Learning for Credit Card Fraud Detection" (2022).
    """
    found: set[int] = set()
    shares = []
    for number in np.unique(day).tolist():
        rows = np.flatnonzero((day == number) & ~np.isin(keys, np.array(sorted(found), np.int64)))
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        _, first = np.unique(keys[rows], return_index=True)  # each key by its highest score
        highest = keys[rows[np.sort(first)[:top]]]
        hits = np.intersect1d(highest, keys[rows[failed[rows]]])
        found.update(hits.tolist())
        shares.append(len(hits) / top)
    return float(np.mean(shares))


def fit(
    kind: ModelKind[Any],
    settings: Any,
    rows: Labelled,
    features: Sequence[str],
    seed: int,
    held_out: float,
    labels: bool = True,
    progress: Callable[[str, int, int, str], None] = lambda name, done, total, remark: None,
) -> FittedModel:
    """Trains on a round's rows.

    Args:
      held_out: share of the keys that are for stopping early, and are not learnt from.
      labels: False: as if nobody had labelled a row.
    """
    rng = np.random.default_rng((seed, 2))
    order = rng.permutation(len(rows.x))
    other = np.isin(
        rows.keys[order], rng.permutation(np.unique(rows.keys))[: round(held_out * len(np.unique(rows.keys)))]
    )
    with tempfile.TemporaryDirectory(prefix="highbeam-evaluate-") as logs:
        return kind.fit(
            Training(
                train=_part(rows.take(order[~other]), settings, labels),
                validation=_part(rows.take(order[other]), settings, labels),
                features=tuple(features),
                settings=settings,
                seed=seed,
                normal=None,
                logs=Path(logs),
                progress=progress,
            )
        )


def _part(rows: Labelled, settings: Any, labels: bool) -> Part:
    keys = rows.keys.astype(np.uint64)
    if not labels:
        return Part(rows.x, keys, rows.times)
    part = Part(rows.x, keys, rows.times, rows.failed)
    return part if learns_from_labels(settings) else part.without_failures()
