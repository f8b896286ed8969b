"""Secrets by reference, read where they are used and never carried along.

env:NAME                                      an environment variable of the worker
file:/path                                    a file on the worker
secret://projects/P/secrets/S/versions/V      a version in Google Secret Manager; V is a number or latest
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from beam_jobs.credentials import secret_manager
from beam_jobs.errors import UnreachableError, UserError

FORMS = "env:NAME, file:/path or secret://projects/P/secrets/S/versions/V"
SCHEMES = ("env", "file", "secret")

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")  # Kubernetes allows . and - as well
_MAX_PATH = 4096
_MAX_SECRET = 1 << 20  # characters; a chain of certificates has some thousands


def is_reference(value: str) -> bool:
    """Whether a value refers to a secret instead of being one."""
    scheme, separator, target = value.partition(":")
    return bool(separator and target) and scheme in SCHEMES


def check_reference(reference: str, what: str) -> None:
    """Refuses a reference of a wrong form, without showing it: it may be a secret that happens to begin like one.

    Args:
      what: the setting that holds it, for the message: "Kafka setting sasl.password".

    Raises:
      UserError: as above.
    """
    scheme, _, target = reference.partition(":")
    name = target.removeprefix("//")
    right = {
        "env": _VARIABLE.fullmatch(target) is not None,
        "file": name == name.strip() != "" and name.isprintable() and len(name) <= _MAX_PATH,
        "secret": target.startswith("//") and secret_manager.is_name(name),
    }
    if not right.get(scheme, False):
        raise UserError(f"{what}: not a reference to a secret; use {FORMS}")


def may_change(reference: str) -> bool:
    """Whether the reference is to whatever version of a secret is the newest, or has an alias."""
    scheme, _, target = reference.partition(":")
    return scheme == "secret" and not secret_manager.is_pinned(target.removeprefix("//"))


def read_secret(reference: str, what: str) -> str:
    """The secret behind a reference, without the line break at its end.

    Variables and files are read again with each call; for Secret Manager see ``secret_manager.py``.

    Args:
      what: the setting that holds the reference, for the message: "Kafka setting sasl.password".

    Raises:
      UnreachableError: the variable or the file is not here, or Secret Manager does not answer.
      UserError: the secret cannot be read, or the form is wrong.
    """
    check_reference(reference, what)
    scheme, _, target = reference.partition(":")
    if scheme == "env":
        value = os.environ.get(target)
        if value is None:
            raise UnreachableError(f"{what}: environment variable {target} is not set; export it on every worker")
        return value
    if scheme == "file":
        path = target.removeprefix("//")
        shown = path if path.startswith("/") else "the file it names"  # what has no folder may be the secret itself
        try:
            with Path(path).open(encoding="utf-8") as file:
                content = file.read(_MAX_SECRET + 1)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise UnreachableError(f"{what}: cannot read {shown} ({reason}); put it on every worker") from None
        if len(content) > _MAX_SECRET:
            raise UserError(
                f"{what}: {shown} is longer than a secret can be; name the file that holds the secret alone"
            )
        return content.rstrip("\r\n")
    return secret_manager.access(target.removeprefix("//"), what).rstrip("\r\n")
