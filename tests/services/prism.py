"""Beam's Prism runner for tests, built with Go where it is not there yet."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from demo.broker import cache_dir, locked

PRISM_VERSION = "v2.77.0"
PRISM_MODULE = f"github.com/apache/beam/sdks/v2/go/cmd/prism@{PRISM_VERSION}"


@pytest.fixture(scope="session")
def prism_binary() -> Path:
    return prism()


def prism() -> Path:
    """Beam's Prism runner: from PATH, Beam's own cache, or built with Go into the cache; skips where it cannot be."""
    on_path = shutil.which("prism")
    if on_path:
        return Path(on_path)
    kept = sorted((Path.home() / ".apache_beam" / "cache" / "prism" / "bin").glob(f"*prism*{PRISM_VERSION}*"))
    ready = [path for path in kept if path.is_file() and os.access(path, os.X_OK) and path.suffix != ".zip"]
    if ready:
        return ready[0]
    folder = cache_dir() / f"prism-{PRISM_VERSION}"
    binary = folder / "prism"
    with locked(cache_dir() / "prism.lock"):
        if not binary.exists():
            if shutil.which("go") is None:
                pytest.skip("Prism is neither on PATH nor in Beam's cache, and Go to build it is not installed")
            build = subprocess.run(
                ["go", "install", PRISM_MODULE],
                env={**os.environ, "GOBIN": str(folder)},
                capture_output=True,
                text=True,
                timeout=900,
                check=False,
            )
            if build.returncode != 0:
                pytest.skip(f"Prism could not be built: {build.stderr.strip().splitlines()[-1:]}")
    return binary
