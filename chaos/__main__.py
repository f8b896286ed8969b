"""A chaos campaign: whole jobs under faults; what went in against what came out, counted without asking the jobs.

    python -m chaos --seconds 600 --seed 7
    python -m chaos --scenario elections

Apache Kafka (three brokers), Google's fake of Pub/Sub and an emulator of Cloud Storage run on this machine; what
cannot be had is skipped with the reason. A seed gives the same faults at the same times; what they meet there is not
the same. Records count by position and by a hash of their content; scores have to be those of an undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from beam_jobs.terminal.cli import EXIT_FAILED, EXIT_INTERRUPTED, run
from chaos.campaign import Outcome, Teller, play
from chaos.scenarios import SCENARIOS, Scenario
from chaos.world import NotHereError, World


def main(argv: Sequence[str]) -> int:
    args = _parse(argv)
    if args.list:
        for scenario in SCENARIOS:
            print(f"{scenario.name:18} {scenario}")
        return 0
    chosen = [
        replace(s, rounds=s.rounds * args.rounds) for s in SCENARIOS if not args.scenario or s.name in args.scenario
    ]
    if args.logs:
        Path(args.logs).mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"chaos-{args.seed}-", dir=args.logs)).resolve()
    print(f"seed {args.seed}, {args.seconds:.0f} s, {len(chosen)} scenarios, logs in {folder}", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    outcomes: list[Outcome] = []
    status = 0
    try:
        with World(folder, args.seed, args.rounds) as world:
            _campaign(world, chosen, args, outcomes)
    except KeyboardInterrupt:
        print("stopped", flush=True)
        status = EXIT_INTERRUPTED
    sound = _summary(outcomes, chosen, args)
    if sound:
        shutil.rmtree(folder, ignore_errors=True)
    return status or (0 if sound else EXIT_FAILED)


def _campaign(world: World, chosen: Sequence[Scenario], args: argparse.Namespace, outcomes: list[Outcome]) -> None:
    """Runs all scenarios, again and again, each turn in an order of the seed: other nights have time for others."""
    order = random.Random(args.seed)
    teller = Teller()
    started: float | None = None  # the first scenario's start: what comes before is done once
    turn = 0
    while True:
        for scenario in order.sample(chosen, len(chosen)):
            if started is not None and time.monotonic() - started > args.seconds:
                return
            chance = random.Random(f"{args.seed} {scenario.name} {turn}")
            try:
                scenario.prepare(world)
                started = started or time.monotonic()
                outcomes.append(play(world, scenario, chance, turn, teller))
            except NotHereError as reason:
                outcomes.append(Outcome(scenario.name, skipped=str(reason)))
        turn += 1
        if args.scenario or all(outcome.skipped for outcome in outcomes):
            return


def _summary(outcomes: Sequence[Outcome], chosen: Sequence[Scenario], args: argparse.Namespace) -> bool:
    """Prints the table and the last line, writes the report; whether all is sound."""
    table = Table(title=f"Chaos, seed {args.seed}", title_justify="left")
    table.add_column("scenario")
    for name in ("faults", "restarts", "produced", "out", "repeated", "lost", "wrong", "s"):
        table.add_column(name, justify="right")
    for o in outcomes:
        if o.skipped:
            table.add_row(o.scenario, f"skipped: {o.skipped}")
            continue
        counts = (o.faults, o.restarts, o.produced, o.out, o.repeated, o.lost, o.wrong, round(o.seconds))
        table.add_row(o.scenario, *(f"{n:,}" for n in counts), style=None if o.sound else "bold red")
    console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 120)
    console.print(table)
    for o in outcomes:
        for line in o.notes:
            console.print(f"{o.scenario}: {line}", markup=False, highlight=False)
        if not o.sound:
            console.print(f"{o.scenario}: logs in {o.logs}", markup=False, highlight=False)
    missed = sorted({s.name for s in chosen} - {o.scenario for o in outcomes})
    if missed:
        console.print(f"not run: {', '.join(missed)}")
    lost, wrong, n = (sum(getattr(o, name) for o in outcomes) for name in ("lost", "wrong", "faults"))
    if args.report:
        report = {"seed": args.seed, "lost": lost, "wrong": wrong, "faults": n, "not_run": missed}
        report["scenarios"] = [asdict(o) for o in outcomes]
        Path(args.report).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    console.print(f"lost {lost:,}, wrong {wrong:,} in {n:,} faults", highlight=False)
    return all(o.sound for o in outcomes)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(
        prog="python -m chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=600,
        metavar="S",
        help="no scenario starts later than this after the first (default 600)",
    )
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000, help="of events and faults")
    parser.add_argument(
        "--scenario", action="append", choices=names, metavar="NAME", help="only this one, once (may be repeated)"
    )
    parser.add_argument(
        "--rounds", type=int, default=1, help="run through each scenario's faults as many times as often"
    )
    parser.add_argument("--list", action="store_true", help="list the scenarios")
    parser.add_argument("--verbose", action="store_true", help="show the stack trace of an error")
    parser.add_argument("--logs", metavar="DIR", help="where logs are while it runs, and those of failures stay")
    parser.add_argument("--report", metavar="FILE", help="write what came of it as JSON")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
