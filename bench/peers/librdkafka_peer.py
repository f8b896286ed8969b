"""librdkafka's batch call from C (librdkafka.c), with the settings of the tuned loop: no Python at all while it runs.

python -m bench.peers.librdkafka_peer SERVERS TOPIC RECORDS
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import confluent_kafka

from bench.peers.raw import SETTINGS
from demo.broker import cache_dir, locked

SOURCE = Path(__file__).parent / "librdkafka.c"


def built() -> Path:
    """The program, compiled against the library inside the installed confluent-kafka."""
    wheel = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    library = next(wheel.glob("librdkafka*"))
    program = cache_dir() / f"peer-{library.name}"
    with locked(cache_dir() / "peer-librdkafka.lock"):
        if not program.exists() or program.stat().st_mtime < SOURCE.stat().st_mtime:
            # Its other libraries lie beside it, under names of their own.
            link = [str(library), f"-Wl,-rpath,{wheel}", f"-Wl,-rpath-link,{wheel}"]
            subprocess.run(["gcc", "-O2", "-o", str(program), str(SOURCE), *link], check=True)
    return program


def main(servers: str, topic: str, records: str) -> None:
    program = built()
    settings = [f"{name}={value}" for name, value in {**SETTINGS, "group.id": "librdkafka"}.items()]
    os.execv(program, [str(program), servers, topic, records, *settings])


if __name__ == "__main__":
    main(*sys.argv[1:4])
