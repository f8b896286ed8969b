"""Secrets by reference: ``env:NAME`` or ``file:/path``, read where they are used and never carried along."""

from __future__ import annotations

import os
from pathlib import Path

from beam_jobs.errors import UserError

SCHEMES = ("env", "file", "secret")


def is_reference(value: str) -> bool:
    """Whether a value refers to a secret instead of being one."""
    scheme, separator, target = value.partition(":")
    return bool(separator and target) and scheme in SCHEMES


def read_secret(reference: str, what: str) -> str:
    """The secret behind a reference, without the line break at its end.

    Args:
      what: the setting that holds the reference, for the message: "Kafka setting sasl.password".

    Raises:
      UserError: the variable or the file is missing here, or the scheme is not supported.
    """
    scheme, _, target = reference.partition(":")
    if scheme == "env":
        value = os.environ.get(target)
        if value is None:
            raise UserError(f"{what}: environment variable {target} is not set; export it on every worker")
        return value
    if scheme == "file":
        path = target.removeprefix("//")
        try:
            return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise UserError(f"{what}: cannot read {path} ({reason}); put it on every worker") from None
    raise UserError(f"{what}: {scheme}: references are not yet supported here; use env:NAME or file:/path")
