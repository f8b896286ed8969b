"""Pub/Sub messages to raw blocks and back. No network, no Beam.

What a message cannot say in its own words goes into attributes of ours, and comes back from them:

``highbeam.key``        the key, where it is no ordering key
``highbeam.key.base64`` the same, where it is not UTF-8
``highbeam.value``      "null" for a tombstone; "empty" for an empty value beside no other attribute
``highbeam.timestamp``  the record's own time, epoch milliseconds
``highbeam.packed.N``   a long key, and headers that are no attributes (twice the same name, not UTF-8, null, too long,
                        too many): ``_PACKED`` in base64, cut to the length of attributes
``highbeam.packed``     the same where attributes have no room for it: its length, in bytes, at the end of the data
``highbeam.headers.N``  what stood for ``highbeam.packed.N`` before: JSON in base64; read, no longer written
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
from google.pubsub_v1 import types
from numpy.typing import NDArray

from beam_jobs.block import Block, raw_block

_LOGGER = logging.getLogger(__name__)

PREFIX = "highbeam."
KEY, KEY_BASE64, VALUE, TIMESTAMP, HEADERS, PACKED = (
    PREFIX + name for name in ("key", "key.base64", "value", "timestamp", "headers.", "packed")
)

MAX_MESSAGE_BYTES = 9_999_000  # the service takes requests of 10 MB, which name the topic as well
MAX_REQUEST_MESSAGES = 1000  # of the service
_MAX_REQUEST_BYTES = 9_000_000
_MAX_KEY_BYTES = 1024  # of an ordering key
_MAX_NAME_BYTES, _MAX_VALUE_BYTES, _MAX_ATTRIBUTES = 256, 1024, 100
_PART_BYTES = _MAX_VALUE_BYTES // 4 * 3  # in base64 as much as an attribute takes
_PLAIN = 50  # attributes that stay what they are, at least, where not all headers can
_BESIDE = PREFIX + "redrives"  # left out, as the time is, where the record's own headers are all a message can have
_PASSED = frozenset({_BESIDE, PREFIX + "origin"})  # headers of ours that others may read

_HEADER = [{"name": "name", "type": "string"}, {"name": "value", "type": ["null", "bytes"]}]
_PACKED = fastavro.parse_schema(
    {
        "type": "record",
        "name": "packed",
        "fields": [
            {"name": "key", "type": ["null", "bytes"]},
            {
                "name": "headers",
                "type": {"type": "array", "items": {"type": "record", "name": "header", "fields": _HEADER}},
            },
        ],
    }
)

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
    packed, body = _unpacked(given, value or b"")
    if packed is not None:
        value = body
        key = key if packed["key"] is None else packed["key"]
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
    others = packed["headers"] if packed is not None else _packed_before(given)
    headers = [*((name, given[name].encode()) for name in sorted(given)), *((h["name"], h["value"]) for h in others)]
    return headers or None, key, value


def _unpacked(given: dict[str, str], data: bytes) -> tuple[dict[str, Any] | None, bytes]:
    """(what was packed, the value without it), its attributes taken from ``given``; None: nothing was."""
    names = [PACKED] if PACKED in given else _numbered(given, PACKED + ".")
    if not names:
        return None, data
    try:
        if PACKED in given:
            body = max(len(data) - int(given[PACKED]), 0)
            value, stream = data[:body], io.BytesIO(data[body:])
        else:
            value = data
            stream = io.BytesIO(base64.b64decode("".join(given[name] for name in names), validate=True))
        packed = fastavro.schemaless_reader(stream, _PACKED, None)
        if stream.read(1):
            return None, data
    except Exception:  # whatever somebody else's bytes make fastavro raise
        return None, data
    for name in names:
        del given[name]
    return packed, value


def _packed_before(given: dict[str, str]) -> list[dict[str, Any]]:
    """Headers packed by earlier versions, whose messages may still be in a subscription."""
    names = _numbered(given, HEADERS)
    if not names:
        return []
    try:
        pairs = json.loads(base64.b64decode("".join(given[name] for name in names), validate=True))
        found = [{"name": str(name), "value": None if v is None else base64.b64decode(v)} for name, v in pairs]
    except (ValueError, TypeError, RecursionError):
        return []
    for name in names:
        del given[name]
    return found


def _numbered(given: dict[str, str], prefix: str) -> list[str]:
    """The names prefix0, prefix1 ... as far as they go."""
    names: list[str] = []
    while (name := f"{prefix}{len(names)}") in given:
        names.append(name)
    return names


def to_messages(block: Block, ordered: bool) -> Iterator[Any]:
    """A message a row of a block with key and value, and perhaps headers and timestamp.

    A message is within the service's limits but for its size: see :func:`message_bytes`.

    Args:
      ordered: keys become ordering keys, or a hash does of those that can't be one; otherwise an attribute.
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
        attributes: dict[str, str] = {}
        data, ordering_key, long_key = value or b"", "", None
        if key is not None:
            text = _text(key)
            if ordered and text and len(key) <= _MAX_KEY_BYTES:
                ordering_key = text
            else:
                ordering_key = _stands_for(key) if ordered else ""
                name, short = (KEY_BASE64, base64.b64encode(key).decode()) if text is None else (KEY, text)
                if len(short) <= _MAX_VALUE_BYTES and len(key) <= _MAX_VALUE_BYTES:
                    attributes[name] = short
                else:
                    long_key = key
        if value is None:
            attributes[VALUE] = "null"
        if given or long_key is not None:
            data = _with_headers(given or (), long_key, data, attributes)
        if time is not None and _has_room(attributes):
            attributes[TIMESTAMP] = str(time)
        if not data and not attributes:
            attributes[VALUE] = "empty"  # the service refuses a message of nothing
        yield Message(data=data, attributes=attributes, ordering_key=ordering_key)


def _text(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _stands_for(key: bytes) -> str:
    """An ordering key for a key that can't be one, so that its records keep their order."""
    return PREFIX + hashlib.blake2b(key, digest_size=16).hexdigest()


def _has_room(attributes: dict[str, str]) -> bool:
    """Whether one more may be told beside the record; said once where not."""
    if len(attributes) >= _MAX_ATTRIBUTES:
        _say_full()
        return False
    return True


@cache
def _say_full() -> None:
    _LOGGER.warning(
        "a record has as many headers as a Pub/Sub message has attributes (%d): %s or %s is left out",
        *(_MAX_ATTRIBUTES, _BESIDE, TIMESTAMP),
    )


def _with_headers(
    headers: Sequence[dict[str, Any]], key: bytes | None, data: bytes, attributes: dict[str, str]
) -> bytes:
    """Adds headers, and a key that is too long for an attribute, to ``attributes``; the data, longer where need be."""
    counts = Counter(header["key"] for header in headers)
    plain: dict[str, str] = {}
    others = []
    for header in headers:
        name, value = header["key"], header["value"]
        text = _plain(name, value) if counts[name] == 1 else None
        if text is None:
            others.append({"name": name, "value": value})
        else:
            plain[name] = text
    beside = plain.pop(_BESIDE, None)
    room = _MAX_ATTRIBUTES - len(attributes)
    if others or key is not None or len(plain) > room:
        data = _pack(key, plain, others, room - 2, data, attributes)  # 2: what is told beside the record
    attributes.update(plain)
    if beside is not None and _has_room(attributes):
        attributes[_BESIDE] = beside
    return data


def _pack(
    key: bytes | None,
    plain: dict[str, str],
    others: list[dict[str, Any]],
    room: int,
    data: bytes,
    attributes: dict[str, str],
) -> bytes:
    """Packs what is no attribute, and of ``plain`` what has no room, into attributes or behind the data it returns."""
    for most in (len(plain), _PLAIN):
        packed = _packed(key, others, list(plain.items())[most:])
        parts = -(-len(packed) // _PART_BYTES)
        if min(most, len(plain)) + parts <= room:
            text = base64.b64encode(packed).decode()
            starts = range(0, len(text), _MAX_VALUE_BYTES)
            attributes.update((f"{PACKED}.{i}", text[at : at + _MAX_VALUE_BYTES]) for i, at in enumerate(starts))
            break
    else:
        most = room - 1
        packed = _packed(key, others, list(plain.items())[most:])
        attributes[PACKED] = str(len(packed))
        data += packed
    for name in list(plain)[most:]:
        del plain[name]
    return data


def _packed(key: bytes | None, others: list[dict[str, Any]], more: list[tuple[str, str]]) -> bytes:
    stream = io.BytesIO()
    headers = [*others, *({"name": name, "value": text.encode()} for name, text in more)]
    fastavro.schemaless_writer(stream, _PACKED, {"key": key, "headers": headers})
    return stream.getvalue()


def _plain(name: str, value: bytes | None) -> str | None:
    """The header's value as an attribute takes it, None where it does not."""
    reserved = name.startswith((PREFIX, "goog")) and name not in _PASSED
    if value is None or not name or reserved or len(name.encode()) > _MAX_NAME_BYTES or len(value) > _MAX_VALUE_BYTES:
        return None
    return _text(value)


def message_bytes(message: Any) -> int:
    """The message's size in a request, of which the service takes ``MAX_MESSAGE_BYTES``."""
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
