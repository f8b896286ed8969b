"""Where outliers begin in a sample of scores, and whether that can be told at all.

Under a tail that falls like a power, the spacings of the ordered logarithms L1 >= L2 >= ... times their ranks,
E_i = i (L_i - L_i+1), are independent and exponential with one mean (Renyi 1953). Lighter tails only make the upper
ones smaller. So whatever the tail, a gap of log(rows / LEVEL) times the mean of the spacings below it is made by
nothing but rows of another kind: those above it are outliers. What lies below is tested again with its own ranks.

Without a gap outliers may still be there, mixed with the tail. The mean of E_i is one over the generalised failure rate
of the scores: that of their logarithms. Over -log(share of rows above), the rates of the usual laws (normal, gamma,
log-normal, Weibull, Student, Pareto, half-Cauchy) are straight or bend down towards the top. Where two kinds of rows
overlap, the rate sags while one gives way to the other: then no score parts them, and ``Cut.doubt`` says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST = 0.12  # of the rows that can be outliers: more of them are a state of their own
LEVEL = 1e-4  # chance of a gap that is none, for each turn
SHARED = 0.2  # of the rows have one score: it is where the scores begin, not part of their tail
MIN_ROWS = 50  # fewer scores have no tail to speak of
SURE = 2.5  # times the limit: a gap that may be narrower than valleys below it
_BELOW = 100  # rows below a gap, at least, that say how wide spacings are there
_LOWER = 0.9  # of these spacings, the smaller ones: further gaps do not count
_LOWER_MEAN = 1 - (1 - _LOWER) * (1 - np.log(1 - _LOWER))  # their sum, as a share of that of all exponential ones
_NARROW = 0.01  # a mean spacing below it counts as this: gaps of a few per cent of the score are none
_BEND_ROWS = 20  # in a range whose failure rate is compared, at least
_BEND_ERRORS = 4.0  # standard errors of a sag that is not random: fewer than 1 in 2,000 clean samples
_BODY = 0.3  # of the rows: above them a hump is looked for
_HUMP = 0.1  # of the rows: what larger shares of another kind make of the scores
_HUMP_ERRORS = 8.0  # standard errors of a hump; clean samples have up to 4
_DEEP = 0.7  # of the lower of the rates beside it: a dip that no steps of counts make
_STRAIGHT = 0.95  # of the straight line: the usual laws keep above it


@dataclass(frozen=True)
class Cut:
    """Where outliers begin in a sample of scores."""

    score: float  # rows above it are outliers; inf: none
    share: float  # of the rows that lie above it, 0..1
    doubt: str  # "" or a sentence: why the rows above it may not be all of them


def find_cut(scores: NDArray[np.floating]) -> Cut:
    """The lowest score above which there are only outliers, at most MOST of all rows.

    Args:
      scores: [n], 0 or more; what is not a number is left out of the sample.
    """
    values = np.asarray(scores, np.float64)
    values = np.sort(np.minimum(values[~np.isnan(values)], np.finfo(np.float64).max))
    rows, most = len(values), int(MOST * len(values))
    start = int(np.searchsorted(values, floor_of(values), side="right")) if rows else 0
    top = values[max(int(0.6 * rows), (start + rows + 1) // 2) :][::-1]  # of those above the floor, the upper half
    if len(top) < MIN_ROWS // 2:
        return Cut(np.inf, 0.0, "")
    logs = np.log(spread_ties(top))
    gone = 0
    while (above := widest_gap(logs[gone:], most - gone, parted=gone > 0)) > 0:
        gone += above
    score = float(np.sqrt(top[gone - 1]) * np.sqrt(top[gone])) if gone else np.inf  # half way, in logarithms
    share = float(np.mean(values > score))
    if more := widest_gap(logs[gone:], rows // 4):
        beyond = (gone + more) / rows
        return Cut(score, share, f"{beyond:.1%} of the rows lie beyond a gap, more than the {MOST:.0%} of outliers")
    doubt = _bend(logs[gone:], rows - start - gone)
    if not doubt:
        body = values[max(int(_BODY * rows), (start + rows + 1) // 2 if start else 0) :][::-1]
        doubt = _valley_of_two(np.log(spread_ties(body))[gone:], rows - start - gone)
    return Cut(score, share, doubt)


def floor_of(ordered: NDArray[np.float64]) -> float:
    """Where a tail can begin, of ascending scores: at 0, or a higher score that a share SHARED of the rows have.

    Rows at rest share a score; where the others begin is no tail.
    """
    stride = max(1, int(SHARED * len(ordered)))
    shared = ordered[stride:][ordered[stride:] == ordered[:-stride]]
    return max(0.0, float(shared[-1])) if len(shared) else 0.0


def spread_ties(top: NDArray[np.float64]) -> NDArray[np.float64]:
    """Positive values, descending, as if they had not been rounded: where most are tied, each tie covers its step.

    So no edge of a step is a gap. A step reaches half way to the tied values beside it, though not further than the
    steps below do: beyond that there is a gap. Values that are not tied stay, and say nothing about the steps.
    """
    starts = np.flatnonzero(np.concatenate([[True], top[1:] != top[:-1]]))
    counts = np.diff(np.append(starts, len(top)))
    starts, counts = starts[counts > 1], counts[counts > 1]
    if counts.sum() < len(top) / 2 or len(counts) < 2:
        return top
    steps = top[starts]
    gaps = steps[:-1] - steps[1:]
    gaps = np.append(gaps, gaps[-1])  # below the last value there are more like it
    below = np.lib.stride_tricks.sliding_window_view(np.pad(gaps, (0, 5), mode="edge"), 5)[1:]
    usual = np.median(below, axis=1)
    upper = np.log(steps + np.minimum(usual, np.append(usual[0], gaps[:-1])) / 2)
    lower = np.log(steps - np.minimum(np.minimum(usual, gaps), steps) / 2)
    # Within a step the share of rows above falls like a power: one spacing for all of its rows.
    rows = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts - starts, counts)  # places of the tied rows
    place = np.log((rows + 1) / np.repeat(starts + 1, counts))
    place /= np.repeat(np.log((starts + counts) / (starts + 1)), counts)
    result = top.copy()
    result[rows] = np.exp(np.repeat(upper, counts) - place * np.repeat(upper - lower, counts))
    return np.sort(result)[::-1]


def widest_gap(logs: NDArray[np.float64], most: int, parted: bool = False) -> int:
    """Rows above the widest gap that no tail makes, 0 if there is none; at most ``most``, of descending logarithms.

    Where a gap has ``parted`` other rows before, there is more than one kind of them: it need not be the widest of all.
    """
    size = min(most, len(logs) - 1 - MIN_ROWS // 2)
    if size < 1:
        return 0
    gaps = logs[:-1] - logs[1:]
    spacings = gaps * np.arange(1, len(logs))
    limit = np.log(size / LEVEL)
    # Only what is wide for the whole sample can be so for the rows below it.
    candidates = np.flatnonzero(spacings[:size] > limit * np.median(spacings) / 2)
    for at in sorted(candidates.tolist(), key=lambda i: -gaps[i]):
        below = np.sort(spacings[at + 1 : at + 1 + max(_BELOW, 2 * at)])
        kept = below[: max(1, int(_LOWER * len(below)))]
        usual = max(kept.mean() * _LOWER / _LOWER_MEAN, _NARROW)
        times = spacings[at] / (limit * usual)
        if times > SURE or (times > 1 and (parted or gaps[at] > _valley(logs, at + 1))):
            return at + 1
    return 0


def _valley(logs: NDArray[np.float64], above: int) -> float:
    """The widest range below a gap, with ``above`` rows above it, that hardly holds rows; of descending logarithms.

    Scores that come in steps and are blurred have such valleys, and gaps of their width in the thin end of the tail.
    """
    start = np.arange(above + above // 3 + 2, min(8 * above + 16, len(logs) * 16 // 17 - 1))
    return float(np.max(logs[start] - logs[start + 1 + start // 16], initial=0.0))


def _bend(logs: NDArray[np.float64], rows: int) -> str:
    """Says so if the failure rate sags on its way to the top; descending logarithms of the highest of ``rows``."""
    spacings = (logs[:-1] - logs[1:]) * np.arange(1, len(logs))
    sums = np.concatenate([[0.0], np.cumsum(spacings)])

    def rate(start: int, end: int) -> float:
        return (end - start) / max(float(sums[end] - sums[start]), _NARROW * (end - start))

    def sag(last: int, low: int, high: int, start: int) -> tuple[float, bool]:
        """By how many standard errors the rate between ``low`` and ``high`` is too low; whether that below is more."""
        if last > len(spacings) or high - start < _BEND_ROWS:
            return 0.0, False
        above, between, below = rate(start, high), rate(high, low), rate(low, last)
        # Where it grows faster than that of a Weibull law below the sag, the tail ends at the top.
        if between * np.log(rows**2 / low / last) >= below * np.log(rows**2 / high / low):
            return 0.0, False
        chord = (above + below) / 2
        error = above**2 / (high - start) + below**2 / (last - low)
        error = np.sqrt(error / (2 * chord) ** 2 + 1 / (low - high))
        return float(np.log(chord * _STRAIGHT / between) / error), between < below

    worst, where = _BEND_ERRORS, 0
    for last in np.unique(np.geomspace(_BEND_ROWS, max(len(spacings), _BEND_ROWS), 24).astype(int)).tolist():
        for start in (0, last // 64):
            errors, _ = sag(last, last // 4, last // 16, start)
            if errors > worst:
                worst, where = errors, last // 4
        # More rows of another kind, in a hump of their own: the rate falls before it rises, as in no usual law.
        errors, falls = sag(last, last // 2, last // 4, 0)
        if falls and errors > max(worst, _HUMP_ERRORS) and last // 2 > _HUMP * rows:
            worst, where = errors, last // 2
    return _two_kinds(where, rows)


def _valley_of_two(logs: NDArray[np.float64], rows: int) -> str:
    """Says so if the failure rate dips below that above and that below; for humps of more rows than ``_bend`` sees."""
    spacings = (logs[:-1] - logs[1:]) * np.arange(1, len(logs))
    sums = np.concatenate([[0.0], np.cumsum(spacings)])

    def rate(start: int, end: int) -> float:
        return (end - start) / max(float(sums[end] - sums[start]), _NARROW * (end - start))

    worst, where = _HUMP_ERRORS, 0
    first, last = max(2 * _BEND_ROWS, int(_HUMP * rows)), int(0.75 * len(spacings))
    for low in np.unique(np.geomspace(first, last, 24).astype(int)).tolist() if first < last else []:
        for part in (0.5, 0.7, 0.85):
            high, end = int(part * low), min(int(low / part), len(spacings))
            if min(low - high, end - low, high) < _BEND_ROWS:
                continue
            above, between, below = rate(0, high), rate(high, low), rate(low, end)
            lower, of = (below, end - low) if below < above else (above, high)
            errors = float(np.log(_DEEP * lower / between) / np.sqrt(1 / (low - high) + 1 / of))
            if errors > worst:
                worst, where = errors, low
    return _two_kinds(where, rows)


def _two_kinds(where: int, rows: int) -> str:
    if not where:
        return ""
    return f"among the highest {where / rows:.2%} of the scores there are two kinds of rows, and no gap parts them"
