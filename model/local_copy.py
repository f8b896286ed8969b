"""Model versions from a bucket, copied to this machine once: what all workers of a machine load."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from beam_jobs.errors import UserError
from beam_jobs.storage.files import download, find_files, patiently, writing
from model import manifest

MAX_BYTES = 4 << 30  # of all files of a version


def local_copy(folder: str, version: str, digest: str, files: Mapping[str, str]) -> Path:
    """The folder of a version on this machine: copied unless it is there, and whole.

    Several processes may ask at once: each copies beside the place, the first to finish renames its copy into it.

    Args:
      folder: of the version, in a bucket.
      digest: sha256 of its manifest.json; a copy is known by it.
      files: path in the folder to sha256, as the manifest has them.

    Raises:
      UserError: a file is missing, is not what the manifest says, or is too large; or there is no room for it.
    """
    for name in (version, *files):
        if not manifest.is_inside(name) or (name == version and "/" in name):
            raise UserError(f"{folder}/{manifest.FILE_NAME} names a file outside the version's folder: {name!r:.100}")
    place = cache_folder() / "models" / f"{version}-{digest[:16]}"
    if _is_whole(place, digest, files):
        return place
    _check_size(folder, files)
    with writing(str(place.parent)):
        place.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".partial-", dir=place.parent))
        try:
            for name, wanted in files.items():
                target = part / name
                target.parent.mkdir(parents=True, exist_ok=True)
                _fetch(f"{folder}/{name}", target)
                if manifest.sha256(target) != wanted:
                    raise UserError(
                        f"{folder}/{name} is not what the manifest says (sha256); versions are immutable: restore it"
                    )
            _fetch(f"{folder}/{manifest.FILE_NAME}", part / manifest.FILE_NAME)
            return _put(part, place, digest, files)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def cache_folder() -> Path:
    """``$HIGHBEAM_CACHE``, else ``~/.cache/highbeam``, else, with no home to write to, a temporary folder."""
    given = os.environ.get("HIGHBEAM_CACHE")
    if given:
        return Path(given)
    folder = Path.home() / ".cache" / "highbeam"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return _temporary()
    return folder if os.access(folder, os.W_OK) else _temporary()


def _temporary() -> Path:
    """A folder that nobody else has put there, for everybody may write to the one it is in."""
    folder = Path(tempfile.gettempdir()) / f"highbeam-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UserError(f"{folder} may be written by others; set HIGHBEAM_CACHE to a folder of your own")
    return folder


def _is_whole(place: Path, digest: str, files: Mapping[str, str]) -> bool:
    described = place / manifest.FILE_NAME
    return (
        described.is_file()
        and manifest.sha256(described) == digest
        and manifest.file_hashes(place) == dict(files)  # nothing changed, nothing added
    )


def _check_size(folder: str, files: Mapping[str, str]) -> None:
    """Refuses to fill the disk with what calls itself a model."""
    there = {found.path: found.size for found in find_files(f"{folder}/**")}
    size = sum(there.get(f"{folder}/{name}", 0) for name in files)
    if size > MAX_BYTES:
        raise UserError(f"{folder} holds {size:,} bytes, a model {MAX_BYTES:,} at most; name another version")


def _fetch(path: str, target: Path) -> None:
    try:
        patiently(partial(download, path, target))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; copy the version again or train a new one") from error


def _put(part: Path, place: Path, digest: str, files: Mapping[str, str]) -> Path:
    if manifest.sha256(part / manifest.FILE_NAME) != digest:
        raise UserError(f"{place.name}: its manifest has changed while it was copied; versions are immutable")
    try:
        part.rename(place)
    except OSError:
        if _is_whole(place, digest, files):
            return place  # somebody was faster
        shutil.rmtree(place, ignore_errors=True)  # damaged since it was put there
        part.rename(place)
    return place
