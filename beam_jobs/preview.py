"""Shows what a use case's SQL makes of some events, before any job: ``highbeam preview``.

Exit status 0: nothing, or next to nothing, is refused; 1: more than --max_refused, or no row passes.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from threading import Timer

from beam_jobs.errors import UserError, one_line
from beam_jobs.page import write_page
from beam_jobs.samples.preview import Preview, look
from beam_jobs.samples.records import Records, records_of
from beam_jobs.storage.files import is_local, local_path
from beam_jobs.terminal.cli import EXIT_FAILED, run, say
from beam_jobs.terminal.commands import BEGIN
from beam_jobs.use_case import UseCase, load_use_case, shipped

_LOOK_EVERY_S = 0.2  # at the files of the use case
_SLOW_S = 3.0  # what was compiled before is loaded in less


def show(preview: Preview, given: Namespace) -> None:
    """Prints it, and writes the page that is asked for."""
    width = shutil.get_terminal_size().columns
    for line in preview.lines(width):
        print(line)
    if given.explain:
        print()
        for line in preview.plan.lines(width):
            print(line)
    if given.html:
        write_page(given.html, preview.html())
        print(f"page        {one_line(given.html)}")
    sys.stdout.flush()


def watch(given: Namespace, records: Records, folder: Path, wait: Callable[[], None]) -> None:
    """Shows the preview now, and again whenever a file of the use case is saved, until Ctrl-C.

    A use case that is wrong is said in a line, and the next save is tried.

    Args:
      wait: called between two looks at the files.
    """
    while True:
        seen, began = _files(folder), time.monotonic()
        try:
            show(look(_use_case(given), records, given.input), given)
        except UserError as error:
            say(f"error: {error}")
        took = time.monotonic() - began
        say(f"{datetime.now():%H:%M:%S}, in {took:.1f} s; again when {given.use_case} is saved, until Ctrl-C")
        while _files(folder) == seen:
            wait()


def _files(folder: Path) -> set[tuple[str, int, int, int]]:
    """What tells whether one was saved, made or removed."""
    found = set()
    for file in folder.iterdir() if folder.is_dir() else ():
        with suppress(OSError):  # an editor has just moved it away
            status = file.stat()
            if file.is_file() and not file.name.startswith("."):
                found.add((file.name, status.st_mtime_ns, status.st_size, status.st_ino))
    return found


def _use_case(given: Namespace) -> UseCase:
    use_case = load_use_case(given.use_case).with_lateness(vars(given))
    use_case.preprocessor().check_secrets()
    if use_case.preprocessor().windows:
        told = Timer(_SLOW_S, say, ["compiling the loops of windows, once on this machine: half a minute or more"])
        told.start()
        try:
            use_case.preprocessor().warm_up()
        finally:
            told.cancel()
    return use_case


def _folder(given: Namespace) -> Path:
    if given.use_case in shipped() or not is_local(given.use_case):
        raise UserError(f"--watch: {given.use_case} is no folder on this machine; copy it, and name the copy")
    return local_path(given.use_case)


def main(argv: Sequence[str]) -> int:
    """Parses, looks, and shows what came of it."""
    given = BEGIN["preview"].parser().parse_args(argv)
    if given.rows < 1:
        raise UserError(f"--rows {given.rows}: expected a number from 1 on")
    if given.history < 0:
        raise UserError(f"--history {given.history}: expected a number from 0 on")
    if not 0 <= given.max_refused <= 1:
        raise UserError(f"--max_refused {given.max_refused:g}: expected a share, 0 to 1")
    folder = _folder(given) if given.watch else None
    use_case = None if given.watch else _use_case(given)  # what is wrong with it is said before anything is read
    with tempfile.TemporaryDirectory() as scratch:
        records = records_of(
            given.input, given.rows, given.history, given.schema_registry, given.kafka_config, Path(scratch)
        )
        if folder is not None:
            try:
                watch(given, records, folder, lambda: time.sleep(_LOOK_EVERY_S))
            except KeyboardInterrupt:
                return 0
        assert use_case is not None
        preview = look(use_case, records, given.input)
        try:
            show(preview, given)
        except BrokenPipeError:  # whoever read on, such as head, has enough; nothing more is to be flushed into it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    checked = preview.checked
    return 0 if checked.passed and checked.refused_share <= given.max_refused else EXIT_FAILED


if __name__ == "__main__":
    run(main)
