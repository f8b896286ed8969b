"""What tests need of Go: binaries built once, into the cache."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from demo.broker import cache_dir, locked


def built(
    what: str,
    binary: Path,
    command: Sequence[str],
    changed: float = 0.0,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Path:
    """A binary that ``go COMMAND`` builds; skips the test where it can't be built.

    Args:
      what: it is, for the reason: "Prism".
      changed: when its source was, seconds since the epoch: an older binary is built anew.
      folder: that Go runs in.
      environment: on top of this process's.
    """
    with locked(cache_dir() / f"{binary.parent.name}.lock"):
        if binary.exists() and binary.stat().st_mtime >= changed:
            return binary
        if shutil.which("go") is None:
            pytest.skip(f"{what} is not there, and Go to build it is not installed")
        done = subprocess.run(
            ["go", *command],
            cwd=folder,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        if done.returncode != 0:
            pytest.skip(f"{what} could not be built: {done.stderr.strip().splitlines()[-1:]}")
    return binary
