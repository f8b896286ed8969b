"""Peers are judged on the autoencoder's rows, and data they can't bear costs no training."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from model.rows import Part
from model.training import peers
from model.training.peers import FITS, Peer, judge
from model.training.spool import Parts

BUDGET = 0.05


def part(x: np.ndarray) -> Part:
    return Part(x.astype(np.float32), np.arange(len(x), dtype=np.uint64), np.zeros(len(x), np.int64))  # type: ignore[arg-type]


def judged(x: np.ndarray, failures: int = 0, shift: float = 20.0) -> tuple[Peer, Peer]:
    """Of rows in random order, a third of them in each part; the first ones of the test are shifted in column 0."""
    train, validation, test = np.array_split(x, 3)
    test = test.copy()
    test[:failures, 0] += shift
    failed = np.arange(len(test)) < failures
    kinds = pa.array(np.where(failed, "shifted", "")).dictionary_encode()
    scores = np.abs(test[:, 0]).astype(np.float32)
    parts = Parts(part(train), part(validation), part(test), failed, kinds, "key")
    forest, mahalanobis = judge(parts, scores, float(np.quantile(scores, 1 - BUDGET)), BUDGET, seed=3)
    assert [forest.name, mahalanobis.name] == list(FITS)
    return forest, mahalanobis


@pytest.fixture
def normal() -> np.ndarray:
    random = np.random.default_rng(0)
    return random.normal(size=(1500, 2)) @ random.normal(size=(2, 4)) + random.normal(0, 0.3, (1500, 4))


def test_peers_are_judged_by_labels(normal: np.ndarray) -> None:
    found = judged(normal, failures=20)
    assert found[1].evaluation.recall == 1
    for peer in found:
        assert (peer.evaluation.failures, peer.evaluation.rows, peer.reason) == (20, 500, "")
        assert peer.evaluation.roc_auc > 0.95
        assert peer.evaluation.recall == peer.evaluation.recall_by_kind["shifted"] > 0.4
        assert 0.02 < peer.evaluation.false_alert_share < 0.1
        assert 0.2 < peer.agreement <= 1


def test_without_labels_there_is_the_share_of_alerts_and_how_far_they_agree(normal: np.ndarray) -> None:
    for peer in judged(normal):
        assert peer.evaluation.roc_auc is None
        assert 0.02 < peer.evaluation.false_alert_share < 0.1
        assert 0 < peer.agreement < 1


def test_the_same_seed_gives_the_same_figures(normal: np.ndarray) -> None:
    assert judged(normal, failures=20) == judged(normal, failures=20)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: np.hstack([x, x]),  # perfectly correlated
        lambda x: np.hstack([x, x.sum(axis=1, keepdims=True)]),
        lambda x: np.hstack([x, np.full((len(x), 1), 2000.0)]),  # constant
        lambda x: np.hstack([x, np.zeros((len(x), 2))]),
        lambda x: np.hstack([x, np.random.default_rng(0).poisson(0.02, (len(x), 1))]),  # zero-inflated
        lambda x: np.hstack([x, 1e9 + x[:, :1]]),
        lambda x: np.where(np.arange(len(x))[:, None] == 3, 3e38, x),
        lambda x: np.where(np.arange(len(x))[:, None] % 2, 3e38, -3e38) + 0 * x,
        lambda x: np.repeat(x[:30], 50, axis=0)[np.random.default_rng(0).permutation(1500)],  # duplicates
    ],
)
def test_singular_data_has_figures(normal: np.ndarray, change: object) -> None:
    for peer in judged(change(normal), failures=20):
        assert peer.reason == ""
        assert np.isfinite(peer.evaluation.roc_auc)


def test_failures_are_found_beside_copies_and_constants(normal: np.ndarray) -> None:
    _, mahalanobis = judged(np.hstack([normal, normal, np.zeros((len(normal), 1))]), failures=20)
    assert mahalanobis.evaluation.recall == 1


@pytest.mark.parametrize(
    ("rows", "features", "reasons"),
    [
        (300, 80, ("", "100 training rows say nothing about a covariance of 80 features")),
        (900, 70, ("", "a robust covariance of 70 features, more than 64, takes too long")),
        (90, 2, ("at least 50 normal held-out rows", "at least 50 normal held-out rows")),
        (3, 2, ("1 training rows", "1 training rows")),
    ],
)
def test_what_cannot_be_fitted_says_why(rows: int, features: int, reasons: tuple[str, str]) -> None:
    found = judged(np.random.default_rng(0).normal(size=(rows, features)))
    for peer, reason in zip(found, reasons, strict=True):
        assert reason in peer.reason
        assert (peer.evaluation is None) == bool(reason)
    assert len(peers.explain(found)) == sum(map(bool, reasons))


def test_many_rows_are_not_all_looked_at(normal: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "SCORED_ROWS", 120)
    assert [peer.evaluation.rows for peer in judged(normal)] == [120, 120]
