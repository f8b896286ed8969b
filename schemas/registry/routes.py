"""What the registry answers to each request: Confluent's REST API as functions of the store."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from schemas.registry.parsed import ParsedSchema
from schemas.registry.store import DEFAULT_CONTEXT, RegistryError, SchemaStore, Version, context_of, qualified


@dataclass(frozen=True)
class Request:
    """One request, as the functions below see it."""

    path: tuple[str, ...]  # what the stars of the route stand for
    query: dict[str, str]
    body: dict[str, Any]
    context: str = DEFAULT_CONTEXT  # of the URL, /contexts/NAME/…

    def flag(self, *names: str) -> bool:
        return any(self.query.get(name, "").lower() == "true" for name in names)

    @property
    def subject(self) -> str:
        subject = self.path[0]
        if not subject or not subject.isprintable() or subject in ("__GLOBAL", "__EMPTY"):
            raise RegistryError(422, 42208, f"The specified subject {subject!r} is not a valid subject.")
        return qualified(subject, self.context)

    @property
    def prefix(self) -> str:
        """Of the subjects that are asked for."""
        return qualified(self.query.get("subjectPrefix", ""), self.context)

    @property
    def number(self) -> int | None:
        """The version of the path; None is the latest."""
        text = self.path[1]
        if text in ("latest", "-1"):
            return None
        if text.isascii() and text.isdigit() and 1 <= int(text[:12]) < 1 << 31:
            return int(text)
        raise RegistryError(
            422,
            42202,
            f"The specified version {text!r} is not a valid version id. "
            'Allowed values are between [1, 2^31-1] and the string "latest"',
        )

    @property
    def schema_id(self) -> int:
        text = self.path[0]
        if text.isascii() and text.isdigit() and len(text) < 12:
            return int(text)
        raise RegistryError(404, 404, f"Schema id {text!r} is not a number")

    @property
    def schema(self) -> str:
        """The text of the schema in the body."""
        kind = self.body.get("schemaType") or "AVRO"
        if kind != "AVRO":
            raise RegistryError(422, 42201, f"Schema type {kind!r} is not supported by this registry: use AVRO")
        for name in ("references", "metadata", "ruleSet"):
            if self.body.get(name):
                raise RegistryError(422, 42201, f"{name!r} are not supported by this registry: send a schema without")
        for name in ("id", "version"):
            if self.body.get(name, -1) not in (-1, 0, None):
                raise RegistryError(422, 42205, f"{name!r} can be given in IMPORT mode only: leave it out")
        text = self.body.get("schema")
        if not isinstance(text, str) or not text:
            raise RegistryError(422, 42201, 'Empty schema: the body is {"schema": "..."} with the schema as a string')
        return text

    def page(self, items: list[Any]) -> list[Any]:
        """The slice that ``offset`` and ``limit`` ask for."""
        try:
            offset, limit = max(0, int(self.query.get("offset", 0))), int(self.query.get("limit", -1))
        except ValueError:
            raise RegistryError(400, 400, "'offset' and 'limit' are numbers") from None
        return items[offset : offset + limit if limit > 0 else None]


def _described(store: SchemaStore, version: Version) -> dict[str, Any]:
    return {
        "subject": version.subject,
        "version": version.version,
        "id": version.id,
        "guid": (schema := store.schema(version.id, context=context_of(version.subject))).guid,
        "schema": schema.text,
    }


def _subjects(store: SchemaStore, r: Request) -> Any:
    deleted_only = r.flag("deletedOnly", "deleted_only")
    return r.page(store.subjects(r.prefix, r.flag("deleted"), deleted_only))


def _versions(store: SchemaStore, r: Request) -> Any:
    found = store.versions(r.subject, r.flag("deleted"), r.flag("deletedOnly", "deleted_only"))
    return r.page([version.version for version in found])


def _register(store: SchemaStore, r: Request) -> Any:
    schema_id = store.register(r.subject, r.schema)
    return {"id": schema_id, "guid": store.schema(schema_id, context=context_of(r.subject)).guid}


def _version(store: SchemaStore, r: Request) -> Any:
    return _described(store, store.version(r.subject, r.number, r.flag("deleted")))


def _version_schema(store: SchemaStore, r: Request) -> Any:
    return json.loads(_version(store, r)["schema"])


def _referenced_by(store: SchemaStore, r: Request) -> Any:
    store.version(r.subject, r.number)
    return []


def _schemas(store: SchemaStore, r: Request) -> Any:
    found = [version for version in store.all_versions(r.flag("deleted")) if version.subject.startswith(r.prefix)]
    if r.flag("latestOnly"):
        found = list({version.subject: version for version in found}.values())
    return r.page([_described(store, version) for version in found])


def _of_id(store: SchemaStore, r: Request) -> ParsedSchema:
    return store.schema(r.schema_id, r.query.get("subject", ""), r.context)


def _schema(store: SchemaStore, r: Request) -> Any:
    schema = _of_id(store, r)
    answer: dict[str, Any] = {"schema": schema.text, "guid": schema.guid}
    if r.flag("fetchMaxId"):
        answer["maxId"] = store.max_id(r.context)
    return answer


def _schema_text(store: SchemaStore, r: Request) -> Any:
    return json.loads(_of_id(store, r).text)


def _of_guid(store: SchemaStore, r: Request) -> Any:
    context, schema_id = store.by_guid(r.path[0])[0]
    return {"schema": store.schema(schema_id, context=context).text, "guid": r.path[0]}


def _guid_ids(store: SchemaStore, r: Request) -> Any:
    return [{"context": context, "id": schema_id} for context, schema_id in store.by_guid(r.path[0])]


def _uses(store: SchemaStore, r: Request) -> list[Version]:
    store.schema(r.schema_id, context=r.context)
    wanted = r.query.get("subject")
    return [
        version
        for version in store.all_versions(r.flag("deleted"))
        if version.id == r.schema_id and context_of(version.subject) == r.context and wanted in (None, version.subject)
    ]


def _schema_subjects(store: SchemaStore, r: Request) -> Any:
    return r.page(list(dict.fromkeys(version.subject for version in _uses(store, r))))


def _schema_versions(store: SchemaStore, r: Request) -> Any:
    return r.page([{"subject": version.subject, "version": version.version} for version in _uses(store, r)])


def _test(store: SchemaStore, r: Request) -> Any:
    if len(r.path) > 1:
        problems = store.test_version(r.subject, r.schema, r.number)
    else:
        problems = store.test_versions(r.subject, r.schema)
    answer: dict[str, Any] = {"is_compatible": not problems}
    if r.flag("verbose"):
        answer["messages"] = problems
    return answer


def _get_level(store: SchemaStore, r: Request) -> Any:
    level = store.level(r.subject if r.path else None)
    if level is None and r.flag("defaultToGlobal"):
        level = store.level(None)
    if level is None:
        raise RegistryError(404, 40408, f"Subject {r.subject!r} does not have subject-level compatibility configured")
    return {"compatibilityLevel": level}


def _put_level(store: SchemaStore, r: Request) -> Any:
    level = r.body.get("compatibility")
    if not isinstance(level, str):
        raise RegistryError(422, 42203, 'Invalid compatibility level: the body is {"compatibility": "BACKWARD"}')
    store.set_level(r.subject if r.path else None, level.upper())
    return {"compatibility": level.upper()}


def _delete_level(store: SchemaStore, r: Request) -> Any:
    before = _get_level(store, r)
    store.set_level(r.subject if r.path else None, None)
    return before


def _subject_mode(store: SchemaStore, r: Request) -> Any:
    if r.flag("defaultToGlobal"):
        return {"mode": "READWRITE"}
    raise RegistryError(404, 40409, f"Subject {r.subject!r} does not have subject-level mode configured")


def _refuse_mode(store: SchemaStore, r: Request) -> Any:
    raise RegistryError(422, 42205, "This registry has one mode, READWRITE: it cannot be changed")


Answer = Callable[[SchemaStore, Request], Any]

ROUTES: dict[tuple[str, str], Answer] = {
    ("GET", ""): lambda store, r: {},
    ("GET", "subjects"): _subjects,
    ("POST", "subjects/*"): lambda store, r: _described(store, store.lookup(r.subject, r.schema, r.flag("deleted"))),
    ("DELETE", "subjects/*"): lambda store, r: store.delete_subject(r.subject, r.flag("permanent")),
    ("GET", "subjects/*/versions"): _versions,
    ("POST", "subjects/*/versions"): _register,
    ("GET", "subjects/*/versions/*"): _version,
    ("DELETE", "subjects/*/versions/*"): lambda store, r: store.delete_version(
        r.subject, r.number, r.flag("permanent")
    ),
    ("GET", "subjects/*/versions/*/schema"): _version_schema,
    ("GET", "subjects/*/versions/*/referencedby"): _referenced_by,
    ("GET", "schemas"): _schemas,
    ("GET", "schemas/types"): lambda store, r: ["AVRO"],
    ("GET", "schemas/guids/*"): _of_guid,
    ("GET", "schemas/guids/*/ids"): _guid_ids,
    ("GET", "schemas/ids/*"): _schema,
    ("GET", "schemas/ids/*/schema"): _schema_text,
    ("GET", "schemas/ids/*/subjects"): _schema_subjects,
    ("GET", "schemas/ids/*/versions"): _schema_versions,
    ("POST", "compatibility/subjects/*/versions"): _test,
    ("POST", "compatibility/subjects/*/versions/*"): _test,
    ("GET", "config"): _get_level,
    ("PUT", "config"): _put_level,
    ("DELETE", "config"): _delete_level,
    ("GET", "config/*"): _get_level,
    ("PUT", "config/*"): _put_level,
    ("DELETE", "config/*"): _delete_level,
    ("GET", "mode"): lambda store, r: {"mode": "READWRITE"},
    ("GET", "mode/*"): _subject_mode,
    ("PUT", "mode"): _refuse_mode,
    ("PUT", "mode/*"): _refuse_mode,
    ("DELETE", "mode/*"): _refuse_mode,
    ("GET", "contexts"): lambda store, r: store.contexts(),
}


def respond(store: SchemaStore, method: str, target: str, body: bytes) -> Any:
    """The answer to a request, JSON.

    Raises:
      RegistryError: the request is refused.
    """
    try:
        url = urlsplit(target)
        parts = [unquote(part, errors="strict") for part in url.path.strip("/").split("/")]
        query = dict(parse_qsl(url.query, errors="strict"))
    except ValueError:
        raise RegistryError(400, 400, "The URL is not valid: names in it are percent-encoded UTF-8") from None
    context = DEFAULT_CONTEXT
    if len(parts) > 1 and parts[0] == "contexts":
        context, parts = parts[1] or DEFAULT_CONTEXT, parts[2:]
        if not context.startswith(".") or ":" in context:
            raise RegistryError(422, 42208, f"The specified context {context!r} is not valid: it begins with a dot.")
    found = False
    for (allowed, route), answer in ROUTES.items():
        names = route.split("/")
        if len(names) == len(parts) and all(name in ("*", part) for name, part in zip(names, parts, strict=True)):
            found = True
            if allowed == method:
                path = tuple(part for name, part in zip(names, parts, strict=True) if name == "*")
                given = _json_object(body) if method in ("POST", "PUT") else {}
                return answer(store, Request(path, query, given, context))
    if found:
        raise RegistryError(405, 405, "HTTP 405 Method Not Allowed")
    raise RegistryError(404, 404, "HTTP 404 Not Found")


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as e:
        raise RegistryError(400, 400, f"The body is not JSON: {e}") from None
    if not isinstance(value, dict):
        raise RegistryError(400, 400, "The body is not a JSON object")
    return value
