"""Where the schemas that records were written with come from: a Schema Registry, or without one the shipped schema.

The registry's client takes a quarter of a second to import; it is imported where one is used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from beam_jobs.credentials.references import is_reference
from beam_jobs.errors import UserError

SHIPPED_IDS = {"highbeam.Score": 1, "highbeam.Alert": 2, "highbeam.DeadLetter": 3}  # ids written without a registry
OTHER_ID = 4  # for any other schema without a registry

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

REQUEST_SECONDS = 10.0  # a request without an answer for so long has failed


class InterruptedWaitError(RuntimeError):
    """The process is ending while the registry is away; the block at hand was not handled and will be read again."""


class SchemaSource(ABC):
    """Gives the schema that a record was written with, by the id in its first five bytes. Picklable."""

    url: str | None = None  # of the registry; None: there is none, and nobody to be asked

    @abstractmethod
    def writer_schema(self, schema_id: int) -> dict[str, Any]:
        """The Avro schema of an id; the same object each time, not to be changed.

        Raises:
          LookupError: no schema has this id; the message is fit for a dead letter.
        """

    @abstractmethod
    def register(self, subject: str, schema: Mapping[str, Any]) -> int:
        """The id for records of ``schema`` in ``subject`` (``<topic>-value``), registered if need be.

        Raises:
          UnreachableError: the registry does not answer.
          UserError: it refuses us, or the schema.
        """

    @abstractmethod
    def await_id(self, subject: str, schema: Mapping[str, Any]) -> int:
        """As :meth:`register`, but waits while the registry is unavailable: for workers.

        Raises:
          UserError: the registry refuses the schema.
          InterruptedWaitError: the job is to end while it waits.
        """

    @abstractmethod
    def check(self, timeout_s: float = REQUEST_SECONDS) -> None:
        """Tries the connection, once.

        Raises:
          UnreachableError: the registry does not answer.
          UserError: it refuses us.
        """

    @abstractmethod
    def describe(self) -> str:
        """One line for the job to print at its start."""


@dataclass(frozen=True)
class Registration:
    """The id of a schema that workers ask for: where the job was started, the registry was out of reach."""

    writers: SchemaSource
    subject: str
    schema: Mapping[str, Any]


SchemaId = int | Registration
"""The id that records are written with."""


def id_of(schema_id: SchemaId) -> int:
    """The id itself; on a worker, for it may wait for the registry.

    Raises:
      UserError, InterruptedWaitError: as :meth:`SchemaSource.await_id`.
    """
    if isinstance(schema_id, int):
        return schema_id
    return schema_id.writers.await_id(schema_id.subject, schema_id.schema)


def for_registry(url: str | None, shipped: Mapping[str, Any], config: Mapping[str, str] | None = None) -> SchemaSource:
    """The source of writer schemas.

    Args:
      url: of the registry (several with commas: the others are tried when one fails); None takes
        ``schema.registry.url`` of ``config``, and without that the shipped schema for every id.
      shipped: the schema of the use case.
      config: client properties, those of Kafka among them. ``schema.registry.NAME``, ``basic.auth.*`` and
        ``bearer.auth.*`` are the registry's; all others are left to Kafka.

    Raises:
      UserError: a property that is not known, a secret that is not a reference, or a URL that is none.
    """
    settings = registry_settings(config or {})
    url = url or settings.pop("url", None)
    settings.pop("url", None)
    if not url:
        return ShippedSchemas(shipped)
    from schemas.client import RegistrySchemas

    return RegistrySchemas(url, settings)


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
        settings[name] = value
    return settings


def secret_part(name: str, value: str) -> str:
    """The part that must be a reference: all of it, or in USER:env:NAME what follows the user."""
    if name == "basic.auth.user.info" and not is_reference(value):
        return value.partition(":")[2]
    return value


class ShippedSchemas(SchemaSource):
    """Without a registry: every id stands for one schema."""

    def __init__(self, shipped: Mapping[str, Any]) -> None:
        self._shipped = dict(shipped)

    def writer_schema(self, schema_id: int) -> dict[str, Any]:
        return self._shipped

    def register(self, subject: str, schema: Mapping[str, Any]) -> int:
        return SHIPPED_IDS.get(f"{schema.get('namespace', '')}.{schema.get('name', '')}", OTHER_ID)

    def await_id(self, subject: str, schema: Mapping[str, Any]) -> int:
        return self.register(subject, schema)

    def check(self, timeout_s: float = REQUEST_SECONDS) -> None:
        pass  # nothing can be missing

    def describe(self) -> str:
        name = self._shipped.get("name", "schema")
        return f"no --schema_registry: the schema {name} is taken for every schema id"
