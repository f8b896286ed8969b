"""How rare so many events of so many trials are, such as frauds of a terminal's payments: a beta-binomial law.

Each key has a rate of its own, drawn from a beta distribution; so 2 frauds of 3 payments and 20 of 3,000 are judged by
how rates vary among keys, and not as if all had one.
"""

from __future__ import annotations

from math import lgamma, log

import numpy as np
from numpy.typing import NDArray

from beam_jobs.jit import compiled
from model.rows import Floats

TRIALS = 4096.0  # more of them count as so many, with the same share of events
_CORRELATION = (1e-4, 0.9)  # of the trials of a key, least and most
_ENOUGH = 1e-12  # of the sum: terms below it are left out


def fit_rate(events: NDArray[np.floating], trials: NDArray[np.floating]) -> tuple[float, float]:
    """The law's alpha and beta by the moments of a sample, [n] each (Kleinman 1973)."""
    n = np.rint(trials).astype(np.float64)
    some = n > 0
    n, k = n[some], np.clip(np.rint(events[some]), 0, n[some]).astype(np.float64)
    mean = (k.sum() + 0.5) / (n.sum() + 1)
    of_one = mean * (1 - mean)
    pairs = float(np.sum(n * (n - 1)) * of_one)
    found = float(np.sum(np.square(k - n * mean) - n * of_one)) / pairs if pairs > 0 else 0.0
    size = 1 / float(np.clip(found, *_CORRELATION)) - 1
    return float(mean * size), float((1 - mean) * size)


@compiled
def rate_heights(events: Floats, trials: Floats, alpha: float, beta: float, out: Floats) -> None:
    """-log of the probability of so many events or more, [n], of events and trials, [n]."""
    of_law = lgamma(alpha + beta) - lgamma(alpha) - lgamma(beta)
    for row in range(len(events)):
        k, n = np.rint(np.float64(events[row])), np.rint(np.float64(trials[row]))
        if k != k or n != n:
            out[row] = np.nan
            continue
        n = max(n, k)
        if n > TRIALS:
            k = TRIALS if k == n else np.rint(k / n * TRIALS)
            n = TRIALS
        if k <= 0:
            out[row] = 0
            continue
        term = total = 1.0  # of the probability of k
        j = k
        while j < n:
            term *= (n - j) / (j + 1) * (j + alpha) / (n - j - 1 + beta)
            total += term
            j += 1
            if term < _ENOUGH * total:
                break
        choose = lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
        drawn = lgamma(k + alpha) + lgamma(n - k + beta) - lgamma(n + alpha + beta)
        out[row] = max(0.0, -(choose + drawn + of_law + log(total)))
