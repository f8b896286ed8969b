"""Where the schemas that records were written with come from: a Schema Registry, or without one the shipped schema."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from beam_jobs.codec.schema import Schema

SHIPPED_IDS = {"highbeam.Score": 1, "highbeam.Alert": 2, "highbeam.DeadLetter": 3}  # ids written without a registry
OTHER_ID = 4  # for any other schema without a registry

REQUEST_SECONDS = 10.0  # a request without an answer for so long has failed


class InterruptedWaitError(RuntimeError):
    """The process is ending while the registry is away; the block at hand was not handled and will be read again."""


class SchemaSource(ABC):
    """Gives the schema that a record was written with, by the id in its first five bytes. Picklable."""

    url: str | None = None  # of the registry; None: there is none, and nobody to be asked

    @abstractmethod
    def writer_schema(self, schema_id: int) -> Schema:
        """The Avro schema of an id; the same object each time, not to be changed.

        Raises:
          LookupError: no schema has this id; the message is fit for a dead letter.
        """

    @abstractmethod
    def guid_schema(self, guid: str) -> Schema:
        """As :meth:`writer_schema`, by the GUID that records have instead of an id."""

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


class ShippedSchemas(SchemaSource):
    """Without a registry: every id stands for one schema."""

    def __init__(self, shipped: Mapping[str, Any]) -> None:
        self._shipped = dict(shipped)

    def writer_schema(self, schema_id: int) -> Schema:
        return self._shipped

    def guid_schema(self, guid: str) -> Schema:
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
