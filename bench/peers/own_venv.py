"""Runs a peer in a virtual environment of its own: its pins must not meet Highbeam's.

python -m bench.peers.own_venv quix SERVERS TOPIC ALERTS_TOPIC WEIGHTS RECORDS
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from demo.broker import cache_dir, locked

REQUIREMENTS = {
    "quix": ["quixstreams==3.28.1", "fastavro==1.13.1", "numpy==2.4.6"],
    "bytewax": ["bytewax==0.21.1", "confluent-kafka==2.16.1", "fastavro==1.13.1", "numpy==2.4.6"],
    "pyflink": ["apache-flink==2.1.0", "fastavro==1.13.1", "pandas==2.2.3", "setuptools<80"],
}


def python(peer: str) -> str:
    """The interpreter of the peer's environment; made on first use."""
    folder = cache_dir() / f"peer-{peer}-{REQUIREMENTS[peer][0].partition('==')[2]}"
    with locked(cache_dir() / f"peer-{peer}.lock"):
        if not (folder / "ready").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
            pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *REQUIREMENTS[peer]]
            subprocess.run(pip, check=True)
            (folder / "ready").touch()
    return str(folder / "bin" / "python")


def main(peer: str, *arguments: str) -> None:
    root = str(Path(__file__).resolve().parent.parent.parent)
    os.environ |= {"PYTHONPATH": root, "BENCH_CACHE": str(cache_dir())}
    executable = python(peer)
    os.execv(executable, [executable, "-m", f"bench.peers.{peer}", *arguments])


if __name__ == "__main__":
    main(*sys.argv[1:])
