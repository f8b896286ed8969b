"""Google's credentials as a Kafka login: SASL/OAUTHBEARER with tokens as Managed Service for Apache Kafka takes them.

Such a token has a JWT's form, with the access token where a JWT has its signature; the broker asks Google whether it
is good: ``base64url(header).base64url(claims).base64url(access token)``.
"""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
from datetime import UTC
from typing import Any

from beam_jobs.credentials.google_credentials import application_default, refresh
from beam_jobs.errors import UserError, one_line

_LOGGER = logging.getLogger(__name__)

HANDLER = "sasl.login.callback.handler.class"
GOOGLE_HANDLER = "com.google.cloud.hosted.kafka.auth.GcpLoginCallbackHandler"
"""What Java clients have in that setting for Managed Service for Apache Kafka."""

_WHAT = f"Kafka setting {HANDLER}"

Token = tuple[str, float]  # the token, seconds since the epoch at which it expires


class GoogleTokens:
    """Tokens for the Application Default Credentials; one object a process, safe with threads.

    Called, it is a client's ``oauth_cb``. That runs in a thread of librdkafka's, where an exception would be lost: what
    goes wrong is logged once, and the client gets a token that has expired, says so, and asks again after 10 s.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._credentials: Any = None
        self._told = False

    def token(self) -> Token:
        """A token that is good for some minutes at least.

        Raises:
          UserError: no credentials, or they are refused, or who issues the tokens does not answer.
        """
        with self._lock:
            if self._credentials is None:
                self._credentials = application_default(_WHAT)
            refresh(self._credentials, _WHAT)
            return google_token(self._credentials)

    def __call__(self, config: str = "") -> Token:
        try:
            token = self.token()
        except Exception as error:
            if not self._told:
                _LOGGER.warning("%s; trying again", one_line(error))
            self._told = True
            return "", 0.0
        self._told = False
        return token

    def forget(self) -> None:
        """Looks for credentials again with the next token."""
        with self._lock:
            self._credentials = None


GOOGLE_TOKENS = GoogleTokens()


def google_token(credentials: Any) -> Token:
    """The token of ``google.auth`` credentials that have been refreshed.

    Raises:
      UserError: credentials that don't tell whose they are.
    """
    account = getattr(credentials, "service_account_email", None) or _person(credentials)
    if not account:
        raise UserError(
            f"{_WHAT}: the Google credentials don't say whose they are; use a service account's, such as by "
            "gcloud auth application-default login --impersonate-service-account=ACCOUNT"
        )
    expires = credentials.expiry.replace(tzinfo=UTC).timestamp()
    claims = {"exp": int(expires), "iat": int(time.time()), "iss": "Google", "scope": "kafka", "sub": account}
    header = {"typ": "JWT", "alg": "GOOG_OAUTH2_TOKEN"}
    parts = [json.dumps(header), json.dumps(claims), credentials.token]
    return ".".join(base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts), expires


def _person(credentials: Any) -> str:
    """Whose a person's credentials are (gcloud auth application-default login): Google says it beside each token."""
    from google.auth import jwt

    told = getattr(credentials, "id_token", None)
    return str(jwt.decode(told, verify=False).get("email", "")) if told else ""  # type: ignore[no-untyped-call]
