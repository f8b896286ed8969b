"""Simulated payments, as a Parquet file to train on or onto a topic, and their labels, which come days later.

python -m demo.payments --output payments.parquet --labels labels.parquet
python -m demo.payments --output kafka://localhost:9092/payments --labels kafka://localhost:9092/labels
python -m demo.payments --benchmark --output payments.parquet
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from beam_jobs.errors import UserError
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.client import ensure_topic
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.sandbox.cards import DAY_MS
from beam_jobs.sandbox.cars import EventSender
from beam_jobs.sandbox.frauds import GENUINE, simulate
from beam_jobs.sandbox.payments import benchmark
from beam_jobs.terminal.cli import run
from beam_jobs.terminal.commands import DEMO
from beam_jobs.use_case import load_use_case

_KAFKA = "kafka://"
_PARTITIONS = 4
_BLOCK = 50_000  # rows


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command line's to a parser."""
    parser.add_argument("--output", required=True, help="the Parquet file, or kafka://host:9092/topic")
    parser.add_argument(
        "--labels",
        help="a Parquet file or topic for the labels, in the order in which they come: then the payments bear only "
        "those that are known when the last of them is made (a topic: none)",
    )
    parser.add_argument("--cards", type=int, default=20_000, help="cards, one of each owner of a car of the fleet")
    parser.add_argument("--days", type=int, default=60, help="days, with about 1.5 payments of each card")
    parser.add_argument("--start", default="2026-01-01", help="the first day, UTC")
    parser.add_argument("--prevalence", type=float, default=0.0017, help="share of the payments that are frauds")
    parser.add_argument("--label_days", type=float, default=7.0, help="days after which each label has come")
    parser.add_argument(
        "--seed", type=int, default=1, help="of everything random, and of the fleet whose cars they are"
    )
    parser.add_argument("--schema_registry", help="where topics' schemas are registered")
    parser.add_argument(
        "--benchmark",
        action="store_true",
        help="instead the payments of the public fraud benchmark, all 1,754,155 of them: half a minute",
    )
    parser.add_argument("--verbose", action="store_true", help="show stack traces")


def main(argv: Sequence[str]) -> int:
    """Parses the command line and writes the payments."""
    args = DEMO["demo payments"].parser().parse_args(argv)
    if args.benchmark:
        if args.labels or args.output.startswith(_KAFKA):
            raise UserError("--benchmark: its payments bear their labels, and go to a file; leave out --labels")
        known = benchmark()
        _write(known.table(), args.output)
        print(f"{len(known):,} payments, frauds by scenario: {', '.join(f'{n:,}' for n in known.added)}")
        return 0
    start_ms = _checked(args)
    payments = simulate(args.cards, args.days, args.seed, args.prevalence, start_ms, args.label_days)
    end_ms = 0 if args.output.startswith(_KAFKA) else start_ms + args.days * DAY_MS
    known_ms = end_ms if args.labels else None
    _put(payments.table(known_ms), "event_time", args.output, args)
    if args.labels:
        _put(payments.labels(), "label_time", args.labels, args)
    of = Counter(payments.fraud().to_pylist())
    del of[GENUINE]
    print(f"{len(payments):,} payments, {of.total():,} frauds: {', '.join(f'{kind} {n:,}' for kind, n in of.items())}")
    return 0


def _checked(args: argparse.Namespace) -> int:
    """The time of the first payment, in milliseconds.

    Raises:
      UserError: an argument of which no payments can be made.
    """
    for name in ("cards", "days", "label_days"):
        if getattr(args, name) <= 0:
            raise UserError(f"--{name} {getattr(args, name)}: expected a number above 0")
    if not 0 <= args.prevalence < 1:
        raise UserError(f"--prevalence {args.prevalence}: expected a share from 0 to below 1")
    try:
        return int(datetime.strptime(args.start, "%Y-%m-%d").replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError as error:
        raise UserError(f"--start {args.start}: expected a day such as 2026-01-01") from error


def _put(rows: pa.Table, time: str, where: str, args: argparse.Namespace) -> None:
    """Writes rows to a file, or sends them to a topic with that time as the time of each record."""
    if not where.startswith(_KAFKA):
        _write(rows, where)
        return
    address = KafkaAddress.parse(where)
    ensure_topic(address, KafkaConfig.from_file(None), partitions=_PARTITIONS)
    case = load_use_case("payment_fraud")
    sender = EventSender(address, args.schema_registry, 0, args.seed, case.schema, case.key)
    for block in rows.combine_chunks().to_batches(max_chunksize=_BLOCK):
        sender.send(block, times_ms=block[time].cast(pa.int64()).to_numpy())
    sender.close()


def _write(rows: pa.Table, where: str) -> None:
    path = Path(where)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, path, write_page_checksum=True)
    except OSError as error:
        raise UserError(f"{path}: {error}; name a file in a folder you may write to") from error


if __name__ == "__main__":
    run(main)
