"""A simulated fleet, or its owners' payments, a broker: events archived, a model trained on that, live anomalies.

python -m demo                                   # a live view in the terminal; Ctrl-C ends it
python -m demo --cars 200 --seconds 60 --headless --report report.json
python -m demo --use_case payment_fraud
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from beam_jobs.errors import UserError
from beam_jobs.terminal.cli import run
from beam_jobs.terminal.commands import DEMO
from beam_jobs.terminal.report import check_writable
from demo.arguments import with_defaults
from demo.keep import prepare
from demo.scenario import Settings
from demo.world import run_demo


def main(argv: Sequence[str]) -> int:
    """Parses the command line and runs the demo."""
    args = with_defaults(DEMO["demo"].parser().parse_args(argv))
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
    if args.keep and args.model:
        raise UserError(f"--keep {args.keep}: with --model nothing is archived or trained; leave one of them out")
    if args.keep:
        prepare(Path(args.keep), args.use_case)
    return run_demo(Settings(**vars(args)))


if __name__ == "__main__":
    run(main)
