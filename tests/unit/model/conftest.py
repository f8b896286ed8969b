"""One small model, trained once."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_jobs.sandbox.fleet import history
from demo.broker import locked
from model.registry import resolve
from model.training.plan import Settings
from model.training.train import Trained, train


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder of all workers of pytest-xdist; what is in it is made under the lock beside it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "unit-model"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def data(shared: Path) -> Path:
    """A Parquet file of 6,000 events of 120 cars."""
    path = shared / "history.parquet"
    with locked(shared.with_suffix(".lock")):
        if not path.exists():
            pq.write_table(pa.Table.from_batches(list(history(6000, seed=8, cars=120, prevalence=0.3))), path)
    return path


@pytest.fixture(scope="session")
def trained(data: Path, shared: Path) -> Trained:
    """The outcome of ``train`` with the reference net; leave its files alone."""
    kept = shared / "trained.pickle"
    with locked(shared.with_suffix(".lock")):
        if not kept.exists():
            settings = Settings("car_sensors", str(data), str(shared / "registry"), epochs=4, alert_budget=0.001)
            kept.write_bytes(pickle.dumps(train(settings)))
    made: Trained = pickle.loads(kept.read_bytes())
    return made


@pytest.fixture
def version(trained: Trained, tmp_path: Path) -> Path:
    """A copy of the trained version, to damage."""
    copy = tmp_path / "car_sensors" / "versions" / trained.manifest.version
    shutil.copytree(resolve(str(trained.path)).path, copy)
    for path in copy.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return copy
