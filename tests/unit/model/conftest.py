"""One small model, trained once per test process."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from demo.fleet import history
from model.registry import resolve
from model.train import Settings, Trained, train


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Parquet file of 6,000 events of 120 cars."""
    path = tmp_path_factory.mktemp("history") / "history.parquet"
    pq.write_table(pa.Table.from_batches(list(history(6000, seed=8, cars=120, prevalence=0.3))), path)
    return path


@pytest.fixture(scope="session")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The outcome of ``train`` with the reference net; leave its files alone."""
    registry = tmp_path_factory.mktemp("registry")
    return train(Settings("car_sensors", str(data), str(registry), epochs=4, alert_budget=0.001))


@pytest.fixture
def version(trained: Trained, tmp_path: Path) -> Path:
    """A copy of the trained version, to damage."""
    copy = tmp_path / "car_sensors" / "versions" / trained.manifest.version
    shutil.copytree(resolve(str(trained.path)).path, copy)
    for path in copy.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return copy


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keras 3.15 saves variables through ``np.array(variable)``, which NumPy 2 warns about: theirs to mend."""
    message = "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings(message))
