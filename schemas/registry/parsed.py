"""What the registry makes of a schema's text: parsed, checked as strictly as other registries do, and canonical."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass
from typing import Any

from beam_jobs.codec.schema import AvroType, parse_schema
from beam_jobs.codec.valid import check_valid
from beam_jobs.errors import UserError

MAX_DEPTH = 64  # levels of JSON; a schema must load again wherever in the stack the log is replayed


class InvalidSchemaError(ValueError):
    """A text that is no Avro schema; the message says where and why."""


@dataclass(frozen=True)
class ParsedSchema:
    """A valid Avro schema."""

    text: str  # JSON without superfluous space; what clients get
    canonical: str  # equal for texts that differ only in space, key order and {"type": "string"} for "string"
    avro: AvroType

    @property
    def guid(self) -> str:
        """The same wherever the schema is registered."""
        return str(uuid.UUID(bytes=hashlib.sha256(self.canonical.encode()).digest()[:16]))


def parse_text(text: str, kept: bool = False) -> ParsedSchema:
    """Parses and checks the JSON text of a schema.

    Args:
      kept: it was let in before, by rules that may have been milder.

    Raises:
      InvalidSchemaError: not JSON, not Avro, a name that Avro does not allow, or a default that does not fit its type.
    """
    try:
        schema = json.loads(text, parse_constant=_refuse_constant)
        _check_depth(schema, MAX_DEPTH)
        avro = parse_schema([schema]).branches[0] if isinstance(schema, str) else parse_schema(schema)
        if not kept:
            check_valid(avro, strict=False)
            _refuse_braces(schema)
        compact = json.dumps(schema, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        compact.encode()  # a lone surrogate could not be sent back
        canonical = json.dumps(_normal(schema), separators=(",", ":"), sort_keys=True)
        return ParsedSchema(compact, canonical, avro)
    except InvalidSchemaError:
        raise
    except UserError as e:
        raise InvalidSchemaError(str(e)) from e
    except RecursionError:
        raise InvalidSchemaError(f"nested too deeply: use at most {MAX_DEPTH} levels of JSON") from None
    except (ValueError, TypeError, AttributeError, KeyError) as e:
        raise InvalidSchemaError(f"not a valid Avro schema: {e}") from e


def _refuse_braces(schema: Any) -> None:
    """Refuses {"type": [...]} and {"type": {"type": ...}} where a type has to be, which the codec reads."""
    if isinstance(schema, list):
        for branch in schema:
            _refuse_braces(branch)
    elif isinstance(schema, dict):
        if not isinstance(schema["type"], str):
            around = schema.get("name", "it")
            raise InvalidSchemaError(f"{around!r} is a type around another one: write the inner one alone")
        for part in (schema.get("items"), schema.get("values"), *(f["type"] for f in schema.get("fields", ()))):
            _refuse_braces(part)


def _refuse_constant(name: str) -> None:
    raise InvalidSchemaError(f"{name} is not JSON")


def _check_depth(value: Any, left: int) -> None:
    if left < 0:
        raise InvalidSchemaError(f"nested too deeply: use at most {MAX_DEPTH} levels of JSON")
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, left - 1)


def _normal(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_normal(item) for item in schema]
    if isinstance(schema, dict):
        if list(schema) == ["type"]:
            return _normal(schema["type"])
        return {
            key: _normal(value) if key in ("type", "items", "values", "fields") else value
            for key, value in schema.items()
        }
    return schema
