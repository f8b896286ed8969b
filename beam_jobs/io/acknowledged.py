"""In-process acknowledgement channel: a source says which messages a sink that remembers them may forget."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

Longs = NDArray[np.int64]

_LOCK = threading.Lock()
_HEARD: dict[str, list[Longs]] = {}  # stream's name -> numbers of messages; names somebody listens to


def listen(name: str) -> None:
    """From now on what is acknowledged of this stream is kept for :func:`take`."""
    with _LOCK:
        _HEARD.setdefault(name, [])


def tell(name: str, numbers: Longs) -> None:
    """The service has taken the acknowledgement of these messages."""
    with _LOCK:
        if name in _HEARD:
            _HEARD[name].append(numbers)


def take(name: str) -> Longs:
    """What was acknowledged since the last call, int64 [n]."""
    with _LOCK:
        heard, _HEARD[name] = _HEARD.get(name, []), []
    return np.concatenate([np.empty(0, np.int64), *heard])
