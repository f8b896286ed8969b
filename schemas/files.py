"""The schema files of a checkout: those that ship here and with the use cases, or those of folders of one's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beam_jobs.errors import UserError

ROOT = Path(__file__).resolve().parent.parent  # of the checkout


def folders(given: Sequence[Path] = ()) -> list[Path]:
    """Folders with .avsc files: ``given``, or without any the shipped ones.

    Raises:
      UserError: a given folder has none.
    """
    if not given:
        found = [ROOT / "schemas", *sorted((ROOT / "use_cases").iterdir())]
        return [folder for folder in found if any(folder.glob("*.avsc"))]
    for folder in given:
        if not any(folder.glob("*.avsc")) and not (folder / "golden").is_dir():
            raise UserError(f"folder {folder} has no .avsc files; name a folder that has some")
    return [folder.resolve() for folder in given]


def schema_files(folder: Path) -> list[Path]:
    """The .avsc files of a folder, by name."""
    return sorted(folder.glob("*.avsc"))


def read(path: Path) -> dict[str, Any]:
    """The schema in a file.

    Raises:
      UserError: the file cannot be read, or holds no JSON object.
    """
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"schema file {path} cannot be read ({e}); give the path of an .avsc file") from e


def parse(text: str, where: str) -> dict[str, Any]:
    """The schema in a text; ``where`` names it in the error.

    Raises:
      UserError: the text is no JSON object.
    """
    try:
        schema = json.loads(text)
    except ValueError as e:
        raise UserError(f"schema {where} is not JSON ({e}); mend it") from e
    if not isinstance(schema, dict):
        raise UserError(f"schema {where} is no record: an .avsc file here holds one record schema")
    return schema
