"""``python -m schemas.registry``."""

from beam_jobs.terminal.cli import run
from schemas.registry.server import main

if __name__ == "__main__":
    run(main)
