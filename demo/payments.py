"""Writes simulated payments as a Parquet file, to train on.

python -m demo.payments --benchmark --output payments.parquet
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from beam_jobs.errors import UserError
from beam_jobs.sandbox.payments import benchmark
from beam_jobs.terminal.cli import run
from beam_jobs.terminal.commands import DEMO


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command line's to a parser."""
    parser.add_argument(
        "--benchmark",
        action="store_true",
        required=True,
        help="the payments of the public fraud benchmark, all 1,754,155 of them: half a minute",
    )
    parser.add_argument("--output", type=Path, required=True, help="the Parquet file")
    parser.add_argument("--verbose", action="store_true", help="show stack traces")


def main(argv: Sequence[str]) -> int:
    """Parses the command line and writes the file."""
    args = DEMO["demo payments"].parser().parse_args(argv)
    payments = benchmark()
    try:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(payments.table(), args.output, write_page_checksum=True)
    except OSError as error:
        raise UserError(f"{args.output}: {error}; name a file in a folder you may write to") from error
    print(f"{len(payments):,} payments, frauds by scenario: {', '.join(f'{n:,}' for n in payments.added)}")
    return 0


if __name__ == "__main__":
    run(main)
