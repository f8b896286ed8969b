"""Peers in Java: folders beside this module with a pom.xml, built once with Maven."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from demo.broker import cache_dir, locked


def built(name: str) -> str:
    """The class path of ``bench/peers/NAME``."""
    sources = Path(__file__).parent / name
    files = sorted(path for path in sources.rglob("*") if path.is_file())
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]
    label = f"peer-{name.replace('_', '-')}"
    folder = cache_dir() / f"{label}-{digest}"
    with locked(cache_dir() / f"{label}.lock"):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=cache_dir()) as scratch:
                shutil.copytree(sources, scratch, dirs_exist_ok=True)
                copy = ["compile", "dependency:copy-dependencies", f"-DoutputDirectory={scratch}/out/jars"]
                subprocess.run(["mvn", "-q", "-B", "-f", f"{scratch}/pom.xml", *copy], check=True)
                shutil.copytree(f"{scratch}/target/classes", f"{scratch}/out/classes")
                Path(scratch, "out").rename(folder)
    return f"{folder}/classes:{folder}/jars/*"
