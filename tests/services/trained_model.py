"""A small trained model for the tests of whole jobs, trained once a session."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from demo.broker import locked
from demo.history import write_history


@pytest.fixture(scope="session")
def trained_model(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A model registry folder with one car_sensors version; all workers of pytest-xdist share it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "trained-model"
    with locked(folder.with_suffix(".lock")):
        if not (folder / "done").exists():
            write_history(folder / "history.parquet", 20_000, seed=3)
            command = [sys.executable, "-m", "model.train", "--use_case", "car_sensors", "--epochs", "6"]
            command += ["--data", str(folder / "history.parquet"), "--registry", str(folder / "models")]
            subprocess.run([*command, "--no-baseline"], check=True, capture_output=True, timeout=600)
            (folder / "done").touch()
    return folder / "models"
