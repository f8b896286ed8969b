"""Files on this machine and in Cloud Storage (``gs://``): the one place that knows the difference.

Every operation on ``gs://`` tries for a few seconds and raises ``StorageAwayError`` when storage stays away; jobs that
run put ``patiently`` around it. What can be fixed is a ``UserError`` on either.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import unquote, unquote_to_bytes

from beam_jobs.errors import UserError, shown
from beam_jobs.storage.local import Local
from beam_jobs.storage.patience import StorageAwayError, patiently

__all__ = [
    "FileInfo",
    "StorageAwayError",
    "bounded",
    "check_access",
    "configure",
    "create",
    "download",
    "find_files",
    "is_local",
    "list_files",
    "local_path",
    "make_folder",
    "move",
    "name_bytes",
    "open_file",
    "patiently",
    "read_bytes",
    "remove",
    "root_of",
    "update",
    "upload",
    "write_bytes",
    "writing",
]


_NAME_BYTES = 255  # of a file or folder, on every common file system
_HASH_DIGITS = 32
_LONGEST_SAID = 300  # characters of a path in a message
_REMEDIES = {
    errno.ENOSPC: "free space",
    errno.EDQUOT: "free space, or raise the quota",
    errno.EFBIG: "write smaller files, or raise the limit of a file's size",
    errno.EACCES: "give this account the right to write there",
    errno.EPERM: "give this account the right to write there",
    errno.EROFS: "mount it for writing, or choose another folder",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the machine's limit of open files (fs.file-max)",
    errno.ENAMETOOLONG: "choose a folder with a shorter path",
    errno.ENOTDIR: "a file is where a folder should be: move it away, or choose another folder",
    errno.EEXIST: "a file is where a folder should be: move it away, or choose another folder",
    errno.ENOENT: "leave the archive's folders alone while a job writes them",
}

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
    def create(self, path: str, data: bytes) -> bool: ...
    def make_folder(self, path: str, name_bytes: int) -> None: ...
    def upload(self, source: Path, path: str) -> None: ...
    def move(self, source: str, target: str) -> None: ...
    def remove(self, paths: Iterable[str]) -> None: ...
    def update(self, path: str, change: Callable[[bytes | None], bytes | None]) -> bytes | None: ...


def _storage(path: str) -> _Storage:
    if is_local(path):
        return Local()
    from beam_jobs.storage.gcs import Gcs  # Google's libraries take seconds to import

    return Gcs()


def root_of(uri: str) -> str:
    """The path of a file or folder: ``file:///my%20data/x`` and ``/my data/x`` alike; no slash at the end.

    Raises:
      UserError: another scheme than file and gs, another machine, or no path.
    """
    expected = "expected gs://bucket/folder, file:///folder or a path"
    scheme, separator, rest = uri.partition(":/")
    if not separator or not scheme.isalnum():
        path = os.path.abspath(uri) if uri else ""
    elif scheme.lower() == "file":
        host, slash, below = rest[1:].partition("/") if rest.startswith("/") else ("", "/", rest)
        if host.lower() not in ("", "localhost"):
            raise UserError(f"{shown(uri)} is of another machine, {shown(host)}; {expected}")
        path = unquote(f"{slash}{below}", errors="surrogateescape")  # names are bytes
    elif scheme == "gs" and rest.startswith("/"):
        path = uri if rest.strip("/") else ""
    else:
        raise UserError(f"{shown(uri)}: {expected}")
    if not path.strip("/"):
        raise UserError(f"{shown(uri)} names no folder; {expected}")
    if "\0" in path:
        raise UserError(f"{shown(uri)}: a zero byte is in no path; {expected}")
    return path.rstrip("/")


def local_path(text: str) -> Path:
    """A path of this machine, as it is or as a ``file://`` address; for command lines.

    Raises:
      UserError: it is in a bucket, or as in ``root_of``.
    """
    path = root_of(text)
    if not is_local(path):
        raise UserError(f"{shown(text)} is in a bucket; name a file or folder of this machine")
    return Path(path if text.lower().startswith("file:/") else text)


def is_local(path: str) -> bool:
    """Whether it is on this machine."""
    return not path.startswith("gs://")


def check_access(path: str) -> None:
    """Before anything is made or started: that the bucket of a ``gs://`` path answers. Says so within seconds.

    Raises:
      UserError: no credentials, no such bucket, no permission, or no connection; with the remedy.
    """
    _storage(path).check_access(path)


def configure(gcs_anonymous: bool) -> None:
    """For commands that make no pipeline: how buckets are reached. Jobs have it among their options."""
    if gcs_anonymous:
        from beam_jobs.storage.gcs import go_anonymous

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


def create(path: str, data: bytes) -> bool:
    """A whole file, in one step, if there is none; of any number of callers one succeeds. May be repeated.

    Args:
      data: no other caller's are the same.

    Returns:
      whether it holds these data; False: another file was there before.
    """
    return _storage(path).create(path, data)


def make_folder(path: str, name_bytes: int = 0) -> None:
    """Makes a folder where files are moved to, or finds that they can't be: before it is promised that they will.

    Args:
      name_bytes: the most a file's name in it takes.

    Raises:
      OSError: no right, no space, a path that is too long; in a bucket the last alone.
    """
    _storage(path).make_folder(path, name_bytes)


def name_bytes(root: str) -> int:
    """How long the name of a file or folder below ``root`` may be; 255 on most file systems."""
    if not is_local(root):
        return _NAME_BYTES
    root = os.path.abspath(root)  # a relative path has no parent that is there in the end
    while not os.path.exists(root):
        root = os.path.dirname(root)
    return min(_NAME_BYTES, os.pathconf(root, "PC_NAME_MAX"))


def bounded(name: str, most: int = _NAME_BYTES) -> str:
    """A name of a file or folder as it is, or where it is too long its beginning with a hash.

    Args:
      name: as ``quote`` makes it, without a ``+``: so no two names get the same.
      most: bytes.
    """
    if len(name.encode()) <= most:
        return name
    hashed = hashlib.sha256(name.encode()).hexdigest()[:_HASH_DIGITS]
    begin = re.sub("%.?$", "", name.encode()[: most - 1 - _HASH_DIGITS].decode(errors="ignore"))
    last = re.search("(%[0-9A-F]{2})*$", begin)  # escapes that end it: whole characters are kept of them
    assert last is not None
    whole = len(unquote_to_bytes(last[0]).decode(errors="ignore").encode())
    return f"{begin[: last.start() + 3 * whole]}+{hashed}"


def upload(source: Path, path: str) -> None:
    """Copies a file of this machine; in one step, like ``write_bytes``."""
    _storage(path).upload(source, path)


def download(path: str, target: Path) -> None:
    """Copies a file to this machine."""
    with open_file(path) as file, target.open("wb") as out:
        shutil.copyfileobj(file, out, 4 << 20)


def move(source: str, target: str) -> None:
    """Renames a file; done already is fine.

    Raises:
      FileNotFoundError: neither of the two is there.
    """
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
def writing(where: str, *, begun: bool = True) -> Iterator[None]:
    """Says in one line that a folder can't be written, and what to do: each errno has a remedy of its own.

    Args:
      begun: it was there before; False: it is to be made.

    Raises:
      UserError: for every OSError of the block.
    """
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "mend that")
        if not begun and error.errno == errno.ENOENT:
            remedy = "no folder can be made there: choose another"
        named = error.filename if isinstance(error.filename, str) else where
        if len(named) > _LONGEST_SAID:
            named = f"{named[:_LONGEST_SAID]}…"
        what = "" if named == where else f"{named}: "
        raise UserError(
            f"{where}: can't be written ({what}{error.strerror or error}); {remedy} and start again"
        ) from error
