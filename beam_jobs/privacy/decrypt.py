"""Encrypted texts back to what they were, for a reason that is written down: ``highbeam privacy decrypt``.

What may be had back is decided by who can read the keys. The line in the log is written before a text is shown, or
none is shown. Exit status 1: some of the values are not encrypted texts of the field under one of the keys.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import socket
import stat
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from beam_jobs.errors import UserError, one_line
from beam_jobs.preprocessing.fields import fields_of
from beam_jobs.preprocessing.pii import decrypt
from beam_jobs.terminal.cli import EXIT_FAILED, run, say
from beam_jobs.terminal.commands import PRIVACY
from beam_jobs.use_case import UseCase, load_use_case


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command line's to a parser."""
    add = parser.add_argument
    add(
        "values", nargs="*", metavar="VALUE", help="an encrypted text, such as 2026-11:AbC…; none: a line of stdin each"
    )
    add("--use_case", required=True, metavar="NAME", help="whose pii.keys they were encrypted with")
    add("--field", required=True, metavar="FIELD", help="of the events' schema that was encrypted")
    add("--reason", required=True, metavar="TEXT", help="why somebody needs to know; it is written into the log")
    add("--audit_log", required=True, metavar="FILE", help="the log: a line is added, then the texts are shown")
    add("--verbose", action="store_true", help="show stack traces")


def check(use_case: UseCase, field: str) -> None:
    """UserError where the use case has encrypted nothing of that name."""
    fields = fields_of(use_case.schema)
    if field not in fields:
        raise UserError(f"--field {field}: not a field of the schema; it has {', '.join(fields)}")
    if not use_case.pii.keys:
        raise UserError(f"use case {use_case.name} has no pii.keys, so nothing was encrypted with it; name its own")


def log(path: str, entry: dict[str, Any]) -> None:
    """Adds a line to the log, and waits until it is on the disk.

    Raises:
      UserError: it can't be written, or is nothing that keeps what is written.
    """
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise UserError(f"--audit_log {path}: no file; name one that keeps what is written")
            os.write(file, (json.dumps(entry) + "\n").encode())
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        raise UserError(
            f"--audit_log {path}: {error.strerror}; name a file you may write, or nothing is shown"
        ) from None


def main(argv: Sequence[str]) -> int:
    """Parses, writes the line, and prints a line of JSON for each value: it, and its text or null."""
    given = PRIVACY["privacy decrypt"].parser().parse_args(argv)
    use_case = load_use_case(given.use_case)
    check(use_case, given.field)
    values = given.values or [line for line in sys.stdin.read().splitlines() if line]
    texts = [decrypt(value, use_case.pii, given.field) for value in values]
    known = dict(use_case.pii.keys)
    keys = sorted({value.partition(":")[0] for value, text in zip(values, texts, strict=True) if text is not None})
    user = os.getuid()
    entry = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "user": _name(user),
        "uid": user,
        "host": socket.gethostname(),
        "use_case": use_case.name,
        "field": given.field,
        "reason": given.reason,
        "values": len(values),
        "decrypted": sum(text is not None for text in texts),
        "keys": [key_id for key_id in known if key_id in keys],
    }
    log(given.audit_log, entry)
    for value, text in zip(values, texts, strict=True):
        print(json.dumps({"value": value, "text": text}))
    left = len(values) - entry["decrypted"]
    if left:
        say(
            f"{left:,} of {len(values):,} values are not {one_line(given.field)} encrypted under "
            f"{', '.join(known)}; name their field, and keep the keys they were made with in pii.keys"
        )
    return EXIT_FAILED if left else 0


def _name(user: int) -> str:
    """Of the user by the system, not by the environment, which anybody may set."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


if __name__ == "__main__":
    run(main)
