"""What the demo is told on its command line; without what it imports, for ``--help`` and errors."""

from __future__ import annotations

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds them to a parser."""
    parser.add_argument("--cars", type=int, default=200, help="cars in the fleet")
    parser.add_argument("--rate", type=float, default=2000, help="events per second, all cars together")
    parser.add_argument("--prevalence", type=float, default=0.1, help="share of the cars that fail during the demo")
    parser.add_argument("--bad_rate", type=float, default=0.001, help="share of records made unreadable on purpose")
    parser.add_argument("--seconds", type=float, default=None, help="stop after this time (default: until Ctrl-C)")
    parser.add_argument("--seed", type=int, default=1, help="of everything random")
    parser.add_argument("--training_rows", type=int, default=100_000, help="past events to archive and train on")
    parser.add_argument("--model", default=None, help="score with this registered model instead of training one")
    parser.add_argument(
        "--keep",
        metavar="DIR",
        default=None,
        help="keep the use case, the archive and the model in this new folder, and say how to go on with them",
    )
    parser.add_argument(
        "--broker",
        default="embedded",
        help="embedded (in memory, no Java), apache (Apache Kafka; needs Java and Maven), or kafka://host:9092",
    )
    parser.add_argument("--runner", default="DirectRunner", help="Beam runner of the scoring job")
    parser.add_argument("--headless", action="store_true", help="no live view; a line when something happens")
    parser.add_argument("--report", default=None, help="write the result as JSON to this file")
    parser.add_argument("--verbose", action="store_true", help="show what the parts log, and stack traces")
