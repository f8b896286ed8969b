"""Scoring imports nothing of what trains networks, and can be installed without it."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from confluent_kafka import Producer
from packaging.requirements import Requirement

import beam_jobs
import schemas
from beam_jobs.block import MAX_BLOCK_ROWS
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.transforms import KafkaOutput
from beam_jobs.sandbox.fleet import history
from beam_jobs.sandbox.process import Tansu

CHECKOUT = Path(beam_jobs.__file__).resolve().parent.parent
MOST_MB = 900

WITHOUT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"tensorflow", "keras", "sklearn", "matplotlib"}:
            raise ImportError(f"{name} is not installed")
sys.meta_path.insert(0, Refuse())
from beam_jobs.__main__ import console
console()
"""


def declared(name: str) -> list[Requirement]:
    tree = ast.parse((CHECKOUT / "setup.py").read_text())
    [value] = [n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == name]
    return [Requirement(text) for text in ast.literal_eval(value)]


def test_the_file_asks_for_what_setup_py_does_without_networks() -> None:
    lines = (CHECKOUT / "requirements-scoring.txt").read_text().splitlines()
    listed = {r.name: r.specifier for r in map(Requirement, (line for line in lines if not line.startswith("#")))}
    assert {r.name: r.specifier for r in declared("CORE")}.items() <= listed.items()
    assert {r.name for r in declared("NETWORKS")} == {"tensorflow", "tensorflow-cpu", "keras"}
    assert {r.name for r in declared("NETWORKS")} & set(listed) == set()


def score(python: str | Path, code: str, registry: Path, broker: Tansu, folder: Path, cwd: Path) -> dict[str, int]:
    """Scores 5,000 events with ``python -c code``; what the report says."""
    name = f"events-{os.urandom(4).hex()}"
    KafkaOutput(KafkaAddress.parse(f"kafka://{broker.bootstrap_servers}/{name}")).create()
    # One record a batch: the embedded broker counts a batch as one offset when it is asked where a topic ends.
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "batch.num.messages": 1})
    schema = schemas.load("car_sensor")
    encoder = AvroEncoder(schema, 1)
    for rows in history(5000, seed=9, cars=50):
        assert rows.num_rows <= MAX_BLOCK_ROWS
        for value in encoder.encode(rows.select([field["name"] for field in schema["fields"]])).to_pylist():
            producer.produce(name, value)
        producer.flush()
    address = f"kafka://{broker.bootstrap_servers}"
    words = ["--use_case=car_sensors", f"--model={registry}", f"--input={address}/{name}", "--from=earliest"]
    words += ["--until=latest", f"--alerts={address}/alerts", f"--dead_letters={address}/dead", "--create_topics"]
    command = [str(python), "-c", code, "score", *words, "--report", str(folder / "report.json")]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads((folder / "report.json").read_text())
    return found


def test_a_job_scores_where_nothing_of_it_can_be_imported(trained_model: Path, tmp_path: Path) -> None:
    with Tansu() as broker:
        report = score(sys.executable, WITHOUT, trained_model, broker, tmp_path, CHECKOUT)
    assert report["read"] == 5000
    assert report["scored"] + report["filtered"] + report["dead_letters"] == 5000


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_an_installation_without_it_scores_and_is_small(trained_model: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-compile"]
    subprocess.run([*install, "-r", str(CHECKOUT / "requirements-scoring.txt")], check=True)
    source = tmp_path / "source"
    source.mkdir()
    for entry in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "beam_jobs", "model", "schemas", "use_cases"):
        (source / entry).symlink_to(CHECKOUT / entry)
    subprocess.run([*install, "--no-deps", str(source)], check=True)
    with Tansu() as broker:
        code = "from beam_jobs.__main__ import console; console()"
        assert score(python, code, trained_model, broker, tmp_path, tmp_path)["read"] == 5000
    size = sum(path.lstat().st_blocks for path in (tmp_path / "venv").rglob("*")) * 512 / 2**20
    assert size < MOST_MB
