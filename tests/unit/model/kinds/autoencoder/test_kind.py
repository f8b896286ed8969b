"""The autoencoder as a kind: its settings, its own report of a training that came to nothing."""

from __future__ import annotations

import numpy as np
import pytest

from beam_jobs.errors import UserError
from model.kinds.autoencoder.kind import check_scores
from model.kinds.autoencoder.settings import NetworkConfig


def test_settings_of_a_use_case_become_the_network() -> None:
    config = NetworkConfig(hidden=[4, 2, 4], epochs=3)  # type: ignore[arg-type]  # as YAML has it
    assert (config.hidden, config.epochs, config.noise) == ((4, 2, 4), 3, NetworkConfig().noise)
    assert hash(config) == hash(NetworkConfig(hidden=(4, 2, 4), epochs=3))


@pytest.mark.parametrize(
    ("name", "value"),
    [("hidden", []), ("hidden", [0]), ("hidden", 4), ("noise", -1), ("epochs", 0), ("epochs", 1.0), ("patience", True)],
)
def test_wrong_settings_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{name} is .*; use "):
        NetworkConfig(**{name: value})  # type: ignore[arg-type]


def test_scores_must_be_finite() -> None:
    check_scores(np.ones(9), 0.003)
    with pytest.raises(UserError, match=r"training diverged: 2 of 3 validation .* lower model.learning_rate .* is 9$"):
        check_scores(np.array([1, np.nan, np.inf]), 9.0)
