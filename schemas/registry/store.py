"""What a Schema Registry remembers and decides, kept in one folder; ``routes.py`` has its answers, ``server.py`` HTTP.

``registry.log`` has one JSON event a line: appended and synced before anything is answered, replayed at start. A line
cut short by a crash was never answered, so it is dropped. Subject names are data in that file, never file names.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from beam_jobs.errors import UserError
from schemas.compatibility import LEVELS, compared, incompatibilities
from schemas.registry.parsed import InvalidSchemaError, ParsedSchema, parse_text

DEFAULT_LEVEL = "BACKWARD"
LOG_NAME = "registry.log"


class RegistryError(Exception):
    """A request that is refused, with Confluent's HTTP status and error code."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Version:
    """One version of a subject."""

    subject: str
    version: int  # from 1
    id: int  # of its schema
    deleted: bool  # softly: hidden, still readable by id and with deleted=true


DEFAULT_CONTEXT = "."


def context_of(subject: str) -> str:
    """The context of a subject, ``:.team:cars-value`` or, in the default one, ``cars-value``; each counts its own ids.

    >>> context_of(":.team:cars-value"), context_of("cars-value")
    ('.team', '.')
    """
    context, colon, _ = subject.removeprefix(":").partition(":")
    return context if colon and subject.startswith(":.") else DEFAULT_CONTEXT


def qualified(subject: str, context: str) -> str:
    """A subject as it is called in a context, unless it names one itself."""
    if context == DEFAULT_CONTEXT or context_of(subject) != DEFAULT_CONTEXT:
        return subject
    return f":{context}:{subject}"


class SchemaStore:
    """Subjects, versions, schemas and compatibility levels; safe with threads, one process a folder."""

    def __init__(self, folder: Path) -> None:
        """Opens or makes the folder.

        Raises:
          UserError: it cannot be written, another registry uses it, or its log is damaged.
        """
        self._lock = threading.RLock()
        self._subjects: dict[str, dict[int, Version]] = {}
        self._schemas: dict[tuple[str, int], ParsedSchema] = {}  # by context and id
        self._ids: dict[tuple[str, str], int] = {}  # by context and canonical text
        self._guids: dict[str, list[tuple[str, int]]] = {}  # context and id
        self._levels: dict[str | None, str] = {}  # by subject; None is the global one
        self._path = folder / LOG_NAME
        self._log = _open_log(folder)
        try:
            self._replay()
        except BaseException:
            self._log.close()
            raise

    def close(self) -> None:
        with self._lock:
            self._log.close()

    def subjects(self, prefix: str = "", deleted: bool = False, deleted_only: bool = False) -> list[str]:
        with self._lock:
            names = []
            for name, versions in self._subjects.items():
                alive = any(not version.deleted for version in versions.values())
                if _is_listed(name, prefix) and (not alive if deleted_only else alive or deleted):
                    names.append(name)
            return sorted(names)

    def versions(self, subject: str, deleted: bool = False, deleted_only: bool = False) -> list[Version]:
        """The versions of a subject, ascending, at least one."""
        with self._lock:
            found = [
                version
                for _, version in sorted(self._subjects.get(subject, {}).items())
                if (version.deleted if deleted_only else deleted or not version.deleted)
            ]
        if not found:
            raise _subject_unknown(subject)
        return found

    def version(self, subject: str, number: int | None, deleted: bool = False) -> Version:
        """One version; ``None`` is the latest."""
        found = self.versions(subject, deleted)
        if number is None:
            return found[-1]
        for version in found:
            if version.version == number:
                return version
        raise RegistryError(404, 40402, f"Version {number} not found.")

    def all_versions(self, deleted: bool = False) -> Iterator[Version]:
        """Every version of every subject, by subject and number."""
        with self._lock:
            every = [
                version for _, versions in sorted(self._subjects.items()) for _, version in sorted(versions.items())
            ]
        return (version for version in every if deleted or not version.deleted)

    def schema(self, schema_id: int, subject: str = "", context: str = DEFAULT_CONTEXT) -> ParsedSchema:
        """The schema of an id, in the context that is named, or in one where ``subject`` has that id."""
        with self._lock:
            if subject and context == DEFAULT_CONTEXT == context_of(subject):
                named = (qualified(subject, name) for name in self.contexts())
                context = next((context_of(name) for name in named if self._has(name, schema_id)), context)
            elif subject:
                context = context_of(qualified(subject, context))
            if (context, schema_id) not in self._schemas or not self._is_used(context, schema_id):
                raise RegistryError(404, 40403, f"Schema {schema_id} not found")
            return self._schemas[context, schema_id]

    def schema_text(self, schema_id: int) -> str:
        """The text of a schema of the default context."""
        return self.schema(schema_id).text

    def by_guid(self, guid: str) -> list[tuple[str, int]]:
        """(context, id) of the schema that has a GUID, at least one."""
        with self._lock:
            found = [place for place in self._guids.get(guid.lower(), []) if self._is_used(*place)]
        if not found:
            raise RegistryError(404, 40403, f"Schema {guid} not found")
        return found

    def contexts(self) -> list[str]:
        with self._lock:
            return sorted({DEFAULT_CONTEXT, *map(context_of, self._subjects)})

    def max_id(self, context: str = DEFAULT_CONTEXT) -> int:
        with self._lock:
            return max((number for name, number in self._schemas if name == context), default=0)

    def register(self, subject: str, text: str) -> int:
        """The id of the schema in ``subject``; a new version if it has no such one yet."""
        schema, context = _parse(text), context_of(subject)
        with self._lock:
            schema_id = self._ids.get((context, schema.canonical))
            mine = self._subjects.get(subject, {})
            if any(version.id == schema_id and not version.deleted for version in mine.values()):
                assert schema_id is not None
                return schema_id
            problems = self.problems(subject, schema, [v for _, v in sorted(mine.items()) if not v.deleted])
            if problems:
                raise RegistryError(
                    409,
                    409,
                    f"Schema being registered is incompatible with an earlier schema for subject {subject!r}, "
                    f"details: [{'; '.join(problems)}]",
                )
            event: dict[str, Any] = {"event": "register", "subject": subject, "version": max(mine, default=0) + 1}
            if schema_id is None:
                schema_id = self.max_id(context) + 1
                event["schema"] = schema.text
            self._record({**event, "id": schema_id})
            return schema_id

    def lookup(self, subject: str, text: str, deleted: bool = False) -> Version:
        """The version of ``subject`` that has this schema."""
        schema = _parse(text)
        with self._lock:
            found = self.versions(subject, deleted)
            schema_id = self._ids.get((context_of(subject), schema.canonical))
        for version in reversed(found):
            if version.id == schema_id:
                return version
        raise RegistryError(404, 40403, "Schema not found")

    def test_version(self, subject: str, text: str, number: int | None) -> list[str]:
        """Why a schema could not follow one version (None: the latest) of the subject."""
        schema = _parse(text)
        with self._lock:
            try:
                earlier = [self.version(subject, number)]
            except RegistryError:
                if number is not None:
                    raise
                earlier = []  # the first schema of a subject is always welcome
            return self.problems(subject, schema, earlier)

    def test_versions(self, subject: str, text: str) -> list[str]:
        """Why a schema could not be registered in the subject now."""
        schema = _parse(text)
        with self._lock:
            mine = sorted(self._subjects.get(subject, {}).items())
            return self.problems(subject, schema, [version for _, version in mine if not version.deleted])

    def problems(self, subject: str, schema: ParsedSchema, earlier: list[Version]) -> list[str]:
        """Why ``schema`` cannot follow ``earlier`` (oldest first) under the subject's level."""
        level = self.level(subject) or self.level(None)
        assert level is not None
        found: list[str] = []
        for version in compared(earlier, level):
            for problem in incompatibilities(schema.avro, self._schemas[context_of(subject), version.id].avro, level):
                found.append(f"{problem} (version {version.version}, {level})")
        return found

    def level(self, subject: str | None) -> str | None:
        """The compatibility level of a subject, None if it has none of its own; of ``None``: the global one."""
        with self._lock:
            return self._levels.get(subject, DEFAULT_LEVEL if subject is None else None)

    def set_level(self, subject: str | None, level: str | None) -> None:
        """Sets the level of a subject (``None``: global); ``None`` as level removes it."""
        if level is not None and level not in LEVELS:
            raise RegistryError(
                422, 42203, f"Invalid compatibility level {level!r}. Valid values are {', '.join(LEVELS)}"
            )
        with self._lock:
            self._record({"event": "level", "subject": subject, "level": level})

    def delete_subject(self, subject: str, permanent: bool = False) -> list[int]:
        """Hides all versions, or removes hidden ones for good; the numbers of those versions."""
        with self._lock:
            every = self.versions(subject, deleted=True)
            alive = [version.version for version in every if not version.deleted]
            if permanent and alive:
                raise RegistryError(
                    404, 40405, f"Subject {subject!r} was not deleted first before being permanently deleted"
                )
            if not permanent and not alive:
                raise RegistryError(
                    404, 40404, f"Subject {subject!r} was soft deleted. Set permanent=true to delete permanently"
                )
            numbers = [version.version for version in every] if permanent else alive
            self._record({"event": "delete", "subject": subject, "versions": numbers, "permanent": permanent})
            if self.level(subject) is not None:
                self.set_level(subject, None)
            return numbers

    def delete_version(self, subject: str, number: int | None, permanent: bool = False) -> int:
        """Hides one version, or removes a hidden one for good; its number."""
        with self._lock:
            found = self.version(subject, number, deleted=permanent or number is not None)
            if permanent and not found.deleted:
                raise RegistryError(
                    404,
                    40407,
                    f"Subject {subject!r} Version {found.version} was not deleted first "
                    "before being permanently deleted",
                )
            if not permanent and found.deleted:
                raise RegistryError(
                    404,
                    40406,
                    f"Subject {subject!r} Version {found.version} was soft deleted. "
                    "Set permanent=true to delete permanently",
                )
            event = {"event": "delete", "subject": subject, "versions": [found.version], "permanent": permanent}
            self._record(event)
            return found.version

    def _is_used(self, context: str, schema_id: int) -> bool:
        return any(context_of(subject) == context and self._has(subject, schema_id) for subject in self._subjects)

    def _has(self, subject: str, schema_id: int) -> bool:
        return any(version.id == schema_id for version in self._subjects.get(subject, {}).values())

    def _record(self, event: dict[str, Any]) -> None:
        """Writes an event, then lets it happen: what was answered survives kill -9."""
        line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        end = self._log.seek(0, os.SEEK_END)
        try:
            if self._log.write(line) != len(line):
                raise OSError("the disk took only part of the line")
            os.fsync(self._log.fileno())
        except OSError as e:
            self._log.truncate(end)  # half a line must not precede the next event
            raise RegistryError(500, 50001, f"Cannot write {self._path}: {e}") from e
        self._apply(event)

    def _apply(self, event: dict[str, Any]) -> None:
        subject = event["subject"]
        match event["event"]:
            case "register":
                if "schema" in event:
                    schema, place = parse_text(event["schema"], kept=True), (context_of(subject), event["id"])
                    self._schemas[place] = schema
                    self._ids[place[0], schema.canonical] = event["id"]
                    self._guids.setdefault(schema.guid, []).append(place)
                version = Version(subject, event["version"], event["id"], deleted=False)
                self._subjects.setdefault(subject, {})[version.version] = version
            case "level":
                if event["level"] is None:
                    self._levels.pop(subject, None)
                else:
                    self._levels[subject] = event["level"]
            case "delete":
                versions = self._subjects[subject]
                for number in event["versions"]:
                    gone = versions.pop(number)
                    if not event["permanent"]:
                        versions[number] = Version(subject, number, gone.id, deleted=True)
                if not versions:
                    del self._subjects[subject]
            case other:
                raise ValueError(f"unknown event {other!r}")

    def _replay(self) -> None:
        self._log.seek(0)
        end = 0
        for number, line in enumerate(self._log, 1):
            if not line.endswith(b"\n"):
                break
            try:
                self._apply(json.loads(line))
            except (ValueError, KeyError, TypeError) as e:
                raise UserError(
                    f"registry log {self._path} is damaged in line {number} ({e}); repair or remove that line"
                ) from e
            end += len(line)
        self._log.truncate(end)


def _open_log(folder: Path) -> IO[bytes]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        log = open(folder / LOG_NAME, "a+b", buffering=0)  # noqa: SIM115 - kept open for the life of the store
    except OSError as e:
        raise UserError(f"registry folder {folder} cannot be written ({e.strerror}); choose another with --dir") from e
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        log.close()
        raise UserError(
            f"registry folder {folder} is in use by another registry; stop it or choose another --dir"
        ) from None
    return log


def _is_listed(subject: str, prefix: str) -> bool:
    """Whether a prefix asks for a subject; ":*:" is of all contexts, and one without a context of the default one."""
    if prefix.startswith(":*:"):
        return subject.rpartition(":")[2].startswith(prefix[3:])
    return subject.startswith(prefix) and (context_of(subject) == context_of(prefix) or prefix.startswith(":"))


def _parse(text: str) -> ParsedSchema:
    try:
        return parse_text(text)
    except InvalidSchemaError as e:
        raise RegistryError(422, 42201, f"Invalid schema: {e}") from e


def _subject_unknown(subject: str) -> RegistryError:
    return RegistryError(404, 40401, f"Subject {subject!r} not found.")
