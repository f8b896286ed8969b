"""What windows know of partitions, in files, so that a rebuild need not read the log from where they begin.

A cache, never the truth: a file says of which topic (by its id), partition and offset it is, and by which query and
which code it was made; one that is not what is wanted here is passed over, and the log is read instead. Files are
written beside the work, one at a time. They hold arguments of windows and hashes of keys with the numbers that key
them, so their folder is as private as an archive.
"""

from __future__ import annotations

import json
import logging
import tempfile
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import one_line
from beam_jobs.storage import files

Arrays = Mapping[str, NDArray[Any]]

_LOGGER = logging.getLogger(__name__)

_KEPT = 3  # of each partition: what is committed may be behind the newest one
_ABOUT = "about"  # name of the array that says what a file is
_END = ".npz"


class Record(NamedTuple):
    """One that was taken in: a log that was cut and written anew has another one there."""

    offset: int
    millis: int  # its timestamp


@dataclass(frozen=True)
class Place:
    """What windows know of a partition up to an offset."""

    topic_id: str
    partition: int
    next: int  # offset of the first record that is not taken in
    last: Record  # the newest one that is


class _Writer:
    """Writes one file at a time, of all steps of this process."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "highbeam-snapshot")
        self._lock = threading.Lock()
        self._writing: Future[None] | None = None

    def free(self) -> bool:
        """Whether another file may come."""
        with self._lock:
            return self._writing is None or self._writing.done()

    def write(self, snapshots: Snapshots, place: Place, arrays: Arrays) -> None:
        with self._lock:
            self._writing = self._pool.submit(snapshots.write, place, arrays)

    def wait(self) -> None:
        """Until the file is there."""
        with self._lock:
            writing = self._writing
        if writing is not None:
            writing.result()


@cache
def writer() -> _Writer:
    """This process's."""
    return _Writer()


@dataclass(frozen=True)
class Snapshots:
    """Those of one query.

    Args:
      folder: local or ``gs://``, as ``files.root_of`` gives it.
      made_by: what windows know is a function of this and the log.
    """

    folder: str
    made_by: str

    def _folder(self, topic_id: str, partition: int) -> str:
        return f"{self.folder}/{self.made_by}/{topic_id}/{partition}"

    def write(self, place: Place, arrays: Arrays) -> None:
        """Writes one, and removes those that newer ones stand for; a warning where that can't be."""
        folder = self._folder(place.topic_id, place.partition)
        about = np.frombuffer(json.dumps(asdict(place)).encode(), np.uint8)
        try:
            with tempfile.NamedTemporaryFile(prefix="highbeam-snapshot-", suffix=_END) as file:
                np.savez(file, **{_ABOUT: about}, **arrays)  # type: ignore[arg-type]
                file.flush()
                files.upload(Path(file.name), f"{folder}/{place.next:020d}{_END}")
            files.remove(sorted(files.list_files(f"{folder}/*{_END}"))[:-_KEPT])
        except Exception as error:
            _LOGGER.warning("no snapshot of windows is written to %s: %s", folder, one_line(error))

    def read(self, topic_id: str, partition: int, first: int, end: int) -> Iterator[tuple[Place, Arrays]]:
        """Those of offsets behind ``first``, up to ``end``, the newest first; what is not whole is passed over."""
        folder = self._folder(topic_id, partition)
        try:
            paths = sorted(files.list_files(f"{folder}/*{_END}"), reverse=True)
        except Exception as error:
            _LOGGER.warning("no snapshots of windows are found in %s: %s", folder, one_line(error))
            return
        for path in paths:
            name = path.rpartition("/")[2].removesuffix(_END)
            if not (name.isdecimal() and first < int(name) <= end):
                continue
            try:
                place, arrays = _loaded(path)
                if (place.topic_id, place.partition, place.next) != (topic_id, partition, int(name)):
                    raise ValueError("it is about another part of the log than its name says")
            except Exception as error:
                _LOGGER.warning("%s is passed over: %s", path, one_line(error))
                continue
            yield place, arrays


def _loaded(path: str) -> tuple[Place, Arrays]:
    with files.open_file(path) as file, np.load(file, allow_pickle=False) as found:
        arrays = {name: found[name] for name in found.files}
    about: Mapping[str, Any] = json.loads(arrays.pop(_ABOUT).tobytes())
    last = Record(*(int(number) for number in about["last"]))
    return Place(str(about["topic_id"]), int(about["partition"]), int(about["next"]), last), arrays
