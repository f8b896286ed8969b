"""Trains a model and puts it into the registry.

python -m model.train --use_case car_sensors --data history/ --registry models
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from beam_jobs.storage import files
from beam_jobs.terminal import cli
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
    )
    table = Table(title="held-out rows")
    header, *rows = metrics_table(made.evaluations, made.shown.peers)
    for column in header:
        table.add_column(column)
    for row in rows:
        table.add_row(*(Text(_printable(cell)) for cell in row))  # kinds of failures are data, no markup
    console.print(table)
    lines = [
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
        lines.append(f"promote    python -m model.registry promote {model}@{described.version}")
    which = "" if made.alias == registry.CHAMPION else f"@{described.version}"
    lines += [
        "next       python -m beam_jobs.score "
        f"--use_case {shlex.quote(settings.use_case)} --model {model}{which} --input kafka://HOST:9092/TOPIC "
        "--alerts kafka://HOST:9092/ALERTS --dead_letters kafka://HOST:9092/DEAD_LETTERS",
    ]
    for line in lines:
        console.print(_printable(line), highlight=False, soft_wrap=True, markup=False)


def _printable(text: str) -> str:
    """Without what a terminal would obey: names of features and labels are data."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = cli.Parser(prog="python -m model.train", description="Train a model and register it.")
    add = result.add_argument
    add("--use_case", required=True, help="a use case that ships (car_sensors), or the folder of one")
    add(
        "--data",
        required=True,
        metavar="PATH",
        help="Avro or Parquet, an archive or other files: a file, a folder or a glob; gs://bucket/folder",
    )
    add("--from", dest="start", metavar="TIME", help="event time of the first rows: 2026-11-22T07:00:00Z, or epoch ms")
    add("--until", metavar="TIME", help="event time of the first rows not wanted any more")
    add(
        "--registry",
        required=True,
        metavar="DIR",
        help="folder of model versions, a path or gs://; made if missing",
    )
    add("--epochs", type=int, help="at most; default: the use case's")
    add("--alert_budget", type=float, help="share of normal rows that may be alerts; default: the use case's")
    add("--seed", type=int, help="of the split, the weights and the order; default: the use case's")
    add("--limit", type=int, help="rows to read at most")
    add(
        "--validation_fraction",
        type=float,
        default=0.2,
        help="for validation, and again for test; default: %(default)s",
    )
    add("--split", choices=("auto", "key", "time"), default="auto", help="how rows are held out; default: by key")
    add(
        "--on_outlier",
        choices=("leave_out", "refuse"),
        default="leave_out",
        help="with rows that hold what looks like a sentinel, such as 65535: train without them, or not at all; "
        "default: %(default)s",
    )
    add(
        "--normal",
        action="append",
        default=[],
        metavar="CONDITION",
        help="rows that are normal however rare they are: a condition over the features, such as 'speed = 0', or a "
        "group of the latest version's report, such as g2; may be given several times",
    )
    add("--alias", help="alias to point at the new version; default: champion, if there is none yet")
    add("--logdir", help="folder for TensorBoard logs; default: logs in the version's folder")
    add("--baseline", action=argparse.BooleanOptionalAction, default=True, help="train the reference net as well")
    add("--gcs_anonymous", action="store_true", help="read public gs:// buckets without Google credentials")
    add("--verbose", action="store_true", help="stack traces with errors")
    return result


def main(argv: Sequence[str]) -> None:
    """Trains, and prints what came out."""
    given = vars(parser().parse_args(argv))
    given.pop("verbose")
    files.configure(given.pop("gcs_anonymous"))
    settings = Settings(**given)
    made = train(settings, Console(stderr=True))
    print_summary(Console(), made, settings)


if __name__ == "__main__":
    cli.run(main)
