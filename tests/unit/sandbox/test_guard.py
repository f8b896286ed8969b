"""What a process started goes with it, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

import pytest

PARENT = """
import pathlib, subprocess, sys
from beam_jobs.sandbox import guard
def start(name):
    folder = pathlib.Path(sys.argv[1], name)
    folder.mkdir()
    child = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, start_new_session=True)
    guard.watch(child.pid, folder)
    return child
kept, forgotten = start("kept"), start("forgotten")
guard.forget(forgotten.pid)
print(kept.pid, forgotten.pid, flush=True)
sys.stdin.readline()
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads the state of processes from /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, None])
def test_what_is_watched_ends_with_the_process(tmp_path: Path, how: signal.Signals | None) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    kept, forgotten = map(int, parent.stdout.readline().split())
    try:
        assert alive(kept)
        if how is None:
            parent.communicate("end\n", timeout=30)
        else:
            parent.send_signal(how)
            parent.communicate(timeout=30)
        deadline = monotonic() + 30
        while alive(kept) or (tmp_path / "kept").exists():
            assert monotonic() < deadline
            sleep(0.01)
        assert alive(forgotten)
        assert (tmp_path / "forgotten").exists()
    finally:
        os.kill(forgotten, signal.SIGKILL)
