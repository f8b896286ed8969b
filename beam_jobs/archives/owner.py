"""Who writes an archive's log: a lease that its owner keeps alive, and how the next one comes to it.

The lease only says whom to wait for. That two owners never both commit is the log's own rule (``log.py``): a lease
that is taken from an owner who was merely slow costs that one its work since the last commit, and no record.

``lease`` holds the owner and a beat, "TOKEN BEAT", another beat every ``BEAT_S`` seconds; empty: free. Who waits for
it compares what is there with what was there and measures with its own clock, so that no two machines' clocks meet. An
owner's process on the same machine is known sooner: it holds a lock that the system takes from it when it ends.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from beam_jobs.archives.held import Held
from beam_jobs.archives.log import ArchiveLog, FencedError, new_id
from beam_jobs.errors import UserError, one_line
from beam_jobs.storage.files import patiently, read_bytes, update

_LOGGER = logging.getLogger(__name__)

BEAT_S = 4.0
LEASE_S = 12.0  # without a beat; then the owner is considered gone
_LOOK_S = 0.3  # between two looks of one who waits
_TOKEN = re.compile(r"[0-9a-f]{32}")

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Owner:
    """The job that writes a log, the same for all its workers: a bundle tried again on another has no other owner."""

    token: str = field(default_factory=new_id)
    by_workers: bool = False  # they take the log and keep the lease (a service runs the job), not who starts it
    replaces: str = ""  # with ``by_workers``: whose log it was when the job was started; "": nobody's
    waits: bool = True  # for that owner's end; False: the service has ended it, or is about to


class Lease:
    """One owner's view of a log's lease; any number of workers may keep it alive together.

    Args:
      folder: of the log.
      token: the owner's.
    """

    def __init__(self, folder: str, token: str) -> None:
        self._path, self._token = f"{folder}/lease", token
        self._seen = b""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock: int | None = None

    def wait(self, tell: Tell, lease_s: float | None = None, take: bool = True) -> None:
        """Waits until the lease is free or its owner gone, and takes it.

        Args:
          tell: told in a line that there is somebody to wait for, and in another what happened to them.
          lease_s: how long an owner may give no sign of life (None: LEASE_S); 0: it is known to be gone.
          take: False: waits only.
        """
        lease_s = LEASE_S if lease_s is None else lease_s
        seen, since, told = self._read(), time.monotonic(), False
        while True:
            holder, quiet_s = _holder(seen), time.monotonic() - since
            if holder in ("", self._token) or quiet_s >= lease_s or _ended_here(holder):
                if not take or self._put(seen):
                    if told or holder not in ("", self._token):
                        tell(
                            "the other job has ended: going on from its last commit"
                            if holder == ""
                            else "the job that wrote this archive has ended without a word: taking it over"
                        )
                    return
            elif not told and quiet_s > 2 * _LOOK_S:
                told = True
                tell(
                    f"another job writes this archive ({self._path}): waiting until it ends, or has given no sign of "
                    f"life for {lease_s:g} s"
                )
            time.sleep(_LOOK_S)
            now = self._read()
            if now != seen:
                seen, since = now, time.monotonic()

    def keep(self) -> None:
        """Beats from now on, in a thread of its own, until :meth:`release` or until the lease is another's."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._beat, name="archive-lease", daemon=True)
            self._thread.start()

    def hold_here(self) -> None:
        """Lets others on this machine know when this process ends, however it does."""
        self._lock = os.open(_lock_path(self._token), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def release(self) -> None:
        """Frees the lease, if it is still the owner's."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        try:
            update(self._path, lambda old: b"" if _holder(old or b"") == self._token else None)
        except (OSError, UserError) as error:
            _LOGGER.debug("%s: not released: %s", self._path, one_line(error))
        if self._lock is not None:
            Path(_lock_path(self._token)).unlink(missing_ok=True)
            os.close(self._lock)

    def _read(self) -> bytes:
        try:
            return patiently(partial(read_bytes, self._path))
        except FileNotFoundError:
            return b""

    def _put(self, seen: bytes) -> bool:
        """Puts a beat of ours where still ``seen`` is; whether it was."""
        beat = self._new_beat()
        found = patiently(lambda: update(self._path, lambda old: beat if (old or b"") == seen else None))
        return (found or b"") == seen

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_S):
            try:
                now = update(self._path, self._next) or b""
            except (OSError, UserError) as error:
                _LOGGER.debug("%s: no beat: %s", self._path, one_line(error))
                continue
            if _holder(now) != self._token:
                return

    def _next(self, old: bytes | None) -> bytes | None:
        """The next beat; None where another worker has just beaten, or the lease is another's."""
        now = old or b""
        if _holder(now) != self._token:
            return None
        if now != self._seen:
            self._seen = now
            return None
        self._seen = self._new_beat()
        return self._seen

    def _new_beat(self) -> bytes:
        return f"{self._token} {new_id()}".encode()


def take_over(log: ArchiveLog, lease: Lease, tell: Tell, adopt: Callable[[], Mapping[str, str]]) -> Held:
    """Makes a log its lease's owner's, whoever's it is, once that one is gone; what it holds.

    Args:
      adopt: as ``ArchiveLog.recover`` takes it, asked for once the log is ours.
    """
    while True:
        before = log.current_owner()
        lease.wait(tell)
        lease.keep()
        try:
            return log.recover(before, adopt())
        except FencedError:
            continue  # somebody else has had it meanwhile


_KEPT: dict[tuple[str, str], Lease] = {}
_KEPT_LOCK = threading.Lock()


def join(log: ArchiveLog, owner: Owner, adopt: Callable[[], Mapping[str, str]]) -> None:
    """What each worker of a job begins with.

    Raises:
      FencedError: the log is neither the job's nor that of the owner whose place it takes.
    """
    if owner.by_workers:
        with _KEPT_LOCK:
            lease = _KEPT.setdefault((log.folder, owner.token), Lease(log.folder, owner.token))
            if log.current_owner() == owner.replaces:
                lease.wait(_LOGGER.warning, None if owner.waits else 0.0)
                log.recover(owner.replaces, adopt())
            lease.keep()  # as long as the process lives: quiet times are no end
    log.held()


def _holder(lease: bytes) -> str:
    return lease.decode(errors="replace").partition(" ")[0]


def _lock_path(token: str) -> str:
    return os.path.join(tempfile.gettempdir(), f"highbeam-{token}.lock")


def _ended_here(token: str) -> bool:
    """Whether the owner was a process of this machine that is there no more."""
    if not _TOKEN.fullmatch(token):
        return False
    try:
        file = os.open(_lock_path(token), os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False  # of another machine
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        Path(_lock_path(token)).unlink(missing_ok=True)
        return True
    finally:
        os.close(file)
