"""A simulated fleet, a broker: events archived, a model trained on the archive, live anomalies.

python -m demo                                   # a live view in the terminal; Ctrl-C ends it
python -m demo --cars 200 --seconds 60 --headless --report report.json
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from beam_jobs.errors import UserError
from beam_jobs.terminal.cli import Parser, run
from beam_jobs.terminal.report import check_writable
from demo.world import Settings, run_demo


def main(argv: Sequence[str]) -> int:
    """Parses the command line and runs the demo."""
    parser = Parser(
        prog="python -m demo",
        description=(__doc__ or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--cars", type=int, default=200, help="cars in the fleet")
    parser.add_argument("--rate", type=float, default=2000, help="events per second, all cars together")
    parser.add_argument("--prevalence", type=float, default=0.1, help="share of the cars that fail during the demo")
    parser.add_argument("--bad_rate", type=float, default=0.001, help="share of records made unreadable on purpose")
    parser.add_argument("--seconds", type=float, default=None, help="stop after this time (default: until Ctrl-C)")
    parser.add_argument("--seed", type=int, default=1, help="of everything random")
    parser.add_argument("--training_rows", type=int, default=100_000, help="past events to archive and train on")
    parser.add_argument("--model", default=None, help="score with this registered model instead of training one")
    parser.add_argument(
        "--broker",
        default="embedded",
        help="embedded (in memory, no Java), apache (Apache Kafka; needs Java and Maven), or kafka://host:9092",
    )
    parser.add_argument("--runner", default="DirectRunner", help="Beam runner of the scoring job")
    parser.add_argument("--headless", action="store_true", help="no live view; a line when something happens")
    parser.add_argument("--report", default=None, help="write the result as JSON to this file")
    parser.add_argument("--verbose", action="store_true", help="show what the parts log, and stack traces")
    args = parser.parse_args(argv)
    for name in ("cars", "rate", "training_rows"):
        if getattr(args, name) <= 0:
            raise UserError(f"--{name} {getattr(args, name)}: expected a number above 0")
    if args.seconds is not None and args.seconds <= 0:
        raise UserError(f"--seconds {args.seconds:g}: expected a number above 0; without it the demo runs until Ctrl-C")
    if args.report:
        check_writable(args.report)
    for name in ("prevalence", "bad_rate"):
        if not 0 <= getattr(args, name) <= 1:
            raise UserError(f"--{name} {getattr(args, name)}: expected a share between 0 and 1")
    return run_demo(Settings(**vars(args)))


if __name__ == "__main__":
    run(main)
