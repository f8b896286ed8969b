"""The properties of a Schema Registry's client, as they stand among Kafka's."""

from __future__ import annotations

from collections.abc import Mapping

from beam_jobs.credentials.references import check_reference, is_reference
from beam_jobs.errors import UserError, without_credentials

PREFIX = "schema.registry."
_SHARED = ("basic.auth.", "bearer.auth.")  # taken without the prefix as well: Kafka has no properties of that name
SECRETS = ("basic.auth.user.info", "bearer.auth.token", "bearer.auth.client.secret", "ssl.key.password")
_KNOWN = (
    *SECRETS,
    "bearer.auth.credentials.source",
    "bearer.auth.logical.cluster",
    "bearer.auth.identity.pool.id",
    "bearer.auth.client.id",
    "bearer.auth.scope",
    "bearer.auth.issuer.endpoint.url",
    "bearer.auth.issuer.endpoint.query",
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
    "proxy",
)
_REMEDIES = {  # what Java's clients say otherwise
    "ssl.truststore.location": "export it as PEM and set schema.registry.ssl.ca.location",
    "ssl.keystore.location": "export it as PEM and set schema.registry.ssl.certificate.location and ssl.key.location",
}


def registry_settings(config: Mapping[str, str]) -> dict[str, str]:
    """The registry's properties among ``config``, in confluent-kafka's names, secrets unresolved.

    Raises:
      UserError: a property that is not known, or a secret that is not a reference.
    """
    settings = {}
    for key, value in sorted(config.items()):  # "schema.registry.basic.auth..." comes last and wins
        name = key.removeprefix(PREFIX)
        if name == key and not key.startswith(_SHARED):
            continue
        if name == "basic.auth.credentials.source":  # Java's switch; ours follows from what is given
            if value not in ("USER_INFO", "URL"):
                raise UserError(f"{key} is {value!r}: use USER_INFO with {PREFIX}basic.auth.user.info=env:NAME")
            continue
        if name != "url" and name not in _KNOWN:
            remedy = _REMEDIES.get(name, f"use one of {', '.join(_KNOWN)}")
            raise UserError(f"{key} is not a property of the Schema Registry client: {remedy}")
        if name in SECRETS and not is_reference(secret_part(name, value)):
            example = "env:NAME or USER:env:NAME" if name == "basic.auth.user.info" else "env:NAME"
            raise UserError(f"{key} holds a secret in clear: write {PREFIX}{name}={example}")
        if name in SECRETS:
            check_reference(secret_part(name, value), key)
        elif without_credentials(value) != value:
            raise UserError(
                f"{key} has a password in its URL: leave it out; a proxy that asks for one is not supported"
            )
        settings[name] = value
    return settings


def secret_part(name: str, value: str) -> str:
    """The part that must be a reference: all of it, or in USER:env:NAME what follows the user."""
    if name == "basic.auth.user.info" and not is_reference(value):
        return value.partition(":")[2]
    return value
