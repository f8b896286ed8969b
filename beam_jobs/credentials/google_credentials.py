"""Google's Application Default Credentials: found at once or missed at once, and errors as a person reads them.

Imports google-auth inside the functions: most jobs never need it, and ``--help`` must not wait for it.
"""

from __future__ import annotations

import http.client
import logging
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

from beam_jobs.errors import UnreachableError, UserError, one_line

SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
LOG_IN = "run gcloud auth application-default login, or name a key file in GOOGLE_APPLICATION_CREDENTIALS"

_METADATA_HOST = "169.254.169.254"
_METADATA_TIMEOUT_S = 1.5  # it answers in milliseconds
_REQUEST_TIMEOUT_S = 10.0


class GoogleAwayError(UnreachableError):
    """A service of Google's does not answer; the same call may succeed later."""


def application_default(what: str) -> Any:
    """``google.auth.credentials.Credentials`` with a valid token, for everything the account may do.

    Args:
      what: the setting that needs them, for the message.

    Raises:
      UserError: there are none, or Google refuses them.
      GoogleAwayError: who issues the tokens does not answer.
    """
    credentials = find(what)
    refresh(credentials, what)
    return credentials


def find(what: str, scopes: Sequence[str] = SCOPES, otherwise: str = "") -> Any:
    """``google.auth.credentials.Credentials``, perhaps without a token yet.

    Args:
      what: what needs them, for the message.
      scopes: what for.
      otherwise: one more remedy, for the message: ", or an emulator in PUBSUB_EMULATOR_HOST".

    Raises:
      UserError: there are none, or their file can't be read.
    """
    import google.auth
    from google.auth.exceptions import GoogleAuthError

    if not (_in_a_file() or on_google()):
        raise UserError(f"{what}: no Google credentials; {LOG_IN}{otherwise}")
    logging.getLogger("google.auth._default").setLevel(logging.ERROR)  # it misses a project, which nobody asked for
    try:
        credentials, _ = google.auth.default(scopes=scopes)
    except GoogleAuthError as error:
        text = one_line(error, 200)
        raise UserError(f"{what}: Google credentials can't be read ({text}); {LOG_IN}{otherwise}") from None
    return credentials


def refresh(credentials: Any, what: str) -> None:
    """Gets a new token when the one at hand is about to expire.

    Raises:
      UserError, GoogleAwayError: as in :func:`application_default`.
    """
    import requests
    from google.auth.exceptions import GoogleAuthError, TransportError
    from google.auth.transport.requests import Request

    if credentials.token_state.name == "FRESH":
        return
    try:
        credentials.refresh(partial(Request(), timeout=_REQUEST_TIMEOUT_S))
    except (GoogleAuthError, requests.RequestException) as error:
        if isinstance(error, (TransportError, requests.RequestException)) or error.retryable:
            if credentials.token_state.name == "STALE":
                return  # good for some minutes yet: the next call tries again
            raise GoogleAwayError(f"{what}: no token for the Google credentials ({one_line(error, 200)})") from None
        raise UserError(
            f"{what}: Google refuses the credentials ({one_line(error, 200)}); log in again with gcloud auth "
            "application-default login, or mend GOOGLE_APPLICATION_CREDENTIALS"
        ) from None


def _in_a_file() -> bool:
    """Whether a file holds credentials, where google-auth looks for one: as named in the environment, or gcloud's."""
    from google.auth import _cloud_sdk, environment_vars

    well_known = _cloud_sdk.get_application_default_credentials_path()  # type: ignore[no-untyped-call]
    return bool(os.environ.get(environment_vars.CREDENTIALS)) or os.path.isfile(well_known)


def on_google() -> bool:
    """Whether this is a machine of Google's, whose metadata server hands out credentials; asked once.

    On any other machine ``google.auth.default`` probes for that server three times, and Beam asks it five times over:
    20 s where the probe is refused at once, more where it isn't answered.
    """
    from google.auth import environment_vars

    if os.environ.get(environment_vars.NO_GCE_CHECK) == "true":
        return False
    host = os.environ.get(environment_vars.GCE_METADATA_IP) or os.environ.get(environment_vars.GCE_METADATA_HOST)
    connection = http.client.HTTPConnection(host or _METADATA_HOST, timeout=_METADATA_TIMEOUT_S)
    try:
        connection.request("GET", "/", headers={"Metadata-Flavor": "Google"})
        return connection.getresponse().getheader("Metadata-Flavor") == "Google"
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
