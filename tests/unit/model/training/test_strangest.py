"""The strangest rows say what was read and what was expected."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from model.kinds.protocol import Scores
from model.rows import Part
from model.training.strangest import ROWS, strangest

NAMES = ("a", "b", "c", "d")


def judge(x: np.ndarray) -> Scores:
    """Expects nothing but zeros."""
    return Scores(np.abs(x).max(axis=1), np.zeros_like(x), x**2)


def test_the_highest_scores_come_first_with_what_deviates_most() -> None:
    x = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    x[40], x[7] = (3, -8, 0, 0.5), (20, 0, 0, 0)
    part = Part(x, np.zeros(100, np.uint64), 1_763_794_800_000 + np.arange(100))  # type: ignore[arg-type]
    kinds = pa.array(["tire" if i == 7 else "" for i in range(100)]).dictionary_encode()
    scores = judge(x).score
    found = strangest(part, kinds, scores, 10.0, lambda s: s + 1, judge, NAMES)
    assert len(found) == ROWS
    first, second = found[:2]
    assert (first.score, first.percentile, first.alert, first.kind) == (20, 21, True, "tire")
    assert (second.score, second.alert, second.kind) == (8, False, "")
    assert first.time == "2025-11-22T07:00:00.007+00:00"
    assert str(first.readings[0]) == "a 20, expected 0"
    assert [each.name for each in second.readings] == ["b", "a"]
    assert [each.share for each in second.readings] == pytest.approx([64 / 73.25, 9 / 73.25])
    assert [row.score for row in found] == sorted(scores.tolist(), reverse=True)[:ROWS]


def test_fewer_rows_are_all_shown() -> None:
    x = np.ones((3, 4), np.float32)
    part = Part(x, np.zeros(3, np.uint64), np.arange(3))  # type: ignore[arg-type]
    kinds = pa.array(["", "", ""]).dictionary_encode()
    found = strangest(part, kinds, judge(x).score, 1.0, lambda s: s, judge, NAMES)
    assert [row.time[-10:-6] for row in found] == [".000", ".001", ".002"]
    none = strangest(Part(x[:0], part.keys[:0], part.times[:0]), kinds[:0], x[:0, 0], 1, lambda s: s, judge, NAMES)  # type: ignore[arg-type]
    assert none == ()
