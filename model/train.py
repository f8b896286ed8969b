"""Trains a model and puts it into the registry."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from beam_jobs.errors import one_line
from beam_jobs.storage import files
from beam_jobs.terminal import cli
from beam_jobs.terminal.commands import MODELS
from model import registry
from model.training import peers
from model.training.plan import Settings
from model.training.report import budget_lines, left_out_lines, metrics_table, strangest_lines
from model.training.train import Trained, train


def print_summary(console: Console, made: Trained, settings: Settings) -> None:
    """What came out, and what to do next."""
    counts, described = made.counts, made.manifest
    console.print(
        f"{', '.join([f'{counts.read:,} rows read', *counts.losses()])}; "
        f"{made.failures:,} labelled as failures; {described.data.training_rows:,} trained on "
        f"in {made.training_seconds:.1f} s (held out by {made.split})",
        highlight=False,
        markup=False,  # examples of refused rows are data
    )
    table = Table(title="held-out rows")
    header, *rows = metrics_table(made.evaluations, made.shown.peers)
    for column in header:
        table.add_column(column)
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))  # kinds of failures are data, no markup
    console.print(table)
    met = counts.met()
    lines = [
        *([] if met is None else [f"labels     {met}"]),
        *peers.explain(made.shown.peers),
        *[f"sentinels  {one}: {one.left_out:,} left out" for one in described.sentinels],
        *([] if described.left_out is None else left_out_lines(described.left_out)),
        *strangest_lines(made.shown.strangest),
        f"version    {described.version}" + (f" ({made.alias})" if made.alias else ""),
        *budget_lines(described),
        f"model      {made.folder}",
        f"report     {made.report}",
    ]
    model = shlex.quote(made.folder.rsplit("/", 2)[0])
    if made.alias is None:
        lines.append(f"promote    highbeam models promote {model}@{described.version}")
    which = "" if made.alias == registry.CHAMPION else f"@{described.version}"
    lines += [
        "next       highbeam score "
        f"--use_case {shlex.quote(settings.use_case)} --model {model}{which} --input kafka://HOST:9092/TOPIC "
        "--alerts kafka://HOST:9092/ALERTS --dead_letters kafka://HOST:9092/DEAD_LETTERS",
    ]
    for line in lines:
        console.print(one_line(line), highlight=False, soft_wrap=True, markup=False)


def main(argv: Sequence[str]) -> None:
    """Trains, and prints what came out."""
    given = vars(MODELS["train"].parser().parse_args(argv))
    given.pop("verbose")
    files.configure(given.pop("gcs_anonymous"))
    settings = Settings(**given)
    made = train(settings, Console(stderr=True))
    print_summary(Console(), made, settings)


if __name__ == "__main__":
    cli.run(main)
