"""Which scores are alerts, above which threshold, and how far beyond it.

With a budget the threshold follows the scores of late. Its account is kept like a bucket of tokens: records, or time,
earn what alerts cost, and what is saved up is bounded. A bucket that fills asks for a lower threshold, one that runs
empty for a higher one, and an empty one lets nothing through. So in any stretch there are no more alerts than it earns
and a full bucket; and no less, but for a full bucket and what is lost while the scores fall all at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs.steps.alerting.active_keys import ActiveKeys, hashes
from beam_jobs.steps.alerting.budget import AlertBudget
from beam_jobs.steps.alerting.recent import RecentScores

Severity = Literal["low", "medium", "high", "critical"]
SEVERITIES: tuple[Severity, ...] = ("low", "medium", "high", "critical")
"""Scores beyond the threshold, by how much rarer they are: less than 10 times, 10, 100, 1,000 and more."""

Floats = NDArray[np.float32]
Quantiles = Sequence[tuple[float, float]]  # (level, score) of a version's normal rows, both ascending

_RAREST = 1e-7  # that a version's quantiles tell
_LEAST_RECORDS, _MOST_RECORDS = 64, 4096  # between two looks at the threshold
_PANE = 2  # alerts that a stretch of the recent scores earns
_ENOUGH = 4.0  # recent scores above a threshold that is taken from them
_OCTAVES = 3.0  # a full bucket asks for 2**3 times as many alerts as it earns, an empty one for as much less
_KEPT = 64  # times the share of alerts: so many of the highest scores are looked at
_MOST_SHARE = 0.5  # of rows that a threshold may have above it
_MEMORY = 5.0  # alerts: over how long the records a millisecond are averaged
_LEAST_TOLD = 0.02  # of the alerts: what is asked for more of, where the cool-down keeps most of them back
_TAIL_MEMORY = 50  # alerts: over how many the tail beyond the threshold is


Tells = Callable[[NDArray[np.intp], NDArray[np.int64]], NDArray[np.bool_]]
"""Which alerts are told, bool [k]: of rows of the block, and how severe they are. It remembers those."""


def all_told(rows: NDArray[np.intp], levels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where nothing is kept back."""
    return np.ones(len(rows), np.bool_)


@dataclass(frozen=True)
class Judged:
    """What a block's scores, [n], come to; the last three of its alerts alone, [k]."""

    alert: NDArray[np.bool_]  # [n]
    threshold: Floats  # [n], above which a row is an alert if the budget has one left
    over: int  # rows above it for which there was none
    recent: NDArray[np.float64]  # [k], per cent of the scores of late that are smaller; NaN: not known
    levels: NDArray[np.int64]  # [k], how severe each is, a place in SEVERITIES
    told: NDArray[np.bool_]  # [k], which are not kept back

    @property
    def severity(self) -> pa.Array:
        """The SEVERITIES of the alerts, string [k]."""
        return pa.array(SEVERITIES, pa.string()).take(pa.array(self.levels))


def levels_of(rarer: NDArray[np.float64]) -> NDArray[np.int64]:
    """Places in SEVERITIES of scores so many times rarer than one at the threshold, [k]."""
    steps = np.log10(np.maximum(rarer, 1.0)) + 1e-9
    return np.clip(np.nan_to_num(steps), 0, len(SEVERITIES) - 1).astype(np.int64)


class Judge(Protocol):
    """Decides for the rows of one process, in their order."""

    def __call__(
        self, scores: Floats, times_ms: NDArray[np.int64], keys: Callable[[], pa.Array], tells: Tells = all_told
    ) -> Judged:
        """Decides for a block.

        Args:
          scores: [n]; what is not finite is no alert.
          times_ms: of the records, epoch milliseconds [n].
          keys: of the events, text [n]; asked for where they matter.
          tells: asked of each alert, in their order.
        """


class ByThreshold:
    """By a version's threshold, the same for all rows."""

    def __init__(self, threshold: float, quantiles: Quantiles) -> None:
        self._threshold = np.float32(threshold)
        self._quantiles = quantiles

    def __call__(
        self, scores: Floats, times_ms: NDArray[np.int64], keys: Callable[[], pa.Array], tells: Tells = all_told
    ) -> Judged:
        alert = (scores > self._threshold) & np.isfinite(scores)
        found = scores[alert]
        rarer = _beyond(self._quantiles, float(self._threshold)) / _beyond(self._quantiles, found)
        threshold = np.full(len(scores), self._threshold, np.float32)
        levels = levels_of(rarer)
        return Judged(alert, threshold, 0, np.full(len(found), np.nan), levels, tells(np.flatnonzero(alert), levels))


class ByBudget:
    """By a budget, of which alerts that are kept back take nothing.

    Where blocks are cut makes no difference, what the order of the rows is does.

    Args:
      threshold, quantiles: of the version; they count until enough scores have come.
      now: the time, seconds since the epoch; records from later count as from now.
    """

    def __init__(
        self,
        budget: AlertBudget,
        threshold: float,
        quantiles: Quantiles,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._budget = budget
        self._quantiles = quantiles
        self._now = now
        self._lock = threading.Lock()
        self._recent = RecentScores()
        self._keys = ActiveKeys()
        self._most = budget.burst  # units, as the next two
        self._saved = budget.burst // 2
        self._lastly = 0  # earned since the last row that was looked at
        self._clock_ms: int | None = None
        self._rate = budget.earns if budget.per != "keys" else 0  # units a record, or a millisecond
        # Since the last look at the threshold: scores, hashes of keys, milliseconds, units, and of alerts the logarithm
        # of score / threshold.
        self._scores: list[Floats] = []
        self._hashes: list[NDArray[np.uint64]] = []
        self._rows = self._passed_ms = self._earned = 0
        self._beyond: list[float] = []
        self._pane_earned = 0
        self._told = 1.0  # which share of the alerts of late was told
        self._usual = 0.0  # median of the scores before the last look
        self._time, self._records = 0.0, 0.0  # milliseconds and records of late, the older the less
        # Of the records, that are to be alerts; 0: not known yet.
        self._share = budget.earns / budget.costs if budget.per == "records" else 0.0
        self._size = self._next_size()
        self._threshold = np.float32(threshold)
        self._tail = _tail(quantiles, threshold)  # mean of log(score / threshold) of alerts

    def __call__(
        self, scores: Floats, times_ms: NDArray[np.int64], keys: Callable[[], pa.Array], tells: Tells = all_told
    ) -> Judged:
        alert = np.zeros(len(scores), np.bool_)
        threshold = np.empty(len(scores), np.float32)
        recent, levels, told = [np.empty(0)], [np.empty(0, np.int64)], [np.empty(0, np.bool_)]
        over, at = 0, 0
        hashed = hashes(keys()) if self._budget.per == "keys" and len(scores) else None
        times_ms = np.minimum(times_ms, int(self._now() * 1000))
        with self._lock:
            while at < len(scores):
                part = slice(at, min(len(scores), at + self._size - self._rows))
                rows, passing, more = self._admit(scores[part], self._earn(times_ms[part]), at, tells)
                alert[part][rows] = True
                told.append(passing)
                threshold[part] = self._threshold
                over += more
                found = scores[part][rows]
                beyond = self._logs(found)
                recent.append(100 * self._recent.below(found))
                levels.append(self._levels(beyond))
                self._beyond += beyond.tolist()
                self._scores.append(scores[part])
                self._rows += len(scores[part])
                if hashed is not None:
                    self._hashes.append(hashed[part])
                if self._rows >= self._size:
                    self._look()
                at = part.stop
        return Judged(alert, threshold, over, np.concatenate(recent), np.concatenate(levels), np.concatenate(told))

    def _logs(self, found: Floats) -> NDArray[np.float64]:
        """log(score / threshold) of alerts, [k]."""
        return np.log(found / self._threshold).astype(np.float64) if self._threshold > 0 else np.zeros(len(found))

    def _levels(self, beyond: NDArray[np.float64]) -> NDArray[np.int64]:
        """How severe alerts are, [k], by ``_logs``."""
        return levels_of(np.exp(np.minimum(beyond / self._tail, 100)))

    def _earn(self, times_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """Units that the rows have earned up to each of them, [n]."""
        n = len(times_ms)
        if self._budget.per == "records":
            return np.arange(1, n + 1) * self._rate
        before = int(times_ms[0]) if self._clock_ms is None else self._clock_ms
        passed = np.maximum.accumulate(np.maximum(times_ms, before)) - before
        self._clock_ms = before + int(passed[-1])
        self._passed_ms += int(passed[-1])
        # A gap of any length fills the bucket and no more; it must not overflow, either.
        return np.minimum(passed, self._most // max(self._rate, 1) + 1) * self._rate

    def _admit(
        self, scores: Floats, earned: NDArray[np.int64], at: int, tells: Tells
    ) -> tuple[NDArray[np.intp], NDArray[np.bool_], int]:
        """Rows that are alerts, which of them are told, how many more lie above the threshold; a turn for each alert.

        Args:
          at: where in the block the scores begin.
        """
        above = np.flatnonzero((scores > self._threshold) & np.isfinite(scores))
        costs, most, saved, seen = self._budget.costs, self._most, self._saved, 0
        taken, told, place, over = list[int](), list[bool](), 0, 0
        while place < len(above):
            row = int(above[place])
            saved, seen = min(most, saved + int(earned[row]) - seen), int(earned[row])
            if saved >= costs:
                passes = tells is all_told or bool(
                    tells(np.array([at + row]), self._levels(self._logs(scores[row : row + 1])))[0]
                )
                saved -= costs * passes
                self._told += (passes - self._told) / _TAIL_MEMORY
                taken.append(row)
                told.append(passes)
                place += 1
                continue
            enough = int(np.searchsorted(earned, seen + costs - saved))  # the row that has it together
            later = max(place + 1, int(np.searchsorted(above, enough)))
            over, place = over + later - place, later
        total = int(earned[-1]) if len(earned) else 0
        self._saved = min(most, saved + total - seen)
        self._earned += total
        return np.array(taken, np.intp), np.array(told, np.bool_), over

    def _look(self) -> None:
        """Takes in what has come, and sets the threshold for the next rows."""
        costs = self._budget.costs
        scores = np.concatenate(self._scores)
        scores = scores[np.isfinite(scores)]
        if len(scores):
            self._usual = self._recent.add(scores, min(1.0, _KEPT * self._share / max(self._told, _LEAST_TOLD)))
        for each in self._beyond:
            self._tail += (each - self._tail) / _TAIL_MEMORY
        self._tail = max(self._tail, 1e-6)
        self._pane_earned += self._earned
        self._set_share()
        if self._pane_earned >= _PANE * costs:
            self._recent.turn()
            self._pane_earned = 0
        self._scores, self._hashes, self._beyond = [], [], []
        self._rows = self._passed_ms = self._earned = 0
        self._size = self._next_size()
        asked = self._share / max(self._told, _LEAST_TOLD) * 2 ** (_OCTAVES * (2 * self._saved / self._most - 1))
        asked = min(max(asked, 1e-12), _MOST_SHARE)
        if self._recent.rows * asked >= _ENOUGH:
            found = self._recent.with_above(asked)
        elif self._share:
            levels, known = np.array(self._quantiles, np.float64).T
            found = float(np.interp(1 - asked, levels, known))
        else:
            return
        # What several rows show is still to be an alert, as long as most rows show less.
        reached = np.nextafter(np.float32(found), np.float32(-np.inf))
        self._threshold = np.maximum(reached, np.float32(self._usual))

    def _set_share(self) -> None:
        """Which share of the records is to be alerts, where time says how many alerts there are."""
        budget = self._budget
        if budget.per == "records":
            return
        fade = float(np.exp(-self._earned / (_MEMORY * budget.costs)))
        self._time = self._time * fade + self._passed_ms
        self._records = self._records * fade + self._rows
        if budget.per == "keys" and self._clock_ms is not None:
            self._keys.add(np.concatenate(self._hashes), self._clock_ms)
            self._rate = budget.earns * self._keys.count
        self._share = min(_MOST_SHARE, self._time / self._records * self._rate / budget.costs)

    def _next_size(self) -> int:
        """Records until the next look: about as many as earn an alert."""
        return int(min(max(1 / self._share, _LEAST_RECORDS), _MOST_RECORDS)) if self._share else _LEAST_RECORDS


def _beyond(quantiles: Quantiles, scores: float | Floats) -> NDArray[np.float64]:
    """Which share of a version's normal rows score higher."""
    levels, known = np.array(quantiles, np.float64).T
    return np.maximum(1 - np.interp(scores, known, levels), _RAREST)


def _tail(quantiles: Quantiles, threshold: float) -> float:
    """The mean of log(score / threshold) beyond it, from the score that is ten times as rare."""
    levels, known = np.array(quantiles, np.float64).T
    rare = float(np.interp(1 - float(_beyond(quantiles, threshold)) / 10, levels, known))
    found = np.log(rare / threshold) / np.log(10) if 0 < threshold < rare else 0.0
    return float(found) or 0.1
