"""What ``model.train`` is told on its command line; without what training imports, for ``--help`` and errors."""

from __future__ import annotations

import argparse

from beam_jobs.terminal import flags


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds them to a parser."""
    add = parser.add_argument
    add("--use_case", required=True, help="a use case that ships (car_sensors), or the folder of one")
    add(
        "--data",
        required=True,
        metavar="PATH",
        help="an archive, or Avro, Parquet, CSV or JSON lines: a file, a folder or a glob; gs://bucket/folder",
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
    add(
        "--labels",
        metavar="FOLDER",
        help="labels that came after the events were archived, as highbeam feedback writes them: they count in place "
        "of those of the archive",
    )
    flags.lateness(parser)
    add("--alias", help="alias to point at the new version; default: champion, if there is none yet")
    add("--signing_key", metavar="REFERENCE", help=flags.SIGNING_KEY_HELP)
    add("--logdir", help="folder for TensorBoard logs; default: logs in the version's folder")
    add("--baseline", action=argparse.BooleanOptionalAction, default=True, help="train the use case's baseline as well")
    add("--gcs_anonymous", action="store_true", help="read public gs:// buckets without Google credentials")
    add("--verbose", action="store_true", help="stack traces with errors")
