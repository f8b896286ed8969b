"""What the demo leaves behind where it is asked to: its archive, its model and its use case, and how to go on."""

from __future__ import annotations

import shlex
from importlib import resources
from pathlib import Path

import use_cases
from beam_jobs.errors import UserError

_USE_CASE = "car_sensors"
_SCHEMA = "car_sensor"


def prepare(folder: Path) -> None:
    """Makes the folder, and the use case in it, with its schema beside it: a copy to be edited.

    Raises:
      UserError: the folder holds something already, or can't be made.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--keep {folder}: is there already; name a new folder")
    copy = folder / _USE_CASE
    try:
        copy.mkdir(parents=True)
        shipped = resources.files(use_cases) / _USE_CASE
        settings = (shipped / "use_case.yaml").read_text(encoding="utf-8")
        settings = settings.replace(f"schema: {_SCHEMA} ", f"schema: {_SCHEMA}.avsc ", 1)
        (copy / "use_case.yaml").write_text(settings, encoding="utf-8")
        (copy / "preprocess.sql").write_bytes((shipped / "preprocess.sql").read_bytes())
        schema = resources.files("schemas") / f"{_SCHEMA}.avsc"
        (copy / f"{_SCHEMA}.avsc").write_bytes(schema.read_bytes())
    except OSError as error:
        raise UserError(f"--keep {folder}: {error.strerror or error}; name a folder you may write to") from error


def how_to_go_on(folder: Path) -> str:
    """The commands for what was kept."""
    use_case, archive, models = (shlex.quote(str(folder / name)) for name in (_USE_CASE, "archive", "models"))
    broker = "kafka://localhost:9092"
    return "\n".join(
        [
            f"kept in {folder}: {_USE_CASE}/ (the use case), archive/, models/. To go on:",
            f"  highbeam preview --use_case {use_case} --input {archive}",
            f"  highbeam train --use_case {use_case} --data {archive} --registry {models}",
            "  highbeam broker   # in a terminal of its own: cars that go on",
            f"  highbeam score --use_case {use_case} --model {models} --input {broker}/sensor-data "
            f"--schema_registry http://localhost:8081 --alerts {broker}/alerts "
            f"--dead_letters {broker}/dead-letters --create_topics",
            f"  highbeam watch {broker}/alerts --schema_registry http://localhost:8081",
        ]
    )
