"""The fetcher on librdkafka itself: the shared library inside the ``confluent_kafka`` wheel, driven by ctypes.

Its batch call hands out an array of message pointers; ``kafka_walk`` copies them into Arrow buffers. Logs and errors
are queued by the library and delivered on the fetching thread, so no foreign thread ever enters Python.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import sys
import time
from collections.abc import Iterable, Mapping
from ctypes import CFUNCTYPE, c_char_p, c_int, c_int32, c_int64, c_size_t, c_ssize_t, c_void_p
from pathlib import Path
from typing import Any

import confluent_kafka
import numpy as np
import pyarrow as pa
from confluent_kafka import KafkaError, KafkaException
from numpy.typing import NDArray

from beam_jobs.block import HEADERS_TYPE, raw_block
from beam_jobs.io import kafka_walk as walk
from beam_jobs.io.kafka_fetch import MAX_BLOCK_BYTES, Fetched, Problem

_LOGGER = logging.getLogger(__name__)

_CONSUMER = 1  # rd_kafka_type_t
_ERROR_TEXT = 512  # bytes
_CLOSE_TIMEOUT_S = 10.0

_LOG_CALLBACK = CFUNCTYPE(None, c_void_p, c_int, c_char_p, c_char_p)
_ERROR_CALLBACK = CFUNCTYPE(None, c_void_p, c_int, c_char_p, c_void_p)

_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "rd_kafka_version": (c_int, []),
    "rd_kafka_conf_new": (c_void_p, []),
    "rd_kafka_conf_destroy": (None, [c_void_p]),
    "rd_kafka_conf_set": (c_int, [c_void_p, c_char_p, c_char_p, c_char_p, c_size_t]),
    "rd_kafka_conf_set_log_cb": (None, [c_void_p, _LOG_CALLBACK]),
    "rd_kafka_conf_set_error_cb": (None, [c_void_p, _ERROR_CALLBACK]),
    "rd_kafka_new": (c_void_p, [c_int, c_void_p, c_char_p, c_size_t]),
    "rd_kafka_set_log_queue": (c_int, [c_void_p, c_void_p]),
    "rd_kafka_poll_set_consumer": (c_int, [c_void_p]),
    "rd_kafka_queue_get_consumer": (c_void_p, [c_void_p]),
    "rd_kafka_queue_destroy": (None, [c_void_p]),
    "rd_kafka_consume_batch_queue": (c_ssize_t, [c_void_p, c_int, c_void_p, c_size_t]),
    "rd_kafka_topic_partition_list_new": (c_void_p, [c_int]),
    "rd_kafka_topic_partition_list_add": (c_void_p, [c_void_p, c_char_p, c_int32]),
    "rd_kafka_topic_partition_list_set_offset": (c_int, [c_void_p, c_char_p, c_int32, c_int64]),
    "rd_kafka_topic_partition_list_destroy": (None, [c_void_p]),
    "rd_kafka_assign": (c_int, [c_void_p, c_void_p]),
    "rd_kafka_pause_partitions": (c_int, [c_void_p, c_void_p]),
    "rd_kafka_consumer_close": (c_int, [c_void_p]),
    "rd_kafka_destroy": (None, [c_void_p]),
    "rd_kafka_err2str": (c_char_p, [c_int]),
}


class _Message(ctypes.Structure):
    """The head of rd_kafka_message_t, for the rare message that is no record."""

    _fields_ = [
        ("err", c_int),
        ("rkt", c_void_p),
        ("partition", c_int32),
        ("payload", c_void_p),
        ("len", c_size_t),
        ("key", c_void_p),
        ("key_len", c_size_t),
        ("offset", c_int64),
    ]


@functools.cache
def library() -> Any:
    """The librdkafka that ``confluent_kafka`` itself has loaded, None where there is none to be found."""
    if sys.maxsize <= 2**32 or sys.byteorder != "little":
        return None
    package = Path(confluent_kafka.__file__).parent
    candidates = [
        *(package.parent / "confluent_kafka.libs").glob("librdkafka*"),
        *(package / ".dylibs").glob("librdkafka*"),
    ]
    for path in candidates:
        try:
            loaded = ctypes.CDLL(str(path))
            for name, (result, arguments) in _SIGNATURES.items():
                function = getattr(loaded, name)
                function.restype, function.argtypes = result, arguments
            for name in walk.FUNCTIONS:
                getattr(loaded, name)
        except (OSError, AttributeError) as error:
            _LOGGER.debug("%s cannot be used: %s", path, error)
            continue
        if loaded.rd_kafka_version() == confluent_kafka.libversion()[1]:
            return loaded
    return None


class NativeFetcher:
    """See ``kafka_fetch.Fetcher``.

    Raises:
      KafkaException: a property is refused.
    """

    def __init__(self, topic: str, properties: Mapping[str, str]) -> None:
        lib = library()
        if lib is None:
            raise KafkaException(KafkaError(KafkaError._NOT_IMPLEMENTED, "no librdkafka beside confluent_kafka"))
        self._lib = lib
        self._topic = topic
        self._problems: list[Problem] = []
        # The library keeps these addresses: they must live as long as the handle.
        self._callbacks = (_LOG_CALLBACK(_on_log), _ERROR_CALLBACK(self._on_error))
        self._handle: int | None = self._connect({**properties, "log.queue": "true"})
        self._queue = lib.rd_kafka_queue_get_consumer(self._handle)
        self._functions = np.array([ctypes.cast(getattr(lib, f), c_void_p).value for f in walk.FUNCTIONS], np.int64)
        self._messages = np.zeros(0, np.int64)  # addresses; [begin, end) are in hand and in no block yet
        self._begin = self._end = 0

    def _connect(self, properties: Mapping[str, str]) -> int:
        lib = self._lib
        text = ctypes.create_string_buffer(_ERROR_TEXT)
        conf = lib.rd_kafka_conf_new()
        lib.rd_kafka_conf_set_log_cb(conf, self._callbacks[0])
        lib.rd_kafka_conf_set_error_cb(conf, self._callbacks[1])
        for name, value in properties.items():
            if lib.rd_kafka_conf_set(conf, name.encode(), value.encode(), text, _ERROR_TEXT) != 0:
                lib.rd_kafka_conf_destroy(conf)
                raise KafkaException(KafkaError(KafkaError._INVALID_ARG, text.value.decode(errors="replace")))
        handle = lib.rd_kafka_new(_CONSUMER, conf, text, _ERROR_TEXT)
        if not handle:
            lib.rd_kafka_conf_destroy(conf)
            raise KafkaException(KafkaError(KafkaError._INVALID_ARG, text.value.decode(errors="replace")))
        lib.rd_kafka_set_log_queue(handle, None)  # None: the main queue, which feeds the consumer queue
        lib.rd_kafka_poll_set_consumer(handle)
        return int(handle)

    def _on_error(self, handle: int, code: int, reason: bytes, opaque: int) -> None:
        self._problems.append(Problem(-1, code, reason.decode(errors="replace")))

    def assign(self, positions: Mapping[int, int]) -> None:
        self._release(self._begin, self._end)
        self._begin = self._end = 0
        self._with_list(self._lib.rd_kafka_assign, positions)

    def stop(self, partitions: Iterable[int]) -> None:
        self._with_list(self._lib.rd_kafka_pause_partitions, dict.fromkeys(partitions, 0))

    def _with_list(self, call: Any, positions: Mapping[int, int]) -> None:
        lib, topic = self._lib, self._topic.encode()
        partitions = lib.rd_kafka_topic_partition_list_new(len(positions))
        try:
            for partition, offset in positions.items():
                lib.rd_kafka_topic_partition_list_add(partitions, topic, partition)
                lib.rd_kafka_topic_partition_list_set_offset(partitions, topic, partition, offset)
            code = call(self._handle, partitions)
        finally:
            lib.rd_kafka_topic_partition_list_destroy(partitions)
        if code != 0:
            raise KafkaException(KafkaError(code, lib.rd_kafka_err2str(code).decode()))

    def fetch(self, max_rows: int, wait_s: float, linger_s: float) -> Fetched:
        if self._begin == self._end:
            self._begin = self._end = 0
            if len(self._messages) < max_rows:
                self._messages = np.zeros(max_rows, np.int64)
            self._consume(max_rows, 0)
            if self._end == 0 and wait_s > 0:
                self._consume(1, wait_s)
            if 0 < self._end < max_rows:
                self._consume(max_rows, linger_s)
        return self._cut(max_rows)

    def _consume(self, up_to: int, timeout_s: float) -> None:
        """Adds messages behind those in hand until there are ``up_to``, or the time is over."""
        taken = self._lib.rd_kafka_consume_batch_queue(
            self._queue, int(timeout_s * 1000), self._messages.ctypes.data + 8 * self._end, up_to - self._end
        )
        self._end += max(taken, 0)

    def _cut(self, max_rows: int) -> Fetched:
        """Takes messages off the front, up to the row and byte caps."""
        waiting = self._end - self._begin
        ends: dict[int, int] = {}
        problems, self._problems = self._problems, []
        if waiting == 0:
            return Fetched(problems=problems)
        partitions = np.empty(waiting, np.int32)
        offsets, timestamps, others = (np.empty(waiting, np.int64) for _ in range(3))
        counts = np.empty(walk.COUNTS, np.int64)
        walk.scan(
            self._messages,
            self._begin,
            self._end,
            max_rows,
            MAX_BLOCK_BYTES,
            int(time.time() * 1000),
            self._functions,
            partitions,
            offsets,
            timestamps,
            others,
            counts,
        )
        begin, end = self._begin, int(counts[walk.NEXT])
        for index in others[: counts[walk.OTHERS]].tolist():
            message = _Message.from_address(int(self._messages[index]))
            if message.err == KafkaError._PARTITION_EOF:
                ends[message.partition] = message.offset
            else:
                text = (
                    ctypes.string_at(message.payload, message.len).decode(errors="replace") if message.payload else ""
                )
                problems.append(Problem(message.partition, message.err, text or self._error_name(message.err)))
        rows = int(counts[walk.ROWS])
        if rows == 0:
            self._release(begin, end)
            self._begin = end
            return Fetched(ends=ends, problems=problems)
        keys, values = self._keys_and_values(begin, end, rows, counts)
        headers = self._headers(begin, end, rows, counts) if counts[walk.HEADER_COUNTED] else None
        self._release(begin, end)
        self._begin = end
        partitions, offsets = partitions[:rows], offsets[:rows]
        block = raw_block(self._topic, partitions, offsets, timestamps[:rows], keys, values, headers)
        return Fetched(block, _next_offsets(partitions, offsets), ends, problems)

    def _error_name(self, code: int) -> str:
        return str(self._lib.rd_kafka_err2str(code).decode())

    def _keys_and_values(self, begin: int, end: int, rows: int, counts: NDArray[np.int64]) -> tuple[pa.Array, pa.Array]:
        buffers = []
        for size in (counts[walk.KEY_BYTES], counts[walk.VALUE_BYTES]):
            buffers += [np.empty(rows + 1, np.int32), np.empty(size, np.uint8), np.zeros((rows + 7) // 8, np.uint8)]
        walk.copy(self._messages, begin, end, self._functions, *buffers)
        return (
            _array(pa.binary(), rows, buffers[2], int(counts[walk.NULL_KEYS]), *buffers[:2]),
            _array(pa.binary(), rows, buffers[5], int(counts[walk.NULL_VALUES]), *buffers[3:5]),
        )

    def _headers(self, begin: int, end: int, rows: int, counts: NDArray[np.int64]) -> pa.Array:
        entries = int(counts[walk.HEADER_COUNTED])
        list_offsets, list_valid = np.empty(rows + 1, np.int32), np.zeros((rows + 7) // 8, np.uint8)
        name_offsets, names = np.empty(entries + 1, np.int32), np.empty(counts[walk.NAME_BYTES], np.uint8)
        value_offsets, values = np.empty(entries + 1, np.int32), np.empty(counts[walk.HEADER_BYTES], np.uint8)
        value_valid = np.zeros((entries + 7) // 8, np.uint8)
        walk.copy_headers(
            self._messages,
            begin,
            end,
            self._functions,
            list_offsets,
            list_valid,
            name_offsets,
            names,
            value_offsets,
            values,
            value_valid,
        )
        pairs = pa.StructArray.from_arrays(
            [
                _text(_array(pa.binary(), entries, None, 0, name_offsets, names)),
                _array(pa.binary(), entries, value_valid, -1, value_offsets, values),
            ],
            fields=list(HEADERS_TYPE.value_type),
        )
        return pa.Array.from_buffers(
            HEADERS_TYPE, rows, [pa.py_buffer(list_valid), pa.py_buffer(list_offsets)], children=[pairs]
        )

    def _release(self, begin: int, end: int) -> None:
        walk.release(self._messages, begin, end, self._functions)

    def close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is None:
            return
        self._release(self._begin, self._end)
        self._begin = self._end = 0
        self._lib.rd_kafka_queue_destroy(self._queue)
        self._lib.rd_kafka_consumer_close(handle)
        self._lib.rd_kafka_destroy(handle)


def _on_log(handle: int, level: int, facility: bytes, text: bytes) -> None:
    _LOGGER.debug("%s: %s", facility.decode(errors="replace"), text.decode(errors="replace"))


def _array(
    kind: pa.DataType,
    n: int,
    valid: NDArray[np.uint8] | None,
    null_count: int,
    offsets: NDArray[np.int32],
    data: NDArray[np.uint8],
) -> pa.Array:
    validity = None if valid is None or null_count == 0 else pa.py_buffer(valid)
    return pa.Array.from_buffers(kind, n, [validity, pa.py_buffer(offsets), pa.py_buffer(data)], null_count)


def _text(names: pa.Array) -> pa.Array:
    """Header names as strings; bytes that are not UTF-8 become U+FFFD."""
    try:
        return names.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([name.decode(errors="replace") for name in names.to_pylist()], pa.string())


def _next_offsets(partitions: NDArray[np.int32], offsets: NDArray[np.int64]) -> dict[int, int]:
    """Partition -> 1 + offset of its last row; numpy's assignment keeps the last of equal indexes."""
    after = np.full(int(partitions.max()) + 1, -1, np.int64)
    after[partitions] = offsets + 1
    return {p: int(after[p]) for p in np.flatnonzero(after >= 0).tolist()}
