"""What the packages export, and that importing them changes nothing in a process."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import beam_jobs
import model

ROOT = Path(beam_jobs.__file__).resolve().parent.parent

STATE = """
import json, logging, multiprocessing, os, signal, sys, warnings
def state():
    handlers = {number: repr(signal.getsignal(number)) for number in signal.valid_signals()}
    log = logging.getLogger()
    loggers = [log.level, repr(log.handlers), repr(log.filters), logging.raiseExceptions, logging.root.manager.disable]
    return [dict(os.environ), handlers, loggers, repr(warnings.filters), repr(sys.excepthook),
            multiprocessing.get_start_method(allow_none=True), sys.argv, os.getcwd()]
OTHERS
before = state()
OURS
assert state() == before, [b for a, b in zip(before, state()) if a != b]
print(json.dumps(sorted({"apache_beam", "polars", "pyarrow", "numpy", "numba", "tensorflow"} & set(sys.modules))))
"""


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_packages_changes_nothing_and_is_cheap() -> None:
    code = STATE.replace("OTHERS", "").replace("OURS", "import beam_jobs, model, use_cases")
    assert json.loads(python(code)) == []


def test_no_exported_name_changes_anything() -> None:
    """What the libraries it stands on do when they are imported is theirs."""
    others = [
        *("apache_beam", "apache_beam.io.gcp.pubsub", "apache_beam.ml.inference.base", "confluent_kafka", "numba"),
        *("confluent_kafka.schema_registry", "google.cloud.storage", "google.pubsub_v1", "polars", "pyarrow.parquet"),
        "sqlglot",
    ]
    ours = "import beam_jobs, model\nfor p in (beam_jobs, model):\n    [getattr(p, name) for name in p.PUBLIC]"
    python(STATE.replace("OTHERS", f"import {', '.join(others)}").replace("OURS", ours))


@pytest.mark.parametrize("package", [beam_jobs, model], ids=lambda package: package.__name__)
def test_every_exported_name_is_there_and_typed(package: ModuleType) -> None:
    for name, home in package.PUBLIC.items():
        assert getattr(package, name) is getattr(importlib.import_module(home), name)
    tree = ast.parse(Path(str(package.__file__)).read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    typed = {a.asname: node.module for node in block.body if isinstance(node, ast.ImportFrom) for a in node.names}
    assert typed == package.PUBLIC
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("before", "threads"),
    [("", 1), ("os.environ['POLARS_MAX_THREADS'] = '2'", 2), ("import polars", 1)],
)
def test_polars_has_one_thread_in_a_job(before: str, threads: int) -> None:
    """A step sets its process up, whoever started that: on Dataflow it is a worker of the service's."""
    code = (
        f"import os\nos.environ.pop('POLARS_MAX_THREADS', None)\n{before}\n"
        "import pickle\nfrom beam_jobs import Preprocess, load_use_case\n"
        "step = pickle.loads(pickle.dumps(Preprocess(load_use_case('car_sensors').preprocessor(), 'j')))\n"
        "assert os.environ.get('POLARS_MAX_THREADS') in (None, '2')\n"
        "step.setup()\nimport polars\nprint(polars.thread_pool_size())"
    )
    assert int(python(code)) == threads


def test_polars_has_one_thread_from_the_start_of_a_job() -> None:
    """In the process that checks it, and in those that share its input."""
    code = (
        "import os\nos.environ.pop('POLARS_MAX_THREADS', None)\n"
        "import polars, sys\nfrom apache_beam.options.pipeline_options import PipelineOptions\n"
        "from beam_jobs.running import launch\n"
        "import multiprocessing\n"
        "if __name__ == '__main__':\n"
        "    with launch.begin(PipelineOptions([])):\n"
        "        context = multiprocessing.get_context('spawn')\n"
        "        with context.Pool(1) as pool:\n"
        "            print(polars.thread_pool_size(), pool.apply(polars.thread_pool_size))"
    )
    assert python(code).split() == ["1", "1"]
