"""Beam's Prism runner for tests, built with Go where it is not there yet."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from demo.broker import cache_dir
from tests.services.go_build import built

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
    return built("Prism", folder / "prism", ["install", PRISM_MODULE], environment={"GOBIN": str(folder)})
