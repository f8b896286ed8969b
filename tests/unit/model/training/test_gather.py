"""What training says of features a model can't tell anything from."""

from __future__ import annotations

import numpy as np
import pytest

from beam_jobs.errors import UserError
from model.training import gather
from model.training.gather import check_features


def said(*columns: object, n: int = 1000) -> list[str]:
    x = np.stack([np.broadcast_to(np.asarray(column, np.float32), n) for column in columns], axis=1)
    return check_features(x, [f"f{i}" for i in range(len(columns))])


NORMAL = np.random.default_rng(0).normal(20, 5, 1000)


def test_ordinary_features_are_not_mentioned() -> None:
    zeros = np.where(NORMAL > 12, 0, NORMAL)
    assert said(NORMAL, 7, 0, zeros, NORMAL * 1e12, NORMAL * 1e-12, 1e9 + 1000 * NORMAL, np.arange(1000), 1000) == []


@pytest.mark.parametrize(
    ("offset", "step", "spread"), [(1e9, 64, "are the same"), (1e8, 8, "lie within"), (-1e9, 64, "are the same")]
)
def test_a_large_offset_hides_what_is_added_to_it(offset: float, step: int, spread: str) -> None:
    (line,) = said(NORMAL, offset + NORMAL)
    assert line.startswith(f"column f1: near {str(int(offset))[:6]}")
    assert f"float32 tells apart steps of {step}, and nearly all values {spread}" in line


def test_a_feature_may_be_constant_but_not_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "_SAMPLE", 100)
    monkeypatch.setattr(gather, "_CHUNK", 300)
    late = np.r_[np.full(950, 3.0), np.arange(50)]
    assert said(7, late) == []
    with pytest.raises(UserError, match=r"all 1,000 rows to learn from are the same \(f0 is 7, f1 is 0.1\)"):
        said(7, 0.1)


def test_a_few_values_may_be_huge() -> None:
    few = np.where(np.arange(1000) % 50, NORMAL, 3e38)
    assert said(few) == []
    with pytest.raises(UserError, match=r"column f1: values such as 3e\+38 are beyond"):
        said(NORMAL, np.where(np.arange(1000) % 5, NORMAL, 3e38))
