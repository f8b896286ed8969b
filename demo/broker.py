"""Apache Kafka without Docker, from Maven jars::

    with ApacheKafka() as broker:
        Producer({"bootstrap.servers": broker.bootstrap_servers})

It needs Java and Maven, starts in about 6 s and keeps its data over a restart; several of them make a cluster
(``demo.cluster``). A broker does not outlive the process that started it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from beam_jobs.errors import UserError
from beam_jobs.sandbox.process import BrokerProcess, free_port

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
    pom = resources.files("demo").joinpath("kafka_pom.xml").read_text(encoding="utf-8")
    return maven_jars("Apache Kafka", cache_dir() / "apache-kafka-4.1.0", pom)


def maven_jars(what: str, jars: Path, pom: str) -> Path:
    """The folder ``jars`` with all that the project ``pom`` depends on; Maven copies it there where it is missing.

    Raises:
      UserError: Maven fails.
    """
    with locked(jars.parent / f"{jars.name.rpartition('-')[0]}.lock"):
        if not jars.exists():
            with tempfile.TemporaryDirectory(dir=jars.parent) as scratch:
                project, copied = Path(scratch) / "pom.xml", Path(scratch) / "jars"
                project.write_text(pom)
                goal = ["dependency:copy-dependencies", f"-DoutputDirectory={copied}"]
                result = subprocess.run(
                    [shutil.which("mvn") or "mvn", "-q", "-B", "-f", str(project), *goal],
                    capture_output=True,
                    text=True,
                    timeout=_MAVEN_TIMEOUT_S,
                    check=False,
                )
                if result.returncode != 0:
                    cause = next((line for line in result.stdout.splitlines() if "ERROR" in line), "no output")
                    raise UserError(f"{what}: Maven could not fetch the jars: {cause}")
                copied.rename(jars)  # atomic: a broken download never looks complete
    return jars


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


class ApacheKafka(BrokerProcess):
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
