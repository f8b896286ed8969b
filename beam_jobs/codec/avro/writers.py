"""The programs of the writer schemas in use, by schema id. Old ones are dropped, and compiled again when they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from weakref import WeakValueDictionary

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from beam_jobs.codec.avro import ops as op
from beam_jobs.codec.avro.code import Code
from beam_jobs.codec.avro.program import Program, UnresolvableError
from beam_jobs.codec.schema import AvroType, Schema, SchemaTooLargeError, parse_schema, schema_of_text
from beam_jobs.errors import UserError, one_line

MAX_KEPT = 1_000_000  # instructions of all ids remembered: 48 MB, some 20,000 schemas of 24 fields
MAX_JOINED = 1_000_000  # instructions that one run of the machine has; a block with more is read in parts
MAX_SENTENCE = 500  # characters; what a schema is refused for may quote it

WriterSchema = Callable[[int], Schema]
NamedSchema = Callable[[str], Schema]
"""As ``WriterSchema``, for schemas that have a GUID, or a name, instead of an id."""


class OtherSchemaError(LookupError):
    """There is a schema, and it is not Avro's."""


def events_schema(text: str, called: str) -> Schema:
    """What events are written with, of its text: a record, or a union for several kinds of events in one topic.

    Args:
      called: how a sentence calls it.

    Raises:
      LookupError: it can be neither of them.
      SchemaTooLargeError: as ``schema_of_text``.
    """
    try:
        schema = schema_of_text(text)
    except SchemaTooLargeError:
        raise
    except UserError:  # not JSON
        schema = None
    if not isinstance(schema, dict | list):
        raise LookupError(f"{called} is not a record or a union")
    return schema


@dataclass(frozen=True, eq=False)
class Refusal:
    """Why no row of a schema id can be read."""

    status: int  # op.UNKNOWN_ID, op.UNRESOLVABLE_SCHEMA or op.SCHEMA_TOO_LARGE
    sentence: str


@dataclass(frozen=True)
class Joined:
    """What the first rows of a block are read with."""

    code: Code
    rows: int  # how many rows that is
    entries: NDArray[np.int64]  # [rows], where each row's program starts; -1: it has none
    refused: NDArray[np.int32]  # [rows], statuses of rows whose schema cannot be used, op.OK of the others
    sentences: Mapping[int, str]  # why, by schema id


class Writers:
    """Finds the programs of a block's rows; a schema that cannot be used is its own rows' affair.

    Args:
      compiled: makes the program of a writer's schema.
      writer_schema, called: as ``AvroDecoder``.
    """

    def __init__(
        self, compiled: Callable[[AvroType], Program], writer_schema: WriterSchema, called: Callable[[int], str]
    ) -> None:
        self._compiled = compiled
        self._writer_schema = writer_schema
        self._called = called
        self._known: LRUCache[int, Program | Refusal] = LRUCache(MAX_KEPT, getsizeof=_cost)
        self._distinct: WeakValueDictionary[bytes, Program] = WeakValueDictionary()  # by content
        self._last = Code([])  # the next block most likely has the same programs

    def joined(self, ids: NDArray[np.int64]) -> Joined:
        """The programs of the first rows, of as many as ``MAX_JOINED`` allows, at least one.

        Args:
          ids: schema ids, int64 [n]; negative: the row needs no program.
        """
        n = len(ids)
        if n and ids[0] >= 0 and (ids == ids[0]).all():  # nearly always
            only = self._find(int(ids[0]))
            if isinstance(only, Program):
                return Joined(self._code([only]), n, np.zeros(n, np.int64), np.zeros(n, np.int32), {})
        unique, firsts, inverse = np.unique(ids, return_index=True, return_inverse=True)
        programs: dict[Program, int] = {}  # its number
        sentences: dict[int, str] = {}
        numbers, statuses = np.full(len(unique), -1, np.int64), np.zeros(len(unique), np.int32)
        size, rows = 0, n
        for i in np.argsort(firsts).tolist():
            schema_id = int(unique[i])
            found = self._find(schema_id) if schema_id >= 0 else None
            if isinstance(found, Refusal):
                statuses[i], sentences[schema_id] = found.status, found.sentence
            elif found is not None:
                if found not in programs:
                    size += len(found.ops)
                    if size > MAX_JOINED and programs:
                        rows = int(firsts[i])
                        break
                numbers[i] = programs.setdefault(found, len(programs))
        code, which = self._code(list(programs)), inverse[:rows]
        entries = np.append(code.entries, -1)[numbers[which]]
        return Joined(code, rows, entries, statuses[which], sentences)

    def _code(self, programs: list[Program]) -> Code:
        if programs != self._last.programs:
            self._last = Code(programs)
        return self._last

    def _find(self, schema_id: int) -> Program | Refusal:
        found = self._known.get(schema_id)
        if found is not None:
            return found
        try:
            schema = self._writer_schema(schema_id)  # other errors, such as a registry that is down, are the caller's
        except LookupError as e:  # asked for again with the next block
            plain = f"{self._called(schema_id)} is not in the schema registry"
            return Refusal(op.UNKNOWN_ID, plain if isinstance(e, KeyError) else str(e))  # a registry says why
        except SchemaTooLargeError as e:
            found = self._refusal(op.SCHEMA_TOO_LARGE, schema_id, e)
        else:
            found = self._made(schema_id, schema)
        self._known[schema_id] = found
        return found

    def _made(self, schema_id: int, schema: Schema) -> Program | Refusal:
        try:
            program = self._compiled(parse_schema(schema))
        except SchemaTooLargeError as e:
            return self._refusal(op.SCHEMA_TOO_LARGE, schema_id, e)
        except (UserError, UnresolvableError) as e:
            return self._refusal(op.UNRESOLVABLE_SCHEMA, schema_id, e)
        return self._distinct.setdefault(program.content, program)

    def _refusal(self, status: int, schema_id: int, error: Exception) -> Refusal:
        return Refusal(status, one_line(f"{self._called(schema_id)}: {error}", MAX_SENTENCE))


def _cost(found: Program | Refusal) -> int:
    """Instructions, of 48 bytes."""
    return len(found.ops) if isinstance(found, Program) else 1 + len(found.sentence) // 48
