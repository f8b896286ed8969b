"""Files, the same on this machine and in Cloud Storage; what each error of storage means."""

from __future__ import annotations

import errno
import json
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from beam_jobs import stop
from beam_jobs.errors import UserError
from beam_jobs.storage import files, gcs, patience
from tests.services.gcs import GcsEmulator


@pytest.fixture(params=["local", "gs"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder that isn't there yet, of either kind."""
    if request.param == "local":
        return str(tmp_path / "folder")
    return f"{request.getfixturevalue('bucket')}/folder"


def test_what_is_written_is_read(root: str, tmp_path: Path) -> None:
    data = os.urandom(20_000_000)  # more than one read, more than one piece of an upload
    (tmp_path / "source").write_bytes(data)
    files.upload(tmp_path / "source", f"{root}/a/b.bin")
    files.write_bytes(f"{root}/a/c", b"small")
    files.write_bytes(f"{root}/a/c", b"smaller")
    assert files.read_bytes(f"{root}/a/b.bin") == data
    assert files.read_bytes(f"{root}/a/c") == b"smaller"
    with files.open_file(f"{root}/a/b.bin") as file:
        assert file.read(10) == data[:10]
        file.seek(-5, os.SEEK_END)
        assert file.read() == data[-5:]
        file.seek(5_000_000)
        assert file.read(3_000_000) == data[5_000_000:8_000_000]
        file.seek(0)
        assert file.read() == data
        assert file.read() == b""
    files.download(f"{root}/a/b.bin", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data


def test_patterns(root: str) -> None:
    for name in ("x.avro", "[1]y.avro", "a/x.avro", "a/b/x.avro", "a/b/x.txt", ".hidden.avro", "ax.avro"):
        files.write_bytes(f"{root}/{name}", b"12345")

    def found(pattern: str) -> list[str]:
        return [path.removeprefix(f"{root}/") for path in files.list_files(f"{root}/{pattern}")]

    assert found("*.avro") == ["[1]y.avro", "ax.avro", "x.avro"]
    assert found("[1]*") == ["[1]y.avro"]
    assert found("**/x.avro") == ["a/b/x.avro", "a/x.avro"]
    assert found("**.avro") == sorted([".hidden.avro", "[1]y.avro", "a/b/x.avro", "a/x.avro", "ax.avro", "x.avro"])
    assert found("a/*/x.*") == ["a/b/x.avro", "a/b/x.txt"]
    assert found("a?.avro") == ["ax.avro"]
    assert found("a?x.avro") == []
    assert found("a") == []
    assert found("x.avro") == ["x.avro"]
    assert found("nothing/**") == []
    assert [file.size for file in files.find_files(f"{root}/x.avro")] == [5]


def test_moved_and_removed_can_be_repeated(root: str) -> None:
    files.write_bytes(f"{root}/a", b"1")
    for _ in range(2):
        files.move(f"{root}/a", f"{root}/new folder/b%2F#?.x")
    assert files.list_files(f"{root}/**") == [f"{root}/new folder/b%2F#?.x"]
    files.write_bytes(f"{root}/c", b"1")
    for _ in range(2):
        files.remove([f"{root}/c", f"{root}/new folder/b%2F#?.x"])
    assert files.list_files(f"{root}/**") == []
    with pytest.raises(FileNotFoundError):
        files.read_bytes(f"{root}/c")
    with pytest.raises(FileNotFoundError):
        files.open_file(f"{root}/c")


def test_what_is_moved_and_is_nowhere_is_an_error(root: str) -> None:
    files.write_bytes(f"{root}/other", b"")
    with pytest.raises(FileNotFoundError):
        files.move(f"{root}/a", f"{root}/b")


def test_of_many_that_create_a_file_one_does(root: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        for n in range(5):
            done = list(pool.map(lambda i, n=n: files.create(f"{root}/{n}", b"by %d" % i), range(6)))  # type: ignore[misc]
            assert done.count(True) == 1
            assert files.read_bytes(f"{root}/{n}") == b"by %d" % done.index(True)
    assert files.create(f"{root}/0", files.read_bytes(f"{root}/0"))  # ours, and only the answer was lost
    assert len(files.list_files(f"{root}/**")) == 5


def test_a_file_is_created_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(source: object, target: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "link", refused)
    assert [files.create(str(tmp_path / "a"), data) for data in (b"1", b"2", b"1")] == [True, False, True]
    assert files.read_bytes(str(tmp_path / "a")) == b"1"


def test_a_file_moves_to_another_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of the archive that is a link to one."""
    rename = os.replace

    def replace(source: str, target: str) -> None:
        if "/disk/" in str(target) and "/disk/" not in str(source):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(source, target)

    monkeypatch.setattr(os, "replace", replace)
    files.write_bytes(f"{tmp_path}/a", b"1")
    files.move(f"{tmp_path}/a", f"{tmp_path}/disk/a")
    assert files.list_files(f"{tmp_path}/**") == [f"{tmp_path}/disk/a"]


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=400), unique=True, max_size=6))
@example(["0000000::::::" + "\x80" * 17 + "\u0800" + "\U00010000" * 8 + "\x80" + "\U00010000" * 2])
def test_names_made_of_data_are_bounded_and_differ(values: list[str]) -> None:
    names = [files.bounded(f"fleet={quote(value, safe='')}") for value in values]
    assert len(set(names)) == len(names)
    for value, name in zip(values, names, strict=True):
        whole = f"fleet={quote(value, safe='')}"
        assert len(name.encode()) <= 255
        assert name == files.bounded(whole)
        assert (name == whole) == (len(whole) <= 255)
        unquote(name.partition("+")[0], errors="strict")  # no half of a character
    assert files.bounded("a" * 255) == "a" * 255
    short = files.bounded("a" * 256)
    assert len(short) == 255
    assert files.bounded(short) == short != files.bounded("a" * 257)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free space"),
        (errno.EDQUOT, "raise the quota"),
        (errno.EACCES, "the right to write there"),
        (errno.EPERM, "the right to write there"),
        (errno.EROFS, "mount it for writing"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENFILE, "fs.file-max"),
        (errno.ENAMETOOLONG, "a shorter path"),
        (errno.ENOTDIR, "a file is where a folder should be"),
        (errno.EFBIG, "write smaller files"),
        (errno.EIO, "mend that"),
    ],
)
def test_each_reason_has_its_remedy(number: int, remedy: str) -> None:
    what = f"^/data: can't be written \\(/data/x: .*{re.escape(remedy)}.* and start again$"
    with pytest.raises(UserError, match=what) as told, files.writing("/data"):
        raise OSError(number, os.strerror(number), "/data/x")
    assert os.strerror(number) in str(told.value)
    with pytest.raises(UserError) as told, files.writing("/data"):
        raise OSError(number, os.strerror(number), "/data/" + "x" * 5000)
    assert len(str(told.value)) < 600


def test_a_folder_that_cant_be_made_is_nobodys_fault() -> None:
    with pytest.raises(UserError) as told, files.writing("--output /proc/x", begun=False):
        files.make_folder("/proc/x")
    assert str(told.value) == (
        "--output /proc/x: can't be written (/proc/x: No such file or directory); no folder can be made there: choose "
        "another and start again"
    )


def test_folders_that_nothing_can_be_moved_to_are_found_before(root: str) -> None:
    files.make_folder(f"{root}/date=1", 60)
    deep = "/".join([root, *["d" * 200] * 25])
    with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)):
        files.make_folder(deep, 60)
    if files.is_local(root):
        with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)):
            files.make_folder(f"{root}/{'d' * 256}", 60)
        Path(root, "date=2").write_text("a file")
        with pytest.raises(FileExistsError):
            files.make_folder(f"{root}/date=2", 60)
        with pytest.raises(NotADirectoryError):
            files.make_folder(f"{root}/date=2/hour=1", 60)


def test_of_many_updates_at_once_none_is_lost(root: str) -> None:
    files.write_bytes(f"{root}/other", b"")  # the folder

    def add(i: int) -> bytes | None:
        def change(old: bytes | None) -> bytes:
            return json.dumps([*json.loads(old or b"[]"), i]).encode()

        return files.update(f"{root}/list.json", change)

    with ThreadPoolExecutor(6) as pool:
        before = list(pool.map(add, range(24)))
    assert sorted(json.loads(files.read_bytes(f"{root}/list.json"))) == list(range(24))
    assert sorted(len(json.loads(b or b"[]")) for b in before) == list(range(24))  # each saw another state
    assert files.update(f"{root}/list.json", lambda old: None) == files.read_bytes(f"{root}/list.json")


def test_storage_that_goes_away_is_waited_for(
    bucket: str, gcs_emulator: GcsEmulator, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcs._RETRY, "_timeout", 0.1)
    data = os.urandom(20_000_000)
    files.write_bytes(f"{bucket}/a", data)
    file = files.open_file(f"{bucket}/a")
    assert file.read(100) == data[:100]
    gcs_emulator.stop()
    try:
        for action in (
            lambda: files.check_access(f"{bucket}/a"),
            lambda: files.list_files(f"{bucket}/*"),
            lambda: files.read_bytes(f"{bucket}/a"),
            lambda: files.write_bytes(f"{bucket}/b", b""),
            lambda: files.move(f"{bucket}/a", f"{bucket}/b"),
            lambda: files.remove([f"{bucket}/a"]),
            lambda: files.update(f"{bucket}/b", lambda old: b""),
        ):
            with pytest.raises(files.StorageAwayError, match=r"can't be reached \(Connection refused\)"):
                action()
        with ThreadPoolExecutor(2) as pool:
            written = pool.submit(lambda: files.patiently(lambda: files.write_bytes(f"{bucket}/c", b"c")))
            rest = pool.submit(file.read)  # in the middle of a file
            deadline = time.monotonic() + 60
            while sum("; waiting" in record.message for record in caplog.records) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            gcs_emulator.start()
            written.result(60)
            assert rest.result(60) == data[100:]
    finally:
        if gcs_emulator.away:
            gcs_emulator.start()
    said = [record.message for record in caplog.records if record.name == patience.__name__]
    assert sum("waiting" in text for text in said) == 2  # once each, however often they tried
    assert sum("is back after" in text for text in said) == 2
    assert files.read_bytes(f"{bucket}/c") == b"c"


def test_ctrl_c_ends_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_LAST_TRIES_S", 0.3)
    waiting = threading.Event()

    def away() -> None:
        waiting.set()
        raise files.StorageAwayError("gs://b can't be reached")

    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(files.patiently, away)
        assert waiting.wait(10)
        stop.request()
        try:
            with pytest.raises(UserError, match=r"ended while storage was away \(gs://b can't be reached\)"):
                wait.result(10)
        finally:
            stop.reset()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (0, r"\(Permission denied\); give this account the right"),
        (os.ST_RDONLY, r"\(Read-only file system\); mount it for writing"),
    ],
)
def test_a_folder_that_takes_no_files_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: int, said: str
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=flags))
    with pytest.raises(UserError, match=said), files.writing(str(tmp_path)):
        files.make_folder(str(tmp_path), 10)


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    said = r"^archive: can't be written \(No space left on device\); free space"
    with pytest.raises(UserError, match=said), files.writing("archive"), open("/dev/full", "wb") as file:
        file.write(b"x" * 100_000)


def test_how_long_names_may_be_below_a_folder_that_is_still_to_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert files.name_bytes("still/to/come") == files.name_bytes(str(tmp_path)) > 0


@pytest.mark.parametrize("name", ["my data 100%", "Ä ö/ü 東京", "a%20b", "a+b&c#d", "x:y"])
def test_a_file_uri_is_decoded(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    assert files.root_of(folder.as_uri()) == files.root_of(str(folder)) == str(folder)
    assert files.root_of(folder.as_uri().replace("file:///", "FILE://localhost/")) == str(folder)
    assert files.root_of(folder.as_uri().replace("file:///", "file:/")) == str(folder)
    assert str(files.local_path(folder.as_uri())) == str(folder)
    assert files.is_local(str(folder))


def test_a_file_uri_may_name_bytes_that_are_no_utf_8(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.avro")).write_bytes(b"x")
    assert files.read_bytes(files.root_of(f"{tmp_path.as_uri()}/caf%E9.avro")) == b"x"


def test_a_relative_path_stays_relative_for_command_lines() -> None:
    assert str(files.local_path("some/folder")) == "some/folder"
    assert files.root_of("some/folder") == os.path.abspath("some/folder")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("file://host/share/x", "of another machine, 'host'"),
        ("file://relative", "another machine"),
        ("file:///", "names no folder"),
        ("", "names no folder"),
        ("s3://bucket/x", "expected gs://bucket"),
        ("file:///a%00b", "zero byte"),
        ("file:///%1b[2J%0a" + "x" * 500 + "%00", "zero byte"),
    ],
)
def test_what_names_no_file_here_is_one_line(uri: str, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)) as error:
        files.root_of(uri)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 300


def test_a_bucket_is_no_path_of_this_machine() -> None:
    with pytest.raises(UserError, match="is in a bucket"):
        files.local_path("gs://bucket/x")
