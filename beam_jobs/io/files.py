"""Files on this machine and in Cloud Storage (``gs://``): the one place that knows the difference.

Every operation on ``gs://`` tries for a few seconds and raises ``StorageAwayError`` when storage stays away; jobs that
run put ``patiently`` around it. What can be mended is a ``UserError`` on either.
"""

from __future__ import annotations

import fcntl
import glob
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from beam_jobs.errors import UserError
from beam_jobs.io.patience import StorageAwayError, interrupt_waits, patiently, resume_waits

__all__ = [
    "FileInfo",
    "StorageAwayError",
    "check_access",
    "configure",
    "download",
    "find_files",
    "interrupt_waits",
    "is_local",
    "list_files",
    "move",
    "open_file",
    "patiently",
    "read_bytes",
    "remove",
    "resume_waits",
    "root_of",
    "update",
    "upload",
    "write_bytes",
    "writing",
]


_WILDCARD = re.compile(r"(\*\*|/\*(?!\*)|\*|\?)")
_WILDCARDS = {"**": ".*", "/*": r"/(?!\.)[^/]*", "*": "[^/]*", "?": "[^/]"}


@dataclass(frozen=True)
class FileInfo:
    """One file."""

    path: str
    size: int  # bytes
    version: int  # another one once the file is replaced: a bucket's generation, else when it was written


class _Storage(Protocol):
    """Where files are; paths are whole ones."""

    def check_access(self, path: str) -> None: ...
    def find(self, pattern: str, prefix: str) -> Iterable[tuple[str, int, int]]: ...
    def open(self, path: str) -> BinaryIO: ...
    def read(self, path: str) -> bytes: ...
    def write(self, path: str, data: bytes) -> None: ...
    def upload(self, source: Path, path: str) -> None: ...
    def move(self, source: str, target: str) -> None: ...
    def remove(self, paths: Iterable[str]) -> None: ...
    def update(self, path: str, change: Callable[[bytes | None], bytes | None]) -> bytes | None: ...


class _Local:
    """This machine's files. Whole files appear in one step; folders are made as they are needed."""

    def check_access(self, path: str) -> None:
        """A folder that isn't there yet may be made; a file that isn't is said where it is read."""

    def find(self, pattern: str, prefix: str) -> Iterator[tuple[str, int, int]]:
        paths: Iterable[str]
        if "**" in pattern:
            walked = os.walk(os.path.dirname(prefix))
            paths = (os.path.join(folder, name) for folder, _, names in walked for name in names)
        else:
            paths = glob.iglob(pattern.replace("[", "[[]"))
        for path in paths:
            try:
                found = os.stat(path)
            except FileNotFoundError:
                continue  # gone since it was listed
            if stat.S_ISREG(found.st_mode):
                yield path, found.st_size, found.st_mtime_ns

    def open(self, path: str) -> BinaryIO:
        return Path(path).open("rb")

    def read(self, path: str) -> bytes:
        return Path(path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        with self._whole(path) as part:
            part.write_bytes(data)

    def upload(self, source: Path, path: str) -> None:
        with self._whole(path) as part:
            shutil.copyfile(source, part)

    def move(self, source: str, target: str) -> None:
        if os.path.exists(source):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.replace(source, target)

    def remove(self, paths: Iterable[str]) -> None:
        for path in paths:
            Path(path).unlink(missing_ok=True)

    def update(self, path: str, change: Callable[[bytes | None], bytes | None]) -> bytes | None:
        target = Path(path)
        with target.with_name(f".{target.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
            old = target.read_bytes() if target.exists() else None
            new = change(old)
            if new is not None:
                self.write(path, new)
            return old

    @contextmanager
    def _whole(self, path: str) -> Iterator[Path]:
        """A file to write beside the one meant, which it becomes when the block ends."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
        try:
            yield part
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


def _storage(path: str) -> _Storage:
    if is_local(path):
        return _Local()
    from beam_jobs.io.gcs import Gcs  # Google's libraries take seconds to import

    return Gcs()


def root_of(uri: str) -> str:
    """The path of a folder: ``file:///data/x`` and ``/data/x`` alike; no slash at the end.

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


def check_access(path: str) -> None:
    """Before anything is made or started: that the bucket of a ``gs://`` path answers. Says so within seconds.

    Raises:
      UserError: no credentials, no such bucket, no permission, or no connection; with the remedy.
    """
    _storage(path).check_access(path)


def configure(gcs_anonymous: bool) -> None:
    """For commands that make no pipeline: how buckets are reached. Jobs have it among their options."""
    if gcs_anonymous:
        from beam_jobs.io.gcs import go_anonymous

        go_anonymous()


def find_files(pattern: str) -> list[FileInfo]:
    """The files a pattern matches, sorted by path; [] where nothing is.

    ``*`` stands for anything within a name, but for a dot at its beginning; ``**`` for anything through all folders
    below, ``?`` for one character. A pattern without them is one file.
    """
    prefix = re.split(r"[*?]", pattern, maxsplit=1)[0]
    found = _storage(pattern).find(pattern, prefix)
    wanted = re.compile("".join(_WILDCARDS.get(part) or re.escape(part) for part in _WILDCARD.split(pattern)))
    return sorted((FileInfo(*file) for file in found if wanted.fullmatch(file[0])), key=lambda file: file.path)


def list_files(pattern: str) -> list[str]:
    """The paths of :func:`find_files`."""
    return [file.path for file in find_files(pattern)]


def open_file(path: str) -> BinaryIO:
    """A file to read, seekable; in a bucket it waits while storage is away, and stays the version that was opened.

    Raises:
      FileNotFoundError: there is none.
    """
    return _storage(path).open(path)


def read_bytes(path: str) -> bytes:
    """A whole file; FileNotFoundError where there is none."""
    return _storage(path).read(path)


def write_bytes(path: str, data: bytes) -> None:
    """A whole file, in one step: nobody sees a part of it."""
    _storage(path).write(path, data)


def upload(source: Path, path: str) -> None:
    """Copies a file of this machine; in one step, like ``write_bytes``."""
    _storage(path).upload(source, path)


def download(path: str, target: Path) -> None:
    """Copies a file to this machine."""
    with open_file(path) as file, target.open("wb") as out:
        shutil.copyfileobj(file, out, 4 << 20)


def move(source: str, target: str) -> None:
    """Renames a file; done already is fine."""
    _storage(source).move(source, target)


def remove(paths: Iterable[str]) -> None:
    """Removes files; gone already is fine."""
    by_place: dict[bool, list[str]] = {}
    for path in paths:
        by_place.setdefault(is_local(path), []).append(path)
    for group in by_place.values():
        _storage(group[0]).remove(group)


def update(path: str, change: Callable[[bytes | None], bytes | None]) -> bytes | None:
    """Replaces a small file by what ``change`` makes of it; of two at once none is lost.

    Args:
      change: given what the file holds (None: there is none), returns what it shall hold (None: leave it). It may be
        called again when somebody else was faster.

    Returns:
      what the file held.
    """
    return _storage(path).update(path, change)


@contextmanager
def writing(where: str) -> Iterator[None]:
    """Says in one line that a folder can't be written: a full disk, a file system that has turned read-only.

    Raises:
      UserError: for every OSError of the block.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{where}: can't be written ({error.strerror or error}); free space or mend its rights and start again"
        ) from error
