"""Apache Flink 1.19 with Beam's runner 2.70, from Maven jars: a JobManager, TaskManagers and Beam's job server.

    with Flink() as flink:
        ...  # --runner=PortableRunner --job_endpoint=flink.endpoint --environment_type=LOOPBACK
        flink.kill_task_manager()
        flink.start_task_manager()

Seven releases lie between that runner and the Beam of this package.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import requests

from beam_jobs.sandbox import guard
from beam_jobs.sandbox.process import free_port, listens
from demo.broker import cache_dir, java_missing, maven_jars

_TIMEOUT_S = 90.0
_OVER = ("FINISHED", "CANCELED", "FAILED")
_RUNTIME = "org.apache.flink.runtime"

# What Flink's own scripts open to it on Java 17.
_OPENED = [
    *("java.base/java.lang", "java.base/java.net", "java.base/java.io", "java.base/java.nio", "java.base/sun.nio.ch"),
    *("java.base/java.lang.reflect", "java.base/java.text", "java.base/java.time", "java.base/java.util"),
    *("java.base/java.util.concurrent", "java.base/java.util.concurrent.atomic"),
    "java.base/java.util.concurrent.locks",
]


class Flink:
    """One JobManager, one TaskManager of two slots, one job server; a context manager."""

    def __init__(self) -> None:
        self._jars = maven_jars(
            "Flink", cache_dir() / "flink-1.19", Path(__file__).with_name("flink_pom.xml").read_text()
        )
        self.data = Path(tempfile.mkdtemp(prefix="highbeam-flink-"))
        self._rest, self._job_port = free_port(), free_port()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def endpoint(self) -> str:
        """Of Beam's job server."""
        return f"127.0.0.1:{self._job_port}"

    @property
    def rest(self) -> str:
        """Host and port of the cluster's REST interface."""
        return f"127.0.0.1:{self._rest}"

    def log(self, name: str) -> str:
        return (self.data / f"{name}.log").read_text(errors="replace")

    def jobs(self) -> list[dict[str, Any]]:
        """What the JobManager says of each job, its id and its state among it."""
        found = requests.get(f"http://127.0.0.1:{self._rest}/jobs/overview", timeout=10).json()
        return list(found["jobs"])

    def wait_for_end(self, job: str) -> None:
        """Returns when a job is over."""
        deadline = time.monotonic() + _TIMEOUT_S
        while (state := next(each["state"] for each in self.jobs() if each["jid"] == job)) not in _OVER:
            assert time.monotonic() < deadline, state
            time.sleep(0.2)

    def checkpoints(self, job: str) -> dict[str, int]:
        """How many checkpoints of a job were "completed", and how often it was "restored"."""
        url = f"http://127.0.0.1:{self._rest}/jobs/{job}/checkpoints"
        counts: dict[str, int] = requests.get(url, timeout=10).json()["counts"]
        return counts

    def start_task_manager(self) -> None:
        self._start("taskmanager", f"{_RUNTIME}.taskexecutor.TaskManagerRunner", "--configDir", str(self.data), mb=640)

    def kill_task_manager(self) -> None:
        """SIGKILL."""
        self._end("taskmanager", signal.SIGKILL)

    def __enter__(self) -> Self:
        (self.data / "flink-conf.yaml").write_text("".join(f"{k}: {v}\n" for k, v in self._settings().items()))
        try:
            cluster = f"{_RUNTIME}.entrypoint.StandaloneSessionClusterEntrypoint"
            self._start("jobmanager", cluster, "--configDir", str(self.data), mb=400)
            self.start_task_manager()
            driver = "org.apache.beam.runners.flink.FlinkJobServerDriver"
            words = [f"--flink-master=127.0.0.1:{self._rest}", f"--job-port={self._job_port}", "--job-host=127.0.0.1"]
            words += [f"--artifact-port={free_port()}", f"--expansion-port={free_port()}"]
            self._start("jobserver", driver, *words, f"--artifacts-dir={self.data / 'artifacts'}", mb=300)
            self._until_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kills all, and removes their data."""
        for name in list(self._processes):
            self._end(name, signal.SIGKILL)
        shutil.rmtree(self.data, ignore_errors=True)

    def _settings(self) -> dict[str, Any]:
        return {
            "jobmanager.rpc.address": "127.0.0.1",
            "jobmanager.rpc.port": free_port(),
            "jobmanager.bind-host": "127.0.0.1",
            "rest.address": "127.0.0.1",
            "rest.bind-address": "127.0.0.1",
            "rest.port": self._rest,
            "taskmanager.host": "127.0.0.1",
            "taskmanager.bind-host": "127.0.0.1",
            "taskmanager.numberOfTaskSlots": 2,
            "taskmanager.cpu.cores": 1,
            "taskmanager.memory.framework.heap.size": "128m",
            "taskmanager.memory.task.heap.size": "384m",
            "taskmanager.memory.task.off-heap.size": "64m",
            "taskmanager.memory.framework.off-heap.size": "64m",
            "taskmanager.memory.managed.size": "64m",
            "taskmanager.memory.network.min": "64m",
            "taskmanager.memory.network.max": "64m",
            "taskmanager.memory.jvm-metaspace.size": "192m",
            "taskmanager.memory.jvm-overhead.min": "64m",
            "taskmanager.memory.jvm-overhead.max": "64m",
            "heartbeat.interval": 3000,
            "heartbeat.timeout": 12000,
            "restart-strategy.type": "fixed-delay",
            "restart-strategy.fixed-delay.attempts": 1000,
            "restart-strategy.fixed-delay.delay": "1 s",
            "state.checkpoints.dir": (self.data / "checkpoints").as_uri(),
        }

    def _start(self, name: str, main: str, *words: str, mb: int) -> None:
        opened = [f"--add-opens={package}=ALL-UNNAMED" for package in _OPENED]
        tuned = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Xmx{mb}m", "-XX:MaxMetaspaceSize=192m"]
        told = ["-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.defaultLogLevel=info"]
        command = ["java", *tuned, *told, *opened, "-cp", f"{self._jars}/*", main, *words]
        with (self.data / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.data, start_new_session=True
            )
        guard.watch(process.pid, self.data)
        self._processes[name] = process

    def _until_ready(self) -> None:
        deadline = time.monotonic() + _TIMEOUT_S
        while not (listens(self._job_port) and self._slots()):
            ended = [name for name, process in self._processes.items() if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                what = ", ".join(ended) or "not all"
                raise RuntimeError(f"{what} of Flink did not come up: {self.log((ended or ['jobmanager'])[0])[-2000:]}")
            time.sleep(0.1)

    def _slots(self) -> int:
        try:
            return int(requests.get(f"http://127.0.0.1:{self._rest}/overview", timeout=5).json()["slots-total"])
        except (requests.RequestException, ValueError, KeyError):
            return 0

    def _end(self, name: str, how: signal.Signals) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            process.send_signal(how)
            process.wait(20)
            guard.forget(process.pid)


@pytest.fixture(scope="module")
def flink() -> Iterator[Flink]:
    reason = java_missing()
    if reason:
        pytest.skip(reason.replace("Apache Kafka", "Flink"))
    with Flink() as running:
        yield running
