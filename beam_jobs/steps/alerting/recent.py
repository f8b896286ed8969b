"""The scores of late, in a sketch: which score has so many above it, without keeping them.

A sketch takes in and never gives up, so there are several, one a stretch of the stream, and the oldest is dropped.
"""

from __future__ import annotations

from collections import deque

import datasketches
import numpy as np
from numpy.typing import NDArray

PANES = 4

_LEAST_KEPT = 32  # scores of an addition
_K = 24  # of REQ: how exact; memory grows with it (docs/decisions.md)


class RecentScores:
    """Quantiles of the scores of the last PANES stretches, near the top.

    Sketches are given the highest of what comes alone: to sort those out is five times as fast as to sketch all.
    """

    def __init__(self) -> None:
        self._closed: deque[tuple[int, datasketches.req_floats_sketch]] = deque(maxlen=PANES - 1)
        self._before, self._pane = _sketch(), _sketch()
        self._rows = 0  # of the pane
        self._all: datasketches.req_floats_sketch | None = None

    def add(self, scores: NDArray[np.float32], share: float) -> float:
        """Takes in finite scores, [n], n > 0.

        Args:
          share: of them; what is to be known of higher ones is.

        Returns:
          Their median.
        """
        n = len(scores)
        keep = min(n, max(_LEAST_KEPT, int(n * share)))
        parted = np.partition(scores, (n // 2, n - keep))
        self._pane.update(parted[n - keep :])
        self._rows += n
        self._all = None
        return float(parted[n // 2])

    def turn(self) -> None:
        """Ends a stretch, and begins the next."""
        self._closed.append((self._rows, self._pane))
        self._pane, self._before, self._rows = _sketch(), _sketch(), 0
        for _, pane in self._closed:
            self._before.merge(pane)

    @property
    def rows(self) -> int:
        """How many scores have been taken in."""
        return self._rows + sum(rows for rows, _ in self._closed)

    def with_above(self, share: float) -> float:
        """The score that such a share of them is above, 0..1; there has to be one."""
        kept = self._merged()
        return float(kept.get_quantile(min(1.0, max(0.0, 1 - share * self.rows / kept.n))))

    def below(self, scores: NDArray[np.float32]) -> NDArray[np.float64]:
        """Which share of them is smaller than each, float64 [n], 0..1; NaN where there is none yet."""
        if not self.rows:
            return np.full(len(scores), np.nan)
        kept = self._merged()
        return np.array([1 - (1 - kept.get_rank(score, False)) * kept.n / self.rows for score in scores.tolist()])

    def _merged(self) -> datasketches.req_floats_sketch:
        if self._all is None:
            self._all = _sketch()
            self._all.merge(self._before)
            self._all.merge(self._pane)
        return self._all


def _sketch() -> datasketches.req_floats_sketch:
    return datasketches.req_floats_sketch(_K, True)  # exact at the top: high ranks
