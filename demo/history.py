"""Writes a simulated fleet's past as a Parquet file, to train on.

python -m demo.history --rows 120000 --output history.parquet
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from beam_jobs.errors import UserError
from beam_jobs.sandbox.fleet import history
from beam_jobs.terminal.cli import run
from beam_jobs.terminal.commands import DEMO


def write_history(path: Path, rows: int, seed: int) -> None:
    """Writes ``rows`` events of another fleet than the demo's; its failed cars are labelled by kind.

    Raises:
      UserError: the file cannot be written.
    """
    blocks = history(rows, seed)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        first = next(blocks)
        with pq.ParquetWriter(path, first.schema, write_page_checksum=True) as writer:
            writer.write_batch(first)
            for block in blocks:
                writer.write_batch(block)
    except OSError as error:
        raise UserError(f"{path}: {error}; name a file in a folder you may write to") from error


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command line's to a parser."""
    parser.add_argument("--rows", type=int, default=120_000, help="number of events")
    parser.add_argument("--seed", type=int, default=2, help="of everything random")
    parser.add_argument("--output", type=Path, required=True, help="the Parquet file")
    parser.add_argument("--verbose", action="store_true", help="show stack traces")


def main(argv: Sequence[str]) -> int:
    """Parses the command line and writes the file."""
    args = DEMO["demo history"].parser().parse_args(argv)
    if args.rows <= 0:
        raise UserError(f"--rows {args.rows}: expected a number above 0")
    write_history(args.output, args.rows, args.seed)
    return 0


if __name__ == "__main__":
    run(main)
