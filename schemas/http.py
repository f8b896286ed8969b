"""The HTTP library below the Schema Registry client: what it raises, and a bound on what it receives."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from beam_jobs.codec.schema import MAX_TEXT, SchemaTooLargeError

LIBRARIES: list[Any] = [import_module(name) for name in ("httpx2", "httpx") if find_spec(name)]  # the client's choice
MAX_ANSWER_BYTES = 8 * MAX_TEXT  # a schema in a JSON string: six bytes a character at the most, and what is beside it


def bound_answers(session: Any) -> None:
    """Lets a session's requests fail with SchemaTooLargeError where the answer is larger than ``MAX_ANSWER_BYTES``.

    Answers are asked for as they are: packed ones would be unpacked to any size.
    """
    session.headers["Accept-Encoding"] = "identity"
    session.event_hooks["response"].append(_bound)


def _bound(response: Any) -> None:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        response.close()
        raise SchemaTooLargeError("the registry's answer is packed, which nobody has asked for")
    kind = next(kind for kind in _STREAMS if isinstance(response.stream, kind.__bases__[1]))
    response.stream = kind(response.stream)


class _Bounded:
    """A stream that ends with an error beyond ``MAX_ANSWER_BYTES``."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for part in self._stream:
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                raise SchemaTooLargeError(f"the registry's answer has more than {MAX_ANSWER_BYTES:,} bytes")
            yield part

    def close(self) -> None:
        self._stream.close()


_STREAMS = [type("Bounded", (_Bounded, library.SyncByteStream), {}) for library in LIBRARIES]
