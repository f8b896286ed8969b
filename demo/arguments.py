"""What the demo is told on its command line; without what it imports, for ``--help`` and errors."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "car_sensors": {"cars": 200, "rate": 2000, "prevalence": 0.1, "training_rows": 100_000},
    "payment_fraud": {"cars": 3000, "rate": 200, "prevalence": 0.01, "training_rows": 60_000},
}


def with_defaults(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments, with those of the use case where nothing was said."""
    for name, value in DEFAULTS[args.use_case].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def _help(what: str, name: str) -> str:
    cars, payments = (f"{of[name]:g}" if of[name] < 1000 else f"{of[name]:,}" for of in DEFAULTS.values())
    return f"{what} (default: {cars}; payments: {payments})"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds them to a parser."""
    parser.add_argument(
        "--use_case", default="car_sensors", choices=list(DEFAULTS), help="the fleet, or what its owners pay with cards"
    )
    parser.add_argument("--cars", type=int, help=_help("cars in the fleet; of payments, each owner has a card", "cars"))
    parser.add_argument("--rate", type=float, help=_help("events per second, all cars together", "rate"))
    parser.add_argument(
        "--prevalence",
        type=float,
        help=_help("share of the cars that fail during the demo, of the payments that are frauds", "prevalence"),
    )
    parser.add_argument("--bad_rate", type=float, default=0.001, help="share of records made unreadable on purpose")
    parser.add_argument("--seconds", type=float, default=None, help="stop after this time (default: until Ctrl-C)")
    parser.add_argument("--seed", type=int, default=1, help="of everything random")
    parser.add_argument("--training_rows", type=int, help=_help("past events to train on", "training_rows"))
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
