"""Files wherever Beam's FileSystems reach: local paths and ``gs://``."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import TypeVar

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from beam_jobs.errors import UserError

_LOGGER = logging.getLogger(__name__)
_PAUSE_S = (0.2, 5.0)  # between two tries while storage is away: first, longest

T = TypeVar("T")


def root_of(uri: str) -> str:
    """The path FileSystems take for a folder: ``file:///data/x`` and ``/data/x`` alike; no slash at the end.

    Raises:
      UserError: another scheme than file and gs, or no path.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        path = os.path.abspath(uri) if uri else ""
    elif scheme == "file":
        path = rest if rest.startswith("/") else ""
    elif scheme == "gs":
        path = uri if rest.strip("/") else ""
    else:
        raise UserError(f"{uri!r}: expected gs://bucket/folder, file:///folder or a path")
    if not path.strip("/"):
        raise UserError(f"{uri!r} names no folder; expected gs://bucket/folder, file:///folder or a path")
    return path.rstrip("/")


def is_local(path: str) -> bool:
    """Whether it is on this machine."""
    return "://" not in path


def list_files(pattern: str) -> list[str]:
    """The files a pattern matches (``*`` within a folder, ``**`` through all below), sorted; [] where nothing is."""
    try:
        (found,) = FileSystems.match([pattern])
    except BeamIOError as error:
        if any(isinstance(cause, OSError) and cause.errno for cause in (error.exception_details or {}).values()):
            return []
        raise
    return sorted(file.path for file in found.metadata_list)


def read_bytes(path: str) -> bytes:
    """A whole file."""
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        return bytes(file.read())


def write_bytes(path: str, data: bytes) -> None:
    """A whole file, in one step: nobody sees a part of it."""
    part = f"{path}.part" if is_local(path) else path  # an object appears when it is complete
    with FileSystems.create(part, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        file.write(data)
    if part != path:
        os.replace(part, path)


def move(source: str, target: str) -> None:
    """Renames a file; done already is fine."""
    if not FileSystems.exists(source):
        return
    if is_local(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
    FileSystems.rename([source], [target])


def patiently(action: Callable[[], T]) -> T:
    """Tries again while storage is away, and says so once; an action must bear being repeated."""
    pause, longest = _PAUSE_S
    told = False
    while True:
        try:
            result = action()
        except (BeamIOError, ConnectionError, TimeoutError) as error:
            if not told:
                told = True
                _LOGGER.warning("storage: %s; waiting", " ".join(str(error).split())[:300])
            time.sleep(pause)
            pause = min(2 * pause, longest)
            continue
        if told:
            _LOGGER.warning("storage is back")
        return result
