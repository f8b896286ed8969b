"""Files in Google Cloud Storage: one short try a call, and errors that say whether to wait or what to fix.

The calls are google-cloud-storage's, with the client that Beam makes (credentials, impersonation, audit headers).
Beam's own file system is not used: see docs/decisions.md.
"""

from __future__ import annotations

import errno
import http.client
import io
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import requests
import urllib3
from apache_beam.io.filesystems import FileSystems
from apache_beam.io.gcp.gcsio import create_storage_client
from apache_beam.options.pipeline_options import PipelineOptions
from google.api_core import exceptions as api
from google.api_core.retry import Retry
from google.auth import exceptions as auth
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

from beam_jobs.credentials import google_credentials
from beam_jobs.errors import UserError, one_line
from beam_jobs.storage.patience import StorageAwayError, patiently
from beam_jobs.terminal.options import StorageOptions

EMULATOR = "STORAGE_EMULATOR_HOST"

_TIMEOUT_S = (5.0, 30.0)  # to connect; for each piece of an answer
_BLIP_S = 3.0  # a failure this short is nobody's business; longer ones are waited for where one can be interrupted
_READ_BYTES = 4 << 20  # of one request when a file is read bit by bit
_UPLOAD_BYTES = 16 << 20  # in memory, and sent again after a failure; the client's own 100 MB are many
_LARGEST_READ = 64 << 20
_THREADS = 8  # of calls that are one by one only because the service has no better
_OF_OTHERS = frozenset(  # conditions that what jobs write does not meet: older versions, times and names of others
    {
        *("customTimeBefore", "daysSinceCustomTime", "daysSinceNoncurrentTime", "matchesSuffix"),
        *("noncurrentTimeBefore", "numNewerVersions"),
    }
)
OBJECT_BYTES = 1024  # of an object's whole name
_MARK = "highbeam-update"  # metadata of an object: which update wrote it
_AWAY_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_AWAY_TYPES = (
    ConnectionError,
    TimeoutError,
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    DataCorruption,  # a checksum that doesn't fit what arrived
)
OR_ANONYMOUS = ", or give --gcs_anonymous for public buckets"


def is_away(error: BaseException) -> bool:
    """Whether an error of the storage client passes by itself: no connection, overload, a fault of the service."""
    if isinstance(error, api.RetryError):
        return True
    if isinstance(error, api.GoogleAPICallError):
        return error.code in _AWAY_STATUS
    if isinstance(error, InvalidResponse):  # what uploads and downloads retry on
        return error.response.status_code in _AWAY_STATUS
    if isinstance(error, auth.TransportError):
        return True
    if isinstance(error, auth.GoogleAuthError):
        # A token that can't be fetched: the cause says why.
        below = [error.__cause__, *error.args]
        return error.retryable or any(isinstance(e, Exception) and e is not error and is_away(e) for e in below)
    return isinstance(error, _AWAY_TYPES)


_RETRY = Retry(predicate=is_away, initial=0.1, maximum=1.0, multiplier=2.0, timeout=_BLIP_S)


class Gcs:
    """The operations of ``files`` on ``gs://`` paths."""

    def check_access(self, path: str) -> None:
        """Asks the bucket for one name, with as little waiting as possible."""
        if not _anonymous():
            google_credentials.find(path, otherwise=OR_ANONYMOUS)
        bucket, name = _split(path)
        with _errors(path, bucket_missing=True):
            list(_client().list_blobs(bucket, prefix=name, max_results=1, timeout=_TIMEOUT_S, retry=_RETRY))

    def find(self, pattern: str, prefix: str) -> Iterator[tuple[str, int, int]]:
        """Path, bytes and generation of every object whose path begins with the prefix."""
        bucket, name = _split(prefix)
        with _errors(prefix, bucket_missing=True):
            listed = _client().list_blobs(bucket, prefix=name, timeout=_TIMEOUT_S, retry=_RETRY)
            for blob in listed:
                if not blob.name.endswith("/"):  # what consoles make for an empty folder
                    yield f"gs://{bucket}/{blob.name}", int(blob.size), int(blob.generation)

    def open(self, path: str) -> BinaryIO:
        with _errors(path):
            blob = _blob(path)
            blob.reload(timeout=_TIMEOUT_S, retry=_RETRY)
        return io.BufferedReader(_Reader(path, blob), _READ_BYTES)

    def read(self, path: str) -> bytes:
        with _errors(path):
            return bytes(_blob(path).download_as_bytes(timeout=_TIMEOUT_S, retry=_RETRY))

    def write(self, path: str, data: bytes) -> None:
        with _errors(path, bucket_missing=True):
            _blob(path).upload_from_string(data, "application/octet-stream", timeout=_TIMEOUT_S, retry=_RETRY)

    def create(self, path: str, data: bytes) -> bool:
        with _errors(path, bucket_missing=True):
            try:
                _blob(path).upload_from_string(
                    data, "application/octet-stream", if_generation_match=0, timeout=_TIMEOUT_S, retry=_RETRY
                )
                return True
            except api.PreconditionFailed:
                pass  # perhaps by our own try, whose answer was lost
        try:
            return self.read(path) == data
        except FileNotFoundError:
            return False

    def make_folder(self, path: str, name_bytes: int) -> None:
        name = _split(path)[1]
        if len(name.encode()) + 1 + name_bytes > OBJECT_BYTES:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)

    def upload(self, source: Path, path: str) -> None:
        size = source.stat().st_size
        with source.open("rb") as file, _errors(path, bucket_missing=True):
            blob = _blob(path)
            blob.chunk_size = _UPLOAD_BYTES
            blob.upload_from_file(file, rewind=True, size=size, timeout=_TIMEOUT_S, retry=_RETRY)

    def move(self, source: str, target: str) -> None:
        blob = _blob(source)
        bucket, name = _split(target)
        there = _client().bucket(bucket)
        with _errors(source):
            try:
                # Only if it isn't there: who reads it would find another generation.
                blob.bucket.copy_blob(
                    blob, there, new_name=name, if_generation_match=0, timeout=_TIMEOUT_S, retry=_RETRY
                )
            except api.PreconditionFailed:
                pass  # done before, all but the removing
            except api.NotFound:
                if there.blob(name).exists(timeout=_TIMEOUT_S, retry=_RETRY):
                    return  # done before
                raise
        self.remove([source])

    def remove(self, paths: Iterable[str]) -> None:
        def one(path: str) -> None:
            with _errors(path):
                try:
                    _blob(path).delete(timeout=_TIMEOUT_S, retry=_RETRY)
                except api.NotFound:
                    return

        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(one, paths))

    def update(self, path: str, change: Callable[[bytes | None], bytes | None]) -> bytes | None:
        mark = uuid.uuid4().hex
        tried: bytes | None = None
        with _errors(path, bucket_missing=True):
            while True:
                blob = _blob(path)
                old, generation = self._now(blob)
                if (blob.metadata or {}).get(_MARK) == mark:
                    return tried  # ours: it had arrived, only the answer had not
                new = change(old)
                if new is None:
                    return old
                tried, blob.metadata = old, {_MARK: mark}
                try:
                    blob.upload_from_string(
                        new, "application/json", if_generation_match=generation, timeout=_TIMEOUT_S, retry=_RETRY
                    )
                except api.PreconditionFailed:
                    continue  # somebody was faster: look again
                return old

    def _now(self, blob: Any) -> tuple[bytes | None, int]:
        """What an object holds and its generation; None and 0 where there is none."""
        while True:
            try:
                blob.reload(timeout=_TIMEOUT_S, retry=_RETRY)
                data = blob.download_as_bytes(if_generation_match=blob.generation, timeout=_TIMEOUT_S, retry=_RETRY)
            except api.NotFound:
                return None, 0
            except api.PreconditionFailed:
                continue  # changed between the two calls
            return bytes(data), blob.generation


class _Reader(io.RawIOBase):
    """One object's bytes, of the generation that was opened; waits while storage is unavailable."""

    def __init__(self, path: str, blob: Any) -> None:
        super().__init__()
        self._path, self._blob, self._at = path, blob, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: int(self._blob.size)}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self._fetch(len(view))
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return b"".join(iter(partial(self._fetch, _LARGEST_READ), b""))

    def _fetch(self, size: int) -> bytes:
        end = min(self._at + min(size, _LARGEST_READ), int(self._blob.size))
        if end <= self._at:
            return b""
        data = patiently(partial(self._range, self._at, end - 1))
        self._at += len(data)
        return data

    def _range(self, first: int, last: int) -> bytes:
        with _errors(self._path):
            return bytes(
                self._blob.download_as_bytes(
                    start=first,
                    end=last,
                    raw_download=True,  # as it lies there: ranges of a decompressed object don't exist
                    if_generation_match=self._blob.generation,
                    timeout=_TIMEOUT_S,
                    retry=_RETRY,
                )
            )


@dataclass(frozen=True)
class BucketInfo:
    """What a bucket says about itself."""

    location: str  # US-CENTRAL1, EU
    storage_class: str  # of files that are written without one
    rules: tuple[Mapping[str, Any], ...]  # of its lifecycle: {"action": …, "condition": …}

    def deletes(self, folder: str) -> str | None:
        """When a lifecycle rule deletes what is written to a folder, "7 days after it was written"; None: never."""
        name = _split(folder)[1] + "/"
        for rule in self.rules:
            condition = rule.get("condition", {})
            if rule.get("action", {}).get("type") != "Delete" or condition.keys() & _OF_OTHERS:
                continue
            prefixes = condition.get("matchesPrefix") or [""]
            classes = condition.get("matchesStorageClass") or [self.storage_class]
            before = condition.get("createdBefore")
            passed = before is not None and before < time.strftime("%Y-%m-%d", time.gmtime())
            if condition.get("isLive") is False or passed or self.storage_class not in classes:
                continue
            if any(name.startswith(prefix) or prefix.startswith(name) for prefix in prefixes):
                return f"{condition['age']} days after it was written" if "age" in condition else "in time"
        return None


def bucket_info(path: str) -> BucketInfo | None:
    """About the bucket of a path; None: this account may not know."""
    with suppress(UserError, StorageAwayError, FileNotFoundError), _errors(path):
        bucket = _client().get_bucket(_split(path)[0], timeout=_TIMEOUT_S, retry=_RETRY)
        return BucketInfo(str(bucket.location), str(bucket.storage_class), tuple(bucket.lifecycle_rules))
    return None


def go_anonymous() -> None:
    """For a process without a pipeline."""
    FileSystems.set_options(PipelineOptions(["--gcs_anonymous"]))


def _anonymous() -> bool:
    options = _options()
    return EMULATOR in os.environ or bool(options.view_as(StorageOptions).gcs_anonymous)


def _options() -> PipelineOptions:
    """Beam sets them where a pipeline is made, and in each worker."""
    return FileSystems._pipeline_options or PipelineOptions([])


_clients: dict[tuple[str | None, bool], Any] = {}
_lock = threading.Lock()


def _client() -> Any:
    key = (os.environ.get(EMULATOR), _anonymous())
    with _lock:
        if key not in _clients:
            # Else each client asks for the bucket's own data in the background, which takes another permission.
            os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
            _clients[key] = create_storage_client(_options(), use_credentials=not key[1])
        return _clients[key]


def _split(path: str) -> tuple[str, str]:
    bucket, _, name = path.removeprefix("gs://").partition("/")
    return bucket, name


def _blob(path: str) -> storage.Blob:
    bucket, name = _split(path)
    return _client().bucket(bucket).blob(name)


@contextmanager
def _errors(path: str, bucket_missing: bool = False) -> Iterator[None]:
    """Turns the client's errors into FileNotFoundError, StorageAwayError or a UserError that says what to fix.

    Args:
      bucket_missing: what "not found" means: the bucket, not the object.
    """
    bucket = f"gs://{_split(path)[0]}"
    try:
        yield
    except api.NotFound as error:
        if bucket_missing:
            raise UserError(f"{bucket}: no such bucket; create it, or mend the address {path}") from error
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error
    except (api.Forbidden, api.Unauthorized, auth.InvalidOperation) as error:  # the last: anonymous, and asked for more
        if _anonymous():
            remedy = "it is not public: leave out --gcs_anonymous and log in, or make it public"
        else:
            remedy = "give the account the role roles/storage.objectUser on the bucket (to read: objectViewer)"
        raise UserError(f"{bucket}: no permission ({_line(error)}); {remedy}") from error
    except Exception as error:
        if is_away(error):
            reason = _reason(error)
            remedy = "try again later" if reason.startswith("HTTP") else "check the network"
            raise StorageAwayError(f"{bucket} can't be reached ({reason}); {remedy}") from error
        if isinstance(error, auth.GoogleAuthError):
            remedy = f"{google_credentials.LOG_IN}{OR_ANONYMOUS}"
            raise UserError(f"{bucket}: Google credentials are refused ({_line(error)}); {remedy}") from error
        if isinstance(error, api.GoogleAPICallError):
            raise UserError(f"{path}: storage refuses ({_line(error)}); mend the address or the bucket") from error
        raise


def _line(error: BaseException) -> str:
    text = getattr(error, "message", None) or str(error)
    return one_line(text, 200)


def _reason(error: BaseException) -> str:
    """The one fact in a client's error: the system's words, or the status."""
    seen: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in seen:
        if isinstance(at, api.GoogleAPICallError):
            return f"HTTP {at.code}"
        if isinstance(at, InvalidResponse):
            return f"HTTP {at.response.status_code}"
        if isinstance(at, OSError) and at.strerror:
            return str(at.strerror)
        if isinstance(at, requests.Timeout):
            return "no answer in time"
        seen.append(at)
        at = at.__cause__ or at.__context__
    return _line(seen[-1])
