"""How accurate the detector is, on data as people have it: docs/accuracy.md, docs/fraud.md. 40 minutes on two cores.

    python -m bench.accuracy                  # everything; exit 1 if a goal is missed
    python -m bench.accuracy --only shuttle   # a part

Runs the product's training on arrays, several seeds a case, two processes at a time; ends with a table of the goals.
Figures go into docs/accuracy.json and the tables of both pages unless other seeds are asked for.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from importlib.metadata import version

from rich.console import Console
from rich.table import Table

from bench.accuracy import cars, fraud, history, page, shuttle, six
from bench.accuracy.figures import Figures, read, write
from bench.accuracy.goals import goals
from bench.accuracy.processes import run

SEEDS = (21, 22, 23, 24, 25)
SECTIONS = {
    "cars": cars.TASKS,
    "history": history.TASKS,
    "shuttle": shuttle.TASKS,
    "six": six.TASKS,
    "fraud": fraud.TASKS,
}  # the longest first
LIBRARIES = ("keras", "lightgbm", "numpy", "scikit-learn", "tensorflow-cpu")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.accuracy", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=sorted(SECTIONS), nargs="+", help="parts to run; default: all")
    parser.add_argument("--case", nargs="+", help="cases of the parts to run; their figures alone are replaced")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="others than these write nothing")
    parser.add_argument("--processes", type=int, default=2, help="trainings at a time; default: %(default)s")
    args = parser.parse_args()
    console = Console()
    sections = [name for name in SECTIONS if not args.only or name in args.only]
    if "shuttle" in sections:
        try:
            shuttle.rows()
        except OSError as error:
            console.print(f"Shuttle is skipped: {error}", markup=False)
            sections.remove("shuttle")
    tasks = [
        (section, name, seed)
        for section in sections
        for name in SECTIONS[section]
        if not args.case or name in args.case
        for seed in args.seeds[: fraud.TRAININGS if section == "fraud" else None]
    ]
    if "fraud" in sections:
        fraud.rows()  # before processes ask for them
    figures, said = run(tasks, console, args.processes)
    if args.seeds == list(SEEDS):
        figures = _write(figures, said, sections, args.case or [])
    else:
        for path, values in sorted(figures.items()):
            console.print(f"{path:45s} {' '.join(f'{value:.5g}' for value in values)}", highlight=False)
        for path, sentence in sorted(said.items()):
            console.print(f"{path}: {sentence}", highlight=False, markup=False)
    table = Table("goal", "reach", "found", "met", title="goals")
    reached = goals(figures)
    for goal in reached:
        table.add_row(goal.what, goal.reach, goal.found, "yes" if goal.met else "[bold red]no")
    console.print(table)
    missed = sum(not goal.met for goal in reached)
    if missed:
        sys.exit(f"{missed} of {len(reached)} goals missed")


def _write(figures: Figures, said: dict[str, str], sections: list[str], cases: list[str]) -> Figures:
    """Replaces the figures of the cases that were run; all figures of their sections."""

    def others(path: str) -> bool:
        section, _, rest = path.partition(".")
        return section not in sections or bool(cases and rest.partition(".")[0] not in cases)

    if page.JSON.exists() and (cases or len(sections) < len(SECTIONS)):
        before, sentences, _ = read(page.JSON)
        figures = {**{path: values for path, values in before.items() if others(path)}, **figures}
        said = {**{path: sentence for path, sentence in sentences.items() if others(path)}, **said}
    about = {
        "seeds": list(SEEDS),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in LIBRARIES},
    }
    write(page.JSON, figures, said, about)
    page.update()
    return {path: values for path, values in figures.items() if path.partition(".")[0] in sections}


if __name__ == "__main__":
    main()
