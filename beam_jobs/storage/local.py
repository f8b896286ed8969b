"""Files on this machine."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


class Local:
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

    def create(self, path: str, data: bytes) -> bool:
        with self._beside(path) as part:
            part.write_bytes(data)
            _to_disk(part)
            try:
                os.link(part, path)  # atomic on NFS as well
            except FileExistsError:
                return Path(path).read_bytes() == data
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                return self.update(path, lambda old: data if old is None else None) in (None, data)
        return True

    def make_folder(self, path: str, name_bytes: int) -> None:
        os.makedirs(path, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            code = errno.EROFS if os.statvfs(path).f_flag & os.ST_RDONLY else errno.EACCES
            raise OSError(code, os.strerror(code), path)
        if len(os.fsencode(path)) + 1 + name_bytes >= os.pathconf(path, "PC_PATH_MAX"):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)

    def move(self, source: str, target: str) -> None:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        try:
            os.replace(source, target)
        except FileNotFoundError:
            if not os.path.exists(target):
                raise
        except OSError as error:
            if error.errno != errno.EXDEV:  # a folder that is a mount or a link to another disk
                raise
            self.upload(Path(source), target)
            os.unlink(source)

    def remove(self, paths: Iterable[str]) -> None:
        for path in paths:
            Path(path).unlink(missing_ok=True)

    def update(self, path: str, change: Callable[[bytes | None], bytes | None]) -> bytes | None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
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
        with self._beside(path) as part:
            yield part
            _to_disk(part)
            part.replace(path)

    @contextmanager
    def _beside(self, path: str) -> Iterator[Path]:
        """A name beside a file, which is free again when the block ends."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
        try:
            yield part
        finally:
            part.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
