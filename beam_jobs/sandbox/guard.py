"""Ends what a process has started when that process is gone, however it ended: kill -9 runs no ``finally``.

    guard.watch(process.pid, folder)  # a process that leads a group of its own, and folders that go with it
    guard.forget(process.pid)  # it has ended in good order

A helper process reads from a pipe that closes with this process, then kills the groups and removes the folders.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

_LOCK = threading.Lock()
_HELPERS: dict[int, subprocess.Popen[str]] = {}  # by the process that started it: a fork has one of its own


def watch(pid: int, *folders: Path) -> None:
    """Kills the process group ``pid`` and removes ``folders`` once this process is gone."""
    _tell("watch", str(pid), *map(str, folders))


def forget(pid: int) -> None:
    """The process group has ended; its folders are looked after by whoever made them."""
    _tell("forget", str(pid))


def _tell(*words: str) -> None:
    with _LOCK:
        helper = _HELPERS.get(os.getpid())
        if helper is None:
            helper = subprocess.Popen(
                [sys.executable, "-I", __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
                start_new_session=True,  # Ctrl-C is for its parent
                cwd="/",
            )
            _HELPERS[os.getpid()] = helper
            atexit.register(_end, helper)
        assert helper.stdin is not None
        helper.stdin.write("\t".join(words) + "\n")
        helper.stdin.flush()


def _end(helper: subprocess.Popen[str]) -> None:
    """At an exit in good order as well: what was not forgotten still runs."""
    assert helper.stdin is not None
    helper.stdin.close()
    helper.wait()


def _serve() -> None:
    watched: dict[int, list[str]] = {}
    for line in sys.stdin:
        what, pid, *folders = line.rstrip("\n").split("\t")
        if what == "watch":
            watched[int(pid)] = folders
        else:
            watched.pop(int(pid), None)
    for pid in watched:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    for folders in watched.values():
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _serve()
