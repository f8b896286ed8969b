"""A job in a process of its own, as a user starts it, without the four seconds of its imports.

``Job`` is used as ``subprocess.Popen`` is, and its process is what ``python -m MODULE …`` makes. It is no new
interpreter, though, but a fork of one that has imported what the jobs import, has loaded what they compile, and has run
no job: the server. All processes of the tests share one; it ends with the last of those that have asked it. No thread
may run in it that a job needs: Polars makes its own at first use, and Arrow makes new ones in a fork.
"""

from __future__ import annotations

import atexit
import errno
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent.parent
PIPE, DEVNULL = subprocess.PIPE, subprocess.DEVNULL

# All that a job imports: at its top, and where it first needs it.
_COMMANDS = ["beam_jobs.archive", "beam_jobs.redrive", "beam_jobs.replay", "beam_jobs.score"]
_COMPILED = [
    "beam_jobs.codec.events",
    "beam_jobs.io.kafka.wire.records",
    "beam_jobs.preprocessing.windows.history",
    "beam_jobs.steps.alerts",
]
_NEEDED_LATER = [
    "IPython",  # Beam asks it whether the job is in a notebook
    "apache_beam.runners.portability.fn_api_runner.fn_runner",
    "apache_beam.runners.portability.prism_runner",
    "duckdb",
    "google.cloud.pubsub_v1",
    "google.cloud.storage",
    "grpc",
    "polars",
]


class Job:
    """A running ``python -m MODULE …``.

    Args:
      command: ``[sys.executable, "-m", MODULE, *words]``.
      stdout, stderr: PIPE, DEVNULL, a file to write to, or None: where this process writes to.
      start_new_session: it leads a process group, to be given signals as a terminal gives them.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdout: int | IO[str] | None = None,
        stderr: int | IO[str] | None = None,
        start_new_session: bool = False,
    ) -> None:
        assert command[:2] == [sys.executable, "-m"]
        self.args = command
        self.returncode: int | None = None
        self.stdout, out = _stream(stdout, 1)
        self.stderr, err = _stream(stderr, 2)
        self._told, status = _pair()
        request = [command[2:], str(Path.cwd()), dict(os.environ), start_new_session]
        socket.send_fds(_server(), [json.dumps(request).encode()], [status.fileno(), out, err])
        for fd in (status.detach(), out, err):
            os.close(fd)
        self.pid = int(self._told.recv(100))

    def poll(self) -> int | None:
        """The exit code, minus the number of the signal that ended it; None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """The exit code.

        Raises:
          subprocess.TimeoutExpired: it runs on.
        """
        if self.returncode is None:
            self._told.settimeout(timeout)
            try:
                self.returncode = int(self._told.recv(100))
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
            self._told.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What is still to be read of stdout and stderr, to their ends, and waits for the job's.

        Raises:
          subprocess.TimeoutExpired: it runs on.
        """
        found = ["", ""]
        streams = [(i, stream) for i, stream in enumerate((self.stdout, self.stderr)) if stream]

        def read(i: int, stream: IO[str]) -> None:
            with stream:
                found[i] = stream.read()

        threads = [threading.Thread(target=read, args=pair, daemon=True) for pair in streams if not pair[1].closed]
        for thread in threads:
            thread.start()
        self.wait(timeout)
        for thread in threads:
            thread.join(timeout)
        return found[0], found[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def finished(command: Sequence[str], timeout: float = 200) -> subprocess.CompletedProcess[str]:
    """The job run to its end, as ``subprocess.run`` would: what it said, and its exit code."""
    job = Job(command, stdout=PIPE, stderr=PIPE)
    try:
        out, errors = job.communicate(timeout)
    except subprocess.TimeoutExpired:
        job.kill()
        print(*job.communicate(), sep="\n")
        raise
    return subprocess.CompletedProcess(command, job.wait(), out, errors)


def _stream(wanted: int | IO[str] | None, own: int) -> tuple[IO[str] | None, int]:
    """The end of a pipe to read from, if one is wanted, and what the job is to write to."""
    if wanted == PIPE:
        ours, theirs = os.pipe()
        return open(ours), theirs
    if wanted == DEVNULL:
        return None, os.open(os.devnull, os.O_WRONLY)
    return None, os.dup(own if wanted is None or isinstance(wanted, int) else wanted.fileno())


def _pair() -> tuple[socket.socket, socket.socket]:
    """Two ends that wait: Beam sets a default timeout in some tests, and a socket with one is not blocking."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in pair:
        end.setblocking(True)
    return pair


def _socket() -> socket.socket:
    """One that waits, as those of a pair."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made.setblocking(True)
    return made


@cache
def _server() -> socket.socket:
    """The way to the server of this run of the tests; who is first to need it starts it."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", f"alone-{os.getpid()}")
    address = f"\0highbeam-jobs-{run}"  # of Linux: no file, and gone with the server
    with _socket() as listening:
        try:
            listening.bind(address)
        except OSError as taken:
            if taken.errno != errno.EADDRINUSE:
                raise
        else:
            listening.listen()
            command = [sys.executable, "-m", "tests.services.job", str(listening.fileno())]
            server = subprocess.Popen(command, cwd=ROOT, stdin=DEVNULL, pass_fds=[listening.fileno()])
            atexit.register(server.wait)
    ours = _socket()
    while ours.connect_ex(address) == errno.ECONNREFUSED:  # bound, and not listening yet
        pass
    atexit.register(ours.close)  # before the server is waited for
    return ours


def _serve(listening: socket.socket) -> None:
    """Forks for each request until nobody is left to ask; returns, in the process of a job, once that has ended."""
    for name in [*_COMMANDS, *_COMPILED, *_NEEDED_LATER]:
        importlib.import_module(name)
    for name in _COMPILED:
        sys.modules[name].warm_up()
    for name in _COMMANDS:
        del sys.modules[name]  # each is to be __main__
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: for the jobs
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a watcher
    asking = [listening.accept()[0]]  # who has started this
    while asking:
        for ready in select.select([listening, *asking], [], [])[0]:
            if ready is listening:
                asking.append(listening.accept()[0])
                continue
            told, fds, _, _ = socket.recv_fds(ready, 1 << 20, 3)
            if not told:
                asking.remove(ready)
                ready.close()
            elif os.fork() == 0:
                for connection in (listening, *asking):
                    connection.close()
                return _watch(told, *fds)
            for fd in fds:
                os.close(fd)


def _watch(told: bytes, status: int, out: int, err: int) -> None:
    """Starts the job, tells its process id, then how it ended; ends it when nobody is there to be told."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        os.close(status)
        os.dup2(out, 1)
        os.dup2(err, 2)
    os.close(out)
    os.close(err)
    if pid == 0:
        return _begin(*json.loads(told))
    os.close(1)
    os.close(2)
    os.write(status, b"%d" % pid)
    ended = os.pidfd_open(pid)
    if ended not in select.select([ended, status], [], [])[0]:
        os.kill(pid, signal.SIGKILL)  # the test's process is gone, however it ended
        os._exit(1)
    _, how = os.waitpid(pid, 0)
    os.write(status, b"%d" % os.waitstatus_to_exitcode(how))
    os._exit(0)


def _begin(words: list[str], folder: str, environment: dict[str, str], session: bool) -> None:
    """``python -m WORDS`` in this process."""
    if session:
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = folder
    sys.argv = list(words)
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
