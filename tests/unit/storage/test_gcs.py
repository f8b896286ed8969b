"""Cloud Storage: what each of its errors means, and credentials that are missing, broken or not needed."""

from __future__ import annotations

import gc
import json
import socket
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from google.api_core import exceptions as api
from google.auth import exceptions as auth

from beam_jobs.errors import UserError
from beam_jobs.storage import files, gcs
from tests.services.gcs import GcsEmulator
from tests.services.job import finished


def test_an_update_whose_answer_was_lost_is_not_made_twice(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"{bucket}/aliases.json"
    files.write_bytes(path, b"old")
    upload = gcs.storage.Blob.upload_from_string
    lost = []

    def once(self: object, *args: object, **settings: object) -> None:
        upload(self, *args, **settings)
        if not lost:
            lost.append(True)
            upload(self, *args, **settings)  # what the client does when the first answer never came

    monkeypatch.setattr(gcs.storage.Blob, "upload_from_string", once)
    assert files.update(path, lambda old: b"new" if old == b"old" else b"twice") == b"old"
    assert files.read_bytes(path) == b"new"


def test_a_bucket_that_is_not_there(bucket: str) -> None:
    missing = f"{bucket}-x/folder"
    for action in (
        lambda: files.check_access(missing),
        lambda: files.list_files(f"{missing}/*"),
        lambda: files.write_bytes(f"{missing}/a", b""),
        lambda: files.update(f"{missing}/a", lambda old: b""),
    ):
        with pytest.raises(UserError, match=rf"^{bucket}-x: no such bucket; create it"):
            action()
    files.check_access(f"{bucket}/folder")


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (requests.ConnectionError(), True),
        (requests.ReadTimeout(), True),
        (requests.exceptions.ChunkedEncodingError(), True),
        (ConnectionResetError(), True),
        (api.ServiceUnavailable("503"), True),
        (api.InternalServerError("500"), True),
        (api.TooManyRequests("429"), True),
        (api.RetryError("deadline", cause=None), True),
        (auth.TransportError(requests.ConnectionError()), True),
        (auth.RefreshError(auth.TransportError("metadata server")), True),
        (auth.RefreshError(auth.TransportError(requests.ConnectionError())), True),
        (auth.RefreshError("later", retryable=True), True),
        (auth.RefreshError("invalid_grant"), False),
        (api.Forbidden("403"), False),
        (api.Unauthorized("401"), False),
        (api.NotFound("404"), False),
        (api.BadRequest("400"), False),
        (api.PreconditionFailed("412"), False),
        (PermissionError(), False),
        (ValueError(), False),
    ],
)
def test_what_is_waited_for_and_what_is_not(error: Exception, away: bool) -> None:
    assert gcs.is_away(error) is away


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            api.Forbidden("x does not have storage.objects.create access"),
            r"^gs://b: no permission \(x does.*objectUser",
        ),
        (auth.RefreshError("invalid_grant: Token has been revoked"), "refused .*revoked.*gcloud auth"),
        (api.BadRequest("Invalid bucket name"), "storage refuses .*Invalid bucket name"),
    ],
)
def test_what_can_be_mended_says_how(error: Exception, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(gcs.EMULATOR, raising=False)
    with pytest.raises(UserError, match=said) as raised, gcs._errors("gs://b/x"):
        raise error
    assert not isinstance(raised.value, files.StorageAwayError)


class _Refusing(ThreadingHTTPServer):
    """Stands for Cloud Storage that answers every request with one status: no emulator does."""

    def __init__(self, status: int) -> None:
        self.asked: Counter[str] = Counter()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                server.asked[self.command + " " + self.path] += 1
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = json.dumps({"error": {"code": status, "message": "said by the service"}}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)


# The client leaves the sockets of refused downloads to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_what_the_service_answers(status: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gcs._RETRY, "_timeout", 0.5)
    (tmp_path / "large").write_bytes(bytes(9_000_000))  # another kind of upload
    away = status not in (401, 403)
    said = f"HTTP {status}" if away else "^gs://b: no permission .*not public"
    with _Refusing(status) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        monkeypatch.setenv(gcs.EMULATOR, f"http://127.0.0.1:{server.server_port}")
        for action in (
            lambda: files.check_access("gs://b/a"),
            lambda: files.list_files("gs://b/*"),
            lambda: files.read_bytes("gs://b/a"),
            lambda: files.open_file("gs://b/a"),
            lambda: files.write_bytes("gs://b/a", b""),
            lambda: files.upload(tmp_path / "large", "gs://b/a"),
            lambda: files.move("gs://b/a", "gs://b/b"),
            lambda: files.remove(["gs://b/a"]),
            lambda: files.update("gs://b/a", lambda old: b""),
        ):
            server.asked.clear()
            with pytest.raises(UserError, match=said) as raised:
                action()
            assert isinstance(raised.value, files.StorageAwayError) == away
            assert (server.asked.total() > 1) == away  # tried again, or not
        for client in gcs._clients.values():
            client.close()
        server.shutdown()
    del raised
    gc.collect()  # here, where the warning is expected


_NO_CREDENTIALS = (
    "no Google credentials; run gcloud auth application-default login, or name a key file in "
    "GOOGLE_APPLICATION_CREDENTIALS, or give --gcs_anonymous for public buckets"
)


def _check(folder: Path, call: str = "files.check_access('gs://some-bucket/x')", **given: str) -> tuple[str, float]:
    """The error of a check in a process of its own without credentials, and the seconds it took without the imports."""
    (folder / "checked.py").write_text(f"""
import time
from beam_jobs.errors import UserError
from beam_jobs.credentials import google_credentials
from beam_jobs.storage import files, gcs  # gcs: so that its imports are not timed
started = time.monotonic()
try:
    {call}
    print("fine")
except UserError as error:
    print(error)
print(time.monotonic() - started)
""")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("GOOGLE_APPLICATION_CREDENTIALS", gcs.EMULATOR):
            patch.delenv(name, raising=False)
        for name, value in {"CLOUDSDK_CONFIG": str(folder), "HOME": str(folder), **given}.items():
            patch.setenv(name, value)
        patch.chdir(folder)
        done = finished([sys.executable, "-m", "checked"])
    assert done.returncode == 0, done.stderr
    said, seconds = done.stdout.splitlines()
    return said, float(seconds)


def test_no_credentials_is_said_within_seconds(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection and never answers
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        said, seconds = _check(tmp_path, GCE_METADATA_IP=address)
    assert said == f"gs://some-bucket/x: {_NO_CREDENTIALS}"
    assert seconds < 15  # google-auth and Beam alone would take 20
    assert _check(tmp_path, NO_GCE_CHECK="true")[0] == said


def test_anonymous_access_needs_no_credentials(bucket: str, gcs_emulator: GcsEmulator, tmp_path: Path) -> None:
    files.write_bytes(f"{bucket}/a", b"a")
    env = {"NO_GCE_CHECK": "true", "API_ENDPOINT_OVERRIDE": gcs_emulator.url}
    read = f"assert files.read_bytes('{bucket}/a') == b'a'"
    anonymous = f"files.configure(gcs_anonymous=True); files.check_access('{bucket}/a'); {read}"
    assert _check(tmp_path, anonymous, **env)[0] == "fine"
    assert _check(tmp_path, f"files.check_access('{bucket}/a')", **env)[0] == f"{bucket}/a: {_NO_CREDENTIALS}"


def test_a_broken_key_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text("{")
    said, _ = _check(tmp_path, GOOGLE_APPLICATION_CREDENTIALS=str(tmp_path / "key.json"))
    assert str(tmp_path / "key.json") in said
    assert "gcloud auth application-default login" in said


def test_the_metadata_server_of_a_google_machine_is_found(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 200 OK\r\nMetadata-Flavor: Google\r\nContent-Length: 0\r\n\r\n"

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(10_000)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=[server], daemon=True)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        found = _check(tmp_path, "assert google_credentials.on_google()", GCE_METADATA_IP=address)
        assert found[0] == "fine"
        thread.join(10)
