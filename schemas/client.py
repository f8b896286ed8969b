"""Schemas of a Confluent Schema Registry, by its client: asked for once, waited for while it is unavailable.

A source travels to the workers inside a pickled function, so it holds settings only: secrets are references
(``beam_jobs.credentials.references``) that are resolved where a connection is made.
"""

from __future__ import annotations

import json
import logging
import random
import ssl
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from cachetools import LRUCache
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import OAuthTokenError, SchemaRegistryError

from beam_jobs import stop
from beam_jobs.codec.avro.writers import OtherSchemaError, events_schema
from beam_jobs.codec.schema import Schema as AvroSchema
from beam_jobs.codec.schema import SchemaTooLargeError
from beam_jobs.credentials.references import read_secret
from beam_jobs.errors import UnreachableError, UserError, one_line
from schemas.http import LIBRARIES, bound_answers
from schemas.settings import PREFIX, SECRETS, secret_part
from schemas.source import REQUEST_SECONDS, InterruptedWaitError, SchemaSource

UNKNOWN_SECONDS = 30.0  # an id the registry does not know is asked for again after that
MAX_UNKNOWN = 10_000  # ids remembered as unknown: garbage must not fill the memory
FLOOD = 20  # unknown ids within UNKNOWN_SECONDS, after which ids far above the registry's largest are not asked for
HEADROOM = 1_000  # ids above the largest that may have been registered since it was read
BACKOFF_SECONDS = (0.2, 10.0)  # first and longest pause while the registry is unavailable
ANSWER_SECONDS = 30.0  # an answer that has not arrived whole by then has failed, however steadily it drips
MAX_TRIES = 3  # to get one id's schema from a registry that answers other questions well
MAX_KEPT = 8 << 20  # characters of the schemas remembered; ten times the bytes as Python's objects
MAX_ID = (1 << 31) - 1  # registries count in 32 bits with a sign

_HTTP_ERRORS: tuple[type[Exception], ...] = tuple(library.HTTPError for library in LIBRARIES)
_TIMEOUTS: tuple[type[Exception], ...] = tuple(library.TimeoutException for library in LIBRARIES)
_OUTAGES = (*_HTTP_ERRORS, OAuthTokenError, OSError, ValueError)  # ValueError: an answer that is not JSON
_GATEWAY = (502, 503, 504)  # statuses: what stands between has no answer
FAILURES = (SchemaRegistryError, *_OUTAGES)  # what a client raises

logger = logging.getLogger(__name__)
T = TypeVar("T")
SchemaKey = int | str
"""An id, or a GUID."""


def _resolve(name: str, value: str) -> str:
    """The value behind a reference, here and now.

    Raises:
      UnreachableError: the variable or the file is missing.
    """
    if name not in SECRETS:
        return value
    reference = secret_part(name, value)
    return value.removesuffix(reference) + read_secret(reference, f"Schema Registry property {name}")


class RegistrySchemas(SchemaSource):
    """Schemas of a Confluent Schema Registry; safe with threads."""

    def __init__(self, url: str, settings: Mapping[str, str], subject: str | None = None) -> None:
        """``settings``: of :func:`registry_settings`; ``subject``: of :func:`for_registry`. Nothing is asked yet."""
        for part in url.split(","):
            parsed = urlsplit(part.strip())
            if parsed.scheme not in ("http", "https") or not parsed.hostname:
                raise UserError(f"--schema_registry {part.strip()!r} is no URL: write http://HOST:PORT or https://HOST")
            if parsed.username or parsed.password:
                raise UserError(
                    f"--schema_registry has a password in its URL: write it as {parsed.scheme}://{parsed.hostname} "
                    f"and put {PREFIX}basic.auth.user.info=USER:env:NAME into the file of --kafka_config"
                )
        self.url = url
        self._settings = dict(settings)
        self._subject = subject
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._kept: tuple[SchemaRegistryClient, weakref.finalize[..., RegistrySchemas]] | None = None
        self._away_since: float | None = None  # monotonic time of the first failure of an outage
        self._kept_lock = threading.Lock()  # of the next: nobody waits for a registry inside it
        self._schemas: LRUCache[SchemaKey, _Kept] = LRUCache(MAX_KEPT, getsizeof=lambda kept: kept.characters)
        self._unknown: dict[SchemaKey, tuple[float, LookupError]] = {}  # monotonic time it is asked again, and why
        self._asked_in_vain: deque[float] = deque(maxlen=FLOOD)  # monotonic times
        self._ceiling: tuple[float, int] | None = None  # monotonic time it is read again, largest id that may exist

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "_settings": self._settings, "_subject": self._subject}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def __repr__(self) -> str:
        return f"RegistrySchemas({self.url!r})"

    def describe(self) -> str:
        return f"schemas of {self.url}"

    def writer_schema(self, schema_id: int) -> AvroSchema:
        """As declared above. While the registry is away this waits, with one log line an outage: nothing may be lost.

        Raises:
          LookupError: no Avro schema has this id, or the registry can't give it while it answers others well.
          SchemaTooLargeError: it has more than ``codec.schema.MAX_TEXT`` characters, or is nested too deep; or all that
            the registry answers is more than it can be.
          InterruptedWaitError: the job is to stop (``beam_jobs.stop``), or the main thread has ended, while waiting.
        """
        return self._schema_of(schema_id)

    def guid_schema(self, guid: str) -> AvroSchema:
        return self._schema_of(guid)

    def _schema_of(self, key: SchemaKey) -> AvroSchema:
        kept = self._remembered(key)
        if kept is None:
            with self._lock:  # one request a schema, whoever asks
                kept = self._remembered(key) or self._asked(key)
        return kept.schema

    def _remembered(self, key: SchemaKey) -> _Kept | None:
        with self._kept_lock:
            found: _Kept | None = self._schemas.get(key)
            return found

    def _asked(self, key: SchemaKey) -> _Kept:
        self._refuse_unknown(key)
        try:
            kept = self._wait_for(lambda client: _fetch(client, key, self._subject), f"schema for {_named(key)}")
        except LookupError as e:
            self._remember_unknown(key, e)
            raise
        with self._kept_lock:
            self._schemas[key] = kept
        return kept

    def register(self, subject: str, schema: Mapping[str, Any]) -> int:
        try:
            with self.connect() as client:
                return _register(client, subject, schema)
        except LookupError as e:
            raise self._refused(subject, e) from e
        except FAILURES as e:
            raise self.unusable(e) from e

    def await_id(self, subject: str, schema: Mapping[str, Any]) -> int:
        with self._lock:
            try:
                return self._wait_for(lambda client: _register(client, subject, schema))
            except LookupError as e:
                raise self._refused(subject, e) from e

    def _refused(self, subject: str, error: LookupError) -> UserError:
        return UserError(
            f"{self.url} refuses the schema of {subject!r}: {error}; "
            "use another topic, or change the subject's schema or compatibility level"
        )

    def check(self, timeout_s: float = REQUEST_SECONDS) -> None:
        try:
            with self.connect(timeout_s) as client:
                client.get_schema_types()
        except FAILURES as e:
            raise self.unusable(e) from e

    def connect(self, timeout_s: float = REQUEST_SECONDS) -> SchemaRegistryClient:
        """A new client, to be closed; making one takes about 0.1 s.

        Args:
          timeout_s: a request without an answer for so long has failed.

        Raises:
          UnreachableError: a secret or a file of ssl.* is not on this machine.
          UserError: properties do not fit together.
        """
        conf: dict[str, Any] = {name: _resolve(name, value) for name, value in self._settings.items()}
        if "bearer.auth.token" in conf:
            conf.setdefault("bearer.auth.credentials.source", "STATIC_TOKEN")
        if "bearer.auth.credentials.source" in conf:
            conf.setdefault("bearer.auth.logical.cluster", "")  # Confluent Cloud's only
        # Its own retries sleep where no signal reaches them; the waiting is done here.
        conf |= {"url": self.url, "timeout": timeout_s, "max.retries": 0}
        try:
            client = SchemaRegistryClient(conf)
            bound_answers(client._rest_client.session)
            return client
        except (OSError, ValueError, TypeError) as e:  # files of ssl.*, combinations the client refuses
            kind = UnreachableError if isinstance(e, FileNotFoundError) else UserError
            raise kind(f"Schema Registry {self.url}: {e}; mend the {PREFIX}* properties") from e

    def _client(self) -> SchemaRegistryClient:
        """The client for schemas by id, kept until the registry fails or this object goes."""
        if self._kept is None:
            client = self.connect()
            self._kept = client, weakref.finalize(self, client.close)
        return self._kept[0]

    def _drop_client(self) -> None:
        if self._kept is not None:
            self._kept[1]()  # closes it
            self._kept = None

    def unusable(self, error: Exception) -> UserError:
        """One of ``FAILURES`` as a sentence: what is wrong with the registry, and what to do."""
        kind = UnreachableError if _is_away(error) else UserError
        return kind(f"--schema_registry {self.url} {_reason(error)}")

    def _refuse_unknown(self, schema_id: SchemaKey) -> None:
        """Raises LookupError for an id that the registry need not be asked for."""
        now = time.monotonic()
        until, why = self._unknown.get(schema_id, (0.0, LookupError()))
        if now < until:
            raise why.with_traceback(None)
        if isinstance(schema_id, str):
            return  # a GUID is as good as any other
        if not 0 < schema_id <= MAX_ID:
            raise LookupError(f"schema id {schema_id} cannot be one of a registry (1 to {MAX_ID})")
        if len(self._asked_in_vain) < FLOOD or now - self._asked_in_vain[0] > UNKNOWN_SECONDS:
            return
        if self._ceiling is None or now >= self._ceiling[0]:
            self._ceiling = (now + UNKNOWN_SECONDS, self._largest_id() + HEADROOM)
        if schema_id > self._ceiling[1]:
            raise LookupError(f"schema id {schema_id} is far above the largest of {self.url}")

    def _largest_id(self) -> int:
        """The registry's largest id; MAX_ID where it does not say, so that every id is asked for."""
        with self._kept_lock:
            known = next((key for key in self._schemas if isinstance(key, int)), None)
        if known is None:
            return MAX_ID
        try:  # the client has no public call for it
            return int(self._client()._rest_client.get(_path(known), {"fetchMaxId": "true"})["maxId"])
        except (SchemaRegistryError, *_OUTAGES, AttributeError, KeyError, TypeError, ValueError):
            return MAX_ID

    def _remember_unknown(self, key: SchemaKey, why: LookupError) -> None:
        now = time.monotonic()
        self._asked_in_vain.append(now)
        if len(self._unknown) >= MAX_UNKNOWN:
            self._unknown = {id_: entry for id_, entry in self._unknown.items() if entry[0] > now}
            if len(self._unknown) >= MAX_UNKNOWN:
                self._unknown.clear()
        self._unknown[key] = (now + UNKNOWN_SECONDS, why)

    def _wait_for(self, ask: Callable[[SchemaRegistryClient], T], named: str | None = None) -> T:
        """The registry's answer, however long it takes.

        Args:
          named: what is asked for, where one of many may fail by itself: it must not block the others.

        Raises:
          LookupError: as ``ask``, or ``MAX_TRIES`` failed to get what is named from a registry that is well.
        """
        pause, longest = BACKOFF_SECONDS
        if not self._schemas:
            self._client()  # UserError: a secret that is missing here would be waited for in vain
        tries = 0
        while True:
            if self._away_since is not None or tries:
                _pause(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads the workers' retries
                pause = min(longest, pause * 2)
            try:
                answer = _within(self._client(), ask)
            except (LookupError, SchemaTooLargeError):
                self._back()
                raise
            except InterruptedWaitError:
                raise
            except Exception as e:  # whatever the client makes of an answer that is none
                self._drop_client()  # a rotated secret is read again
                if named and self._is_well(e):
                    self._back()
                    tries += 1
                    if tries >= MAX_TRIES:
                        raise LookupError(f"the registry gives no {named}: it {_reason(e)}") from None
                elif self._away_since is None:
                    self._away_since = time.monotonic()
                    logger.warning("Schema Registry %s %s. The job waits; it is tried again.", self.url, _reason(e))
            else:
                self._back()
                return answer

    def _is_well(self, error: Exception) -> bool:
        """Whether the registry answers something else as a registry does, after ``error``."""
        denied = isinstance(error, SchemaRegistryError) and error.http_status_code in (401, 403)
        with self._kept_lock:
            known = next(iter(self._schemas), None)
        if known is None and denied:
            return False  # what anybody may ask says nothing of our rights
        path = "schemas/types" if known is None else _path(known)
        try:
            answer: Any = _within(self._client(), lambda client: client._rest_client.get(path))
            return isinstance(answer["schema"], str) if known is not None else "AVRO" in answer
        except InterruptedWaitError:
            raise
        except Exception:
            self._drop_client()
            return False

    def _back(self) -> None:
        if self._away_since is not None:
            seconds = time.monotonic() - self._away_since
            logger.warning("Schema Registry %s answers again after %.0f s", self.url, seconds)
            self._away_since = None


def _register(client: SchemaRegistryClient, subject: str, schema: Mapping[str, Any]) -> int:
    """The id of a schema in a subject; LookupError if the registry refuses it."""
    wanted = Schema(json.dumps(schema), "AVRO")
    try:
        return int(client.lookup_schema(subject, wanted).schema_id)  # enough where we may only read
    except SchemaRegistryError as e:
        if e.http_status_code != 404:
            raise
    try:
        return int(client.register_schema(subject, wanted))
    except SchemaRegistryError as e:
        if e.http_status_code in (409, 422):
            raise LookupError(one_line(e.error_message)) from e
        raise


@dataclass(frozen=True)
class _Kept:
    """A schema of the registry."""

    schema: AvroSchema
    characters: int  # of its text


def _within(client: SchemaRegistryClient, ask: Callable[[SchemaRegistryClient], T]) -> T:
    """What ``ask`` gives within ``ANSWER_SECONDS``; the end of the process is not held up.

    Raises:
      TimeoutError: the answer is not there yet; the client is of no use any more.
      InterruptedWaitError: the process is ending.
    """
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(ask(client))
        except BaseException as e:
            answer.set_exception(e)

    threading.Thread(target=run, name="highbeam-registry", daemon=True).start()
    deadline = time.monotonic() + ANSWER_SECONDS
    while not wait([answer], 0.2).done:
        _check_ending()
        if time.monotonic() > deadline:
            raise TimeoutError(f"its answer is not there after {ANSWER_SECONDS:.0f} s")
    return answer.result()


def _named(key: SchemaKey) -> str:
    return f"GUID {key}" if isinstance(key, str) else f"id {key}"


def _path(key: SchemaKey) -> str:
    return f"schemas/guids/{key}" if isinstance(key, str) else f"schemas/ids/{key}"


def _found(client: SchemaRegistryClient, key: SchemaKey, subject: str | None) -> Schema:
    if isinstance(key, str):
        return client.get_schema_by_guid(key)
    if subject is not None:
        try:
            return client.get_schema(key, subject)
        except SchemaRegistryError as e:
            if e.http_status_code != 404:  # whoever writes the topic may call their subjects otherwise
                raise
    return client.get_schema(key)


def _fetch(client: SchemaRegistryClient, key: SchemaKey, subject: str | None) -> _Kept:
    """The schema of an id or a GUID; LookupError if there is none that Avro records can be read with."""
    try:
        found = _found(client, key, subject)
    except SchemaRegistryError as e:
        if e.http_status_code == 404 and e.error_code == 40403:
            raise LookupError(f"the registry has no schema with {_named(key)}: register it, then redrive") from None
        raise
    if found.schema_type != "AVRO":
        raise OtherSchemaError(f"schema {_named(key)} is {found.schema_type}, not AVRO: write Avro or JSON")
    if found.references:
        raise LookupError(f"schema {_named(key)} refers to other schemas, which is not supported: register it whole")
    text = str(found.schema_str)
    return _Kept(events_schema(text, f"schema {_named(key)}"), len(text))


def _is_away(error: Exception) -> bool:
    """Whether nobody answers, or only a gateway in front of the registry does."""
    if isinstance(error, SchemaRegistryError):
        return error.http_status_code in _GATEWAY
    return isinstance(error, (*_HTTP_ERRORS, OSError)) and not _is_tls(error)


def _is_tls(error: BaseException | None) -> bool:
    """Whether a server answers, and TLS does not come about."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error is not None


def _reason(error: Exception) -> str:
    """What is wrong and what to do, to follow the address."""
    if isinstance(error, SchemaRegistryError):
        message = one_line(error.error_message, 200)
        if error.http_status_code in (401, 403):
            return (
                f"refuses us (HTTP {error.http_status_code}: {message}); set or mend "
                f"{PREFIX}basic.auth.user.info=USER:env:NAME in the file of --kafka_config"
            )
        return f"answers HTTP {error.http_status_code} ({message}); check that the URL is the registry's own"
    if isinstance(error, OAuthTokenError):
        return f"cannot be used: no token ({error.message}); check bearer.auth.* in the file of --kafka_config"
    if isinstance(error, _TIMEOUTS):
        return "gives no answer in time; check the address and the network"
    if _is_tls(error):
        return f"answers, but TLS fails ({error}); check {PREFIX}ssl.ca.location in the file of --kafka_config"
    if isinstance(error, (*_HTTP_ERRORS, OSError)):
        return f"cannot be reached ({error}); start it, or correct the address"
    if isinstance(error, UserError):
        return f"cannot be used: {error}"
    return "answers, but not as a Schema Registry; check that the URL is the registry's own"


def _pause(seconds: float) -> None:
    """Waits, unless the process is ending."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        stop.wait(min(left, 0.2))
        _check_ending()


def _check_ending() -> None:
    # Beam's worker threads keep a process alive; the end of the main thread is a reason to stop waiting.
    if stop.requested() or not threading.main_thread().is_alive():
        raise InterruptedWaitError("the job ends while the Schema Registry is away; its block will be read again")
