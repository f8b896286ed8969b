"""A small trained model for the tests of whole jobs, trained once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.broker import locked
from demo.history import write_history
from model.training.plan import Settings
from model.training.train import train


@pytest.fixture(scope="session")
def trained_model(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A model registry folder with one car_sensors version; all workers of pytest-xdist share it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "trained-model"
    with locked(folder.with_suffix(".lock")):
        if not (folder / "done").exists():
            history = folder / "history.parquet"
            write_history(history, 20_000, seed=3)
            train(Settings("car_sensors", str(history), str(folder / "models"), epochs=6, baseline=False, peers=False))
            (folder / "done").touch()
    return folder / "models"
