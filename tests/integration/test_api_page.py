"""The Python of docs/api.md and its notebook run: on the embedded broker, with a small model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import polars as pl
import pytest
from confluent_kafka import Producer
from nbclient import NotebookClient

import beam_jobs
import schemas
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.transforms import KafkaOutput
from beam_jobs.sandbox.fleet import history
from beam_jobs.sandbox.process import Tansu
from tests.integration.archives import rows

ROOT = Path(beam_jobs.__file__).resolve().parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/api.md").read_text(), re.DOTALL)
BAD = b"no event"


def run(code: str, folder: Path) -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_pipelines_of_the_page_run(trained_model: Path, tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to(trained_model)
    scoring, archiving, _, _ = BLOCKS
    with Tansu() as broker:
        for topic in ("sensor-data", "alerts", "dead-letters"):
            KafkaOutput(KafkaAddress.parse(f"kafka://{broker.bootstrap_servers}/{topic}")).create()
        # One record a batch: the embedded broker counts a batch as one offset when it is asked where a topic ends.
        producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "batch.num.messages": 1})
        schema = schemas.load("car_sensor")
        encoder = AvroEncoder(schema, 1)
        for events in history(2000, seed=9, cars=50):
            for value in encoder.encode(events.select([field["name"] for field in schema["fields"]])).to_pylist():
                producer.produce("sensor-data", value)
        producer.produce("sensor-data", BAD)
        producer.flush()
        run(scoring.replace("localhost:9092", broker.bootstrap_servers), tmp_path)
        run(archiving.replace("localhost:9092", broker.bootstrap_servers), tmp_path)
    assert len(rows(tmp_path)) == 2000


def test_the_notebook_runs(trained_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").symlink_to(trained_model)
    events = pl.read_parquet(trained_model.parent / "history.parquet")
    events = events.with_columns(speed=pl.when(pl.int_range(pl.len()) > 0).then("speed").otherwise(float("nan")))
    events.write_parquet(tmp_path / "history.parquet")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):  # what the kernel writes
        monkeypatch.setenv(name, str(tmp_path / name))
    notebook = nbformat.read(ROOT / "docs/notebook.ipynb", 4)
    cells = {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}
    assert not any(cell.outputs or cell.execution_count for cell in cells.values()), "the file has no outputs"
    code = "\n".join(cell.source for cell in cells.values()).splitlines()
    for block in BLOCKS[-2:]:
        assert set(block.splitlines()) <= set(code)  # the page shows its beginning
    NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(tmp_path)}}).execute()
    page = cells["preview"].outputs[-1].data["text/html"]
    assert "5,000 rows of history.parquet" in page
    assert "speed is NaN" in page
    assert "threshold" in cells["load"].outputs[0].text
    shown = {name: cells[name].outputs[-1].data["text/plain"] for name in ("score", "strangest", "reasons")}
    assert f"{len(events) - 1}.0" in shown["score"]
    assert shown["strangest"].count("True") == 5
    assert "not_finite" in shown["reasons"]
