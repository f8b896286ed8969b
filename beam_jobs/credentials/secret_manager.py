"""Secrets of Google Secret Manager, by the name of a version; read once a process.

A numbered version never changes: it is read once. ``latest`` and other aliases may point elsewhere tomorrow: they are
read again after :data:`ALIAS_S`, and while the service does not answer the value at hand goes on.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from typing import Any

from beam_jobs.credentials.google_credentials import GoogleAwayError, application_default
from beam_jobs.errors import UserError, one_line

_LOGGER = logging.getLogger(__name__)

ALIAS_S = 60.0  # how long the value of an alias counts
_CALL_TIMEOUT_S = 5.0
_RETRY_S = 10.0  # a service that is unavailable for longer fails the bundle, and the runner retries it

_NAME = re.compile(r"projects/[a-z0-9.:-]+/secrets/[A-Za-z0-9_-]{1,255}/versions/(?P<version>[A-Za-z0-9_-]{1,63})")

_cache: dict[str, tuple[str, float]] = {}  # name -> value, time.monotonic() until which it counts
_lock = threading.Lock()


def is_name(name: str) -> bool:
    """Whether this is ``projects/P/secrets/S/versions/V``."""
    return _NAME.fullmatch(name) is not None


def is_pinned(name: str) -> bool:
    """Whether a name that :func:`is_name` has a version number: what it stands for can't change."""
    match = _NAME.fullmatch(name)
    return match is not None and match["version"].isdecimal()


def access(name: str, what: str) -> str:
    """The secret's text.

    Args:
      name: ``projects/P/secrets/S/versions/V``.
      what: the setting that refers to it, for the message.

    Raises:
      UserError: no credentials, no such version, no permission, or it is no text.
      GoogleAwayError: the service does not answer.
    """
    with _lock:  # one request a secret, whoever asks
        kept = _cache.get(name)
        if kept is not None and time.monotonic() < kept[1]:
            return kept[0]
        try:
            value = _fetch(name, what)
        except GoogleAwayError as error:
            if kept is None:
                raise
            _LOGGER.warning("%s; going on with the value read before", one_line(error))
            value = kept[0]
        _cache[name] = value, float("inf") if is_pinned(name) else time.monotonic() + ALIAS_S
        return value


def _client(what: str) -> Any:
    from google.cloud.secretmanager_v1 import SecretManagerServiceClient

    return SecretManagerServiceClient(credentials=application_default(what))


def _fetch(name: str, what: str) -> str:
    from google.api_core import exceptions
    from google.api_core.retry import Retry, if_exception_type

    retry = Retry(if_exception_type(exceptions.ServiceUnavailable), initial=0.2, maximum=2.0, timeout=_RETRY_S)
    try:
        with _client(what) as client:
            answer = client.access_secret_version(name=name, retry=retry, timeout=_CALL_TIMEOUT_S)
    except exceptions.GoogleAPICallError as error:
        raise _explained(error, name, what) from None
    except exceptions.RetryError as error:
        cause = error.cause
        if isinstance(cause, exceptions.GoogleAPICallError):
            raise _explained(cause, name, what) from None
        raise GoogleAwayError(f"{what}: Secret Manager does not answer; check the network") from None
    return _text(answer.payload, name, what)


def _text(payload: Any, name: str, what: str) -> str:
    import google_crc32c

    if payload.data_crc32c and google_crc32c.value(payload.data) != payload.data_crc32c:
        raise GoogleAwayError(f"{what}: secret {name} was damaged on its way; try again")
    try:
        return str(payload.data.decode("utf-8"))
    except UnicodeDecodeError:
        raise UserError(f"{what}: secret {name} is not UTF-8 text; store it as text") from None


def _explained(error: Any, name: str, what: str) -> UserError:
    """What a person reads about a failed call; ``error`` is a ``GoogleAPICallError``."""
    from google.api_core import exceptions

    secret, _, _ = name.rpartition("/versions/")
    project = name.split("/")[1]
    detail = one_line(error.message, 200)
    if isinstance(error, exceptions.NotFound):
        return UserError(f"{what}: no secret {name}; create it, or correct the reference")
    if isinstance(error, exceptions.Forbidden) and error.reason == "SERVICE_DISABLED":
        return UserError(
            f"{what}: Secret Manager is not enabled in {project}; run gcloud services enable "
            f"secretmanager.googleapis.com --project {project}"
        )
    if isinstance(error, exceptions.Forbidden):
        return UserError(
            f"{what}: no permission to read {name} ({detail}); grant this account roles/secretmanager.secretAccessor "
            f"on {secret}"
        )
    if isinstance(error, exceptions.Unauthorized):
        return UserError(f"{what}: Secret Manager refuses the Google credentials ({detail}); log in again")
    if isinstance(error, exceptions.FailedPrecondition):
        return UserError(f"{what}: {name} is disabled or destroyed; enable it, or name another version")
    if isinstance(error, exceptions.ServerError):
        return GoogleAwayError(f"{what}: Secret Manager does not answer ({detail}); check the network")
    return UserError(f"{what}: Secret Manager refuses {name} ({detail})")
