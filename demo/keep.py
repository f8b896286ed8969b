"""What the demo leaves behind where it is asked to: its archive, its model and its use case, and how to go on."""

from __future__ import annotations

import shlex
from importlib import resources
from pathlib import Path

import use_cases
from beam_jobs.errors import UserError

_SCHEMAS = {"car_sensors": "car_sensor"}  # of use cases whose schema is not in their own folder


def prepare(folder: Path, use_case: str) -> None:
    """Makes the folder, and the use case in it, with its schema beside it: a copy to be edited.

    Raises:
      UserError: the folder holds something already, or can't be made.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--keep {folder}: is there already; name a new folder")
    copy = folder / use_case
    try:
        copy.mkdir(parents=True)
        for shipped in (resources.files(use_cases) / use_case).iterdir():
            if shipped.is_file():
                (copy / shipped.name).write_bytes(shipped.read_bytes())
        name = _SCHEMAS.get(use_case)
        if name:
            settings = (copy / "use_case.yaml").read_text(encoding="utf-8")
            settings = settings.replace(f"schema: {name} ", f"schema: {name}.avsc ", 1)
            (copy / "use_case.yaml").write_text(settings, encoding="utf-8")
            (copy / f"{name}.avsc").write_bytes((resources.files("schemas") / f"{name}.avsc").read_bytes())
    except OSError as error:
        raise UserError(f"--keep {folder}: {error.strerror or error}; name a folder you may write to") from error


def how_to_go_on(folder: Path, use_case: str) -> str:
    """The commands for what was kept."""
    case, archive, models = (shlex.quote(str(folder / name)) for name in (use_case, "archive", "models"))
    broker, registry = "kafka://localhost:9092", "--schema_registry http://localhost:8081"
    payments = use_case == "payment_fraud"
    topic = f"{broker}/{'payments' if payments else 'sensor-data'}"
    begin = (
        [
            "  export HIGHBEAM_PII_KEY=$(openssl rand -hex 32)   # of the pseudonyms; the demo's own is gone",
            f"  highbeam train --use_case {case} --data {archive} --registry {models}",
            "  highbeam broker   # in a terminal of its own",
            f"  highbeam demo payments --output {topic} {registry}",
        ]
        if payments
        else [
            f"  highbeam preview --use_case {case} --input {archive}",
            f"  highbeam train --use_case {case} --data {archive} --registry {models}",
            "  highbeam broker   # in a terminal of its own: cars that go on",
        ]
    )
    group = "--group_id going-on " if payments else ""
    return "\n".join(
        [
            f"kept in {folder}: {use_case}/ (the use case), archive/, models/. To go on:",
            *begin,
            f"  highbeam score --use_case {case} --model {models} --input {topic} {group}"
            f"{registry} --alerts {broker}/alerts --dead_letters {broker}/dead-letters --create_topics",
            f"  highbeam watch {broker}/alerts {registry}",
        ]
    )
