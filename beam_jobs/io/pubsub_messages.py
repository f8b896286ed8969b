"""Pub/Sub messages to raw blocks and back. No network, no Beam.

What a message cannot say in its own words goes into attributes of ours, and comes back from them:

``highbeam.key``        the key, where it is no ordering key
``highbeam.key.base64`` the same, where it is not UTF-8
``highbeam.value``      "null" for a tombstone; "empty" for an empty value beside no other attribute
``highbeam.timestamp``  the record's own time, epoch milliseconds
``highbeam.headers.N``  headers that are no attributes (twice the same name, not UTF-8, too long): JSON in base64
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from google.pubsub_v1 import types
from numpy.typing import NDArray

from beam_jobs.block import Block, raw_block

PREFIX = "highbeam."
KEY, KEY_BASE64, VALUE, TIMESTAMP, HEADERS = (
    PREFIX + name for name in ("key", "key.base64", "value", "timestamp", "headers.")
)

MAX_MESSAGE_BYTES = 9_990_000  # the service takes requests of 10 MB
MAX_REQUEST_MESSAGES = 1000  # of the service
_MAX_REQUEST_BYTES = 9_000_000
_MAX_KEY_BYTES = 1024  # of an ordering key
_MAX_NAME_BYTES, _MAX_VALUE_BYTES, _MAX_ATTRIBUTES = 256, 1024, 100
_PARTS = 60  # of packed headers, at most; beside them up to 30 plain ones and ours

_EPOCH = datetime.fromtimestamp(0, UTC)

Message = types.PubsubMessage.pb()  # the bare protobuf: proto-plus costs ten times as much a field
PublishRequest = types.PublishRequest.pb()


def message_numbers(ids: Sequence[str]) -> NDArray[np.int64]:
    """Message ids as offsets, int64 [n]: the digits' number; for any other id a hash of 63 bits, always the same."""
    try:
        return pa.array(ids, pa.string()).cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid:
        return np.array([_number(text) for text in ids], np.int64)


def _number(text: str) -> int:
    if text.isdecimal() and text.isascii() and int(text) < 1 << 63:
        return int(text)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1


def publish_millis(messages: Iterable[Any]) -> NDArray[np.int64]:
    """When the service took each message, milliseconds since the epoch, int64 [n]."""
    times = [message.publish_time for message in messages]
    return np.array([t.seconds * 1000 + t.nanos // 1_000_000 for t in times], np.int64)


def to_block(
    topic: str,
    messages: Sequence[Any],
    numbers: NDArray[np.int64],
    published: NDArray[np.int64],
    timestamp_attribute: str | None = None,
) -> Block:
    """A raw block of n messages (bare protobufs, or anything with their fields).

    Args:
      topic: for the block's topic column.
      numbers, published: :func:`message_numbers` and :func:`publish_millis` of the messages.
      timestamp_attribute: attribute with the timestamp, epoch milliseconds (any 64 bits) or RFC 3339 (UTC unless it
        says otherwise); where it is missing or no time, the publish time stands.
    """
    values: list[bytes | None] = [message.data for message in messages]
    keys: list[bytes | None] = [message.ordering_key.encode() or None for message in messages]
    headers: list[list[tuple[str, bytes | None]] | None] | None = None
    millis = published
    attributes = [message.attributes for message in messages]
    if any(attributes):
        headers = [None] * len(values)
        millis = published.copy()
        for row, given in enumerate(attributes):
            if not given:
                continue
            if timestamp_attribute is not None and timestamp_attribute in given:
                millis[row] = _millis(given[timestamp_attribute], int(millis[row]))
            if any(name.startswith(PREFIX) for name in given):
                headers[row], keys[row], values[row] = _restored(dict(given), keys[row], values[row])
            else:
                headers[row] = [(name, given[name].encode()) for name in sorted(given)]
    return raw_block(topic, np.zeros(len(values), np.int32), numbers, millis, keys, values, headers)


def _millis(text: str, otherwise: int) -> int:
    try:
        if text.lstrip("-").isdecimal():
            millis = int(text)
            return millis if -(1 << 63) <= millis < 1 << 63 else otherwise
        time = datetime.fromisoformat(text)
        return ((time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        return otherwise


def _restored(
    given: dict[str, str], key: bytes | None, value: bytes | None
) -> tuple[list[tuple[str, bytes | None]] | None, bytes | None, bytes | None]:
    """(headers, key, value) as they were before :func:`to_messages`; what is not of our making stays a header."""
    if KEY in given:
        key = given.pop(KEY).encode()
    try:
        if KEY_BASE64 in given:
            key = base64.b64decode(given[KEY_BASE64], validate=True)
            del given[KEY_BASE64]
    except ValueError:
        pass
    if not value and given.get(VALUE) in ("null", "empty"):
        value = None if given.pop(VALUE) == "null" else b""
    given.pop(TIMESTAMP, None)
    packed: list[tuple[str, bytes | None]] = []
    names = [name for i in range(_PARTS) if (name := f"{HEADERS}{i}") in given]
    try:
        if names:
            unpacked = json.loads(base64.b64decode("".join(given[name] for name in names), validate=True))
            packed = [(str(name), None if v is None else base64.b64decode(v)) for name, v in unpacked]
            for name in names:
                del given[name]
    except (ValueError, TypeError):
        packed = []
    headers = [*((name, given[name].encode()) for name in sorted(given)), *packed]
    return headers or None, key, value


def to_messages(block: Block, ordered: bool) -> Iterator[Any]:
    """A message a row of a block with key and value, and perhaps headers and timestamp.

    Args:
      ordered: keys become ordering keys, where they can be one; otherwise an attribute.
    """
    names = block.schema.names
    n = block.num_rows
    headers = block.column("headers").to_pylist() if "headers" in names else [None] * n
    millis = (
        block.column("timestamp").cast(pa.timestamp("ms", "UTC")).view(pa.int64()).to_pylist()
        if "timestamp" in names
        else [None] * n
    )
    rows = zip(block.column("key").to_pylist(), block.column("value").to_pylist(), headers, millis, strict=True)
    for key, value, given, time in rows:
        attributes = _attributes(given) if given else {}
        ordering_key = ""
        if key is not None:
            try:
                text = key.decode()
            except UnicodeDecodeError:
                attributes[KEY_BASE64] = base64.b64encode(key).decode()
            else:
                if ordered and 0 < len(key) <= _MAX_KEY_BYTES:
                    ordering_key = text
                else:
                    attributes[KEY] = text
        if time is not None:
            attributes[TIMESTAMP] = str(time)
        if value is None:
            attributes[VALUE] = "null"
        elif not value and not attributes:
            attributes[VALUE] = "empty"  # the service refuses a message of nothing
        yield Message(data=value or b"", attributes=attributes, ordering_key=ordering_key)


def _attributes(headers: Sequence[dict[str, Any]]) -> dict[str, str]:
    plain: dict[str, str] = {}
    packed = []
    counts: dict[str, int] = {}
    for header in headers:
        counts[header["key"]] = counts.get(header["key"], 0) + 1
    for header in headers:
        name, value = header["key"], header["value"]
        text = _plain(name, value) if counts[name] == 1 and len(plain) < 30 else None
        if text is None:
            packed.append([name, None if value is None else base64.b64encode(value).decode()])
        else:
            plain[name] = text
    if packed:
        text = base64.b64encode(json.dumps(packed).encode()).decode()
        for part, start in enumerate(range(0, len(text), _MAX_VALUE_BYTES)):
            plain[f"{HEADERS}{part}"] = text[start : start + _MAX_VALUE_BYTES]
    return plain


def _plain(name: str, value: bytes | None) -> str | None:
    """The header's value as an attribute takes it, None where it does not."""
    reserved = name.startswith((PREFIX, "goog")) and name not in _PASSED
    if value is None or not name or reserved or len(name.encode()) > _MAX_NAME_BYTES or len(value) > _MAX_VALUE_BYTES:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


_PASSED = frozenset({PREFIX + "redrives", PREFIX + "origin"})  # headers of ours that others may read


def message_bytes(message: Any) -> int:
    """The message's size in a request; more than the service takes of anything: ``MAX_MESSAGE_BYTES`` + 1."""
    values = message.attributes.values()
    if len(values) > _MAX_ATTRIBUTES or any(len(value.encode()) > _MAX_VALUE_BYTES for value in values):
        return MAX_MESSAGE_BYTES + 1
    return int(message.ByteSize())


def requests(topic_path: str, messages: Sequence[Any]) -> list[list[Any]]:
    """Publish requests for all messages, as chains: those of one chain go out one after the other.

    An ordering key is a chain of its own: the service takes one key a request.
    """
    chains: dict[str, list[list[Any]]] = {}
    sizes: dict[str, int] = {}
    for message in messages:
        key, size = message.ordering_key, message.ByteSize()
        groups = chains.setdefault(key, [[]])
        full = len(groups[-1]) >= MAX_REQUEST_MESSAGES or sizes.get(key, 0) + size > _MAX_REQUEST_BYTES
        if full and groups[-1]:
            groups.append([])
            sizes[key] = 0
        groups[-1].append(message)
        sizes[key] = sizes.get(key, 0) + size
    free = [[group] for group in chains.pop("", [])]
    return [
        [PublishRequest(topic=topic_path, messages=group) for group in chain] for chain in [*free, *chains.values()]
    ]
