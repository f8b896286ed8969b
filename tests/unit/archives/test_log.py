"""What an archive holds, whatever moment its writer was killed at."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.archives import log as archive_log
from beam_jobs.archives.held import Held, Ranges
from beam_jobs.archives.log import ArchiveLog, FencedError, Finished, new_id
from beam_jobs.errors import UserError
from beam_jobs.expiring_ids import ExpiringIds
from beam_jobs.storage.files import bounded, list_files

SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)).map(lambda s: (s[0], s[0] + s[1])), max_size=8)


def ranges(*spans: tuple[int, int], partition: int = 0) -> Ranges:
    return Ranges({("t", partition): np.array(spans, np.int64).reshape(-1, 2)})


@given(st.lists(SPANS, max_size=4))
def test_a_union_of_ranges_holds_what_its_parts_hold(parts: list[list[tuple[int, int]]]) -> None:
    held = Ranges()
    for spans in parts:
        for span in spans:
            held |= ranges(span)
    offsets = np.arange(75)
    expected = [any(a <= o <= b for spans in parts for a, b in spans) for o in offsets]
    assert held.holds(("t", 0), offsets).tolist() == expected
    assert not held.holds(("t", 1), offsets).any()
    if held.of:
        merged = held.of["t", 0]
        assert (merged[1:, 0] > merged[:-1, 1] + 1).all()  # nothing left to merge
    again = Ranges.from_json(held.to_json())
    assert again.holds(("t", 0), offsets).tolist() == expected


@given(st.lists(st.integers(0, 60), min_size=1), st.lists(st.integers(0, 60), min_size=1))
def test_exact_offsets_hold_nothing_else(first: list[int], second: list[int]) -> None:
    both = Ranges.exactly(("t", 0), np.array(first)) | Ranges.exactly(("t", 0), np.array(second))
    assert np.flatnonzero(both.holds(("t", 0), np.arange(70))).tolist() == sorted({*first, *second})
    spans = Ranges.span(("t", 0), np.array(first)) | Ranges.span(("t", 0), np.array(second))
    whole = range(min(first + second), max(first + second) + 1)
    assert np.flatnonzero(spans.spans().holds(("t", 0), np.arange(70))).tolist() == list(whole)


class Files:
    """An archive with files that are about to be committed."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.log = ArchiveLog(self.root, "job")

    def write(self, bundle: str, number: int) -> Finished:
        temporary = Path(self.log.temporary(bundle, number))
        temporary.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text("rows")
        return Finished(str(temporary), f"{self.root}/date=2026-11-22/hour=07/part-{bundle}-{number}.avro", 5)

    def data(self) -> list[str]:
        return [Path(path).name for path in list_files(f"{self.root}/**.avro")]

    def left(self) -> list[str]:
        return list_files(f"{self.log.folder}/unfinished/*")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_committed_files_are_in_place_and_remembered(files: Files) -> None:
    files.log.commit("a", [files.write("a", 0), files.write("a", 1)], Held(ranges((0, 9))))
    assert files.data() == ["part-a-0.avro", "part-a-1.avro"]
    assert files.left() == []
    other = ArchiveLog(files.root, "job", files.log.owner)
    assert other.held().holds(("t", 0), np.array([0, 9, 10])).tolist() == [True, True, False]
    files.log.commit("b", [files.write("b", 0)], Held(ranges((10, 12))))
    assert other.held().holds(("t", 0), np.array([12])).all()  # another worker's commits are seen


def test_a_kill_before_the_commit_leaves_nothing_that_counts(files: Files) -> None:
    files.write("a", 0)
    assert files.data() == []
    assert ArchiveLog(files.root, "job").recover().ranges.of == {}
    assert files.left() == []


@pytest.mark.parametrize("done", [0, 1])
def test_a_kill_between_commit_and_rename_is_finished(files: Files, monkeypatch: pytest.MonkeyPatch, done: int) -> None:
    written = [files.write("a", 0), files.write("a", 1)]
    move, moved = archive_log.move, []

    def killed(source: str, target: str) -> None:
        if len(moved) == done:
            raise KeyboardInterrupt
        moved.append(source)
        move(source, target)

    monkeypatch.setattr(archive_log, "move", killed)
    with pytest.raises(KeyboardInterrupt):
        files.log.commit("a", written, Held(ranges((0, 9))))
    monkeypatch.undo()
    files.write("b", 0)  # of a bundle that never got as far
    held = ArchiveLog(files.root, "job").recover()
    assert files.data() == ["part-a-0.avro", "part-a-1.avro"]
    assert files.left() == []
    assert held.holds(("t", 0), np.arange(11)).tolist() == [True] * 10 + [False]


def test_recovering_folds_the_commits(files: Files) -> None:
    for i in range(5):
        files.log.commit(new_id(), [], Held(ranges((10 * i, 10 * i + 9))))
    ArchiveLog(files.root, "job").recover()
    assert len(list_files(f"{files.log.folder}/commits/*.json")) == 1
    held = ArchiveLog(files.root, "job").recover()
    assert held.ranges.of["t", 0].tolist() == [[0, 49]]


def test_jobs_of_other_names_are_left_alone(files: Files) -> None:
    files.write("a", 0)
    ArchiveLog(files.root, "another").recover()
    assert len(files.left()) == 1


def ids(*numbers: int, until: float | None = None) -> Held:
    found = ExpiringIds()
    found.add(np.array(numbers, np.int64), int(time.time() + 1000 if until is None else until), time.time())
    return Held(ids={("sub", 0): found})


def test_ids_without_an_order_are_held_one_by_one(files: Files) -> None:
    files.log.commit("a", [files.write("a", 0)], ids(5, 900, 70))
    again = ArchiveLog(files.root, "job").recover()
    assert again.holds(("sub", 0), np.array([5, 6, 70, 900])).tolist() == [True, False, True, True]
    assert not again.holds(("other", 0), np.array([5])).any()


def test_acknowledged_ids_are_forgotten_and_the_log_stays_short(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_log, "_FOLD_AT", 10)
    for i in range(35):
        files.log.commit(new_id(), [], ids(i))
        if i != 3:
            files.log.acknowledged(("sub", 0), np.array([i]), time.time() - 1)
    assert len(list_files(f"{files.log.folder}/commits/*.json")) < 10
    held = ArchiveLog(files.root, "job").recover()
    assert held.holds(("sub", 0), np.array([0, 3])).tolist() == [False, True]
    assert len(held.ids["sub", 0]) < 15


def test_a_commit_another_worker_folded_is_found_in_the_fold(files: Files) -> None:
    for i in range(3):
        files.log.commit(f"{i}", [], ids(i))
    other = ArchiveLog(files.root, "job", files.log.owner)
    found = list_files(f"{files.log.folder}/commits/*.json")
    files.log._fold()
    with pytest.MonkeyPatch.context() as patch:
        listed = iter([found])
        patch.setattr(archive_log, "list_files", lambda pattern: next(listed, None) or list_files(pattern))
        assert other.held().holds(("sub", 0), np.arange(3)).all()


def test_an_owner_whose_log_was_taken_over_commits_nothing(files: Files) -> None:
    files.log.commit("a", [files.write("a", 0)], Held(ranges((0, 9))))
    written = files.write("b", 0)
    other = ArchiveLog(files.root, "job")
    other.recover()
    late = files.write("c", 0)  # by one that does not know yet
    for bundle, file in (("b", written), ("c", late)):
        with pytest.raises(FencedError, match="another job has taken this archive over"):
            files.log.commit(bundle, [file], Held(ranges((10, 19))))
    assert files.data() == ["part-a-0.avro"]
    assert files.left() == []
    with pytest.raises(FencedError):
        files.log.held()
    assert not other.held().holds(("t", 0), np.array([10])).any()


def test_of_two_workers_with_the_same_records_one_commits(files: Files) -> None:
    """As where a bundle is tried again while its first worker is only slow."""
    twin = ArchiveLog(files.root, "job", files.log.owner)
    assert twin.held() == files.log.held()
    first, second, other = files.write("a", 0), files.write("b", 0), files.write("c", 0)
    files.log.commit("a", [first], Held(ranges((0, 9))))
    with pytest.raises(UserError, match="another worker has archived some of the same records"):
        twin.commit("b", [second], Held(ranges((5, 14))))
    twin.commit("c", [other], Held(ranges((5, 14), partition=1)))
    assert files.data() == ["part-a-0.avro", "part-c-0.avro"]
    with pytest.raises(UserError, match="the same records"):
        files.log.commit(new_id(), [], ids(7) | Held(ranges((0, 0), partition=1) | ranges((5, 5), partition=1)))


def test_only_the_place_of_the_owner_that_was_seen_is_taken(files: Files) -> None:
    files.log.recover()
    ArchiveLog(files.root, "job").recover(replaces=files.log.owner)
    with pytest.raises(FencedError):
        ArchiveLog(files.root, "job").recover(replaces=files.log.owner)


def test_a_written_file_that_is_gone_is_found_before_the_commit(files: Files) -> None:
    kept, gone = files.write("a", 0), files.write("a", 1)
    Path(gone.temporary).unlink()
    with pytest.raises(UserError, match=r"-a-1.part: a file that was just written is gone"):
        files.log.commit("a", [kept, gone], Held(ranges((0, 9))))
    assert files.log.held().ranges.of == {}
    assert files.data() == []


def test_a_log_that_is_removed_under_its_owner_gets_no_gap(files: Files) -> None:
    for bundle in "ab":
        files.log.commit(bundle, [files.write(bundle, 0)], Held(ranges((0, 9), partition=ord(bundle))))
    shutil.rmtree(files.log.folder)
    with pytest.raises(UserError, match=r"the archive's log was removed while a job writes it.*start it again"):
        files.log.commit("c", [files.write("c", 0)], Held(ranges((10, 19))))
    assert files.data() == ["part-a-0.avro", "part-b-0.avro"]
    again = ArchiveLog(files.root, "job")  # the next start finds a log that it can go on with
    again.recover()
    files.log = again
    again.commit("d", [files.write("d", 0)], Held(ranges((10, 19))))
    assert again.held().holds(("t", 0), np.array([10, 20])).tolist() == [True, False]


def test_the_log_of_a_version_without_owners_is_adopted(files: Files) -> None:
    """Commits that are named by their bundle, one of them killed before its rename; and a file of no commit."""
    waiting, junk = Path(files.log.temporary("old", 0)), Path(files.log.temporary("junk", 0))
    waiting.parent.mkdir(parents=True)
    for path in (waiting, junk):
        path.write_text("rows")
    commits = Path(files.log.folder) / "commits"
    commits.mkdir()
    for i in range(3):
        files_ = [{"from": str(waiting), "to": f"{files.root}/hour=1/part-old.avro", "rows": 5}] if i == 1 else []
        text = json.dumps({"files": files_, "held": [["t", 0, [[10 * i, 10 * i + 9]]]]})
        (commits / f"{new_id()}.json").write_text(text)
    held = ArchiveLog(files.root, "job").recover()
    assert held.ranges.of["t", 0].tolist() == [[0, 29]]
    assert files.data() == ["part-old.avro"]
    assert files.left() == []
    assert [path.name for path in commits.iterdir()] == ["000000000001.json"]


def test_a_file_that_cannot_be_put_in_place_closes_nothing(
    files: Files, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written = [files.write("a", 0), files.write("a", 1)]
    with monkeypatch.context() as patch:
        patch.setattr(archive_log, "move", lambda source, target: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            files.log.commit("a", written, Held(ranges((0, 9))))
    move = archive_log.move

    def refused(source: str, target: str) -> None:
        if source.endswith("-0.part"):
            raise PermissionError(13, "Permission denied", target)
        move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(archive_log, "move", refused)
        for _ in range(2):
            log = ArchiveLog(files.root, "job")
            assert log.recover().holds(("t", 0), np.arange(10)).all()
            log.commit(new_id(), [], Held(ranges((10, 19))) if not _ else Held())
            log._fold()
        assert files.data() == ["part-a-1.avro"]
        assert files.left() == [written[0].temporary]
    assert "1 committed files with 5 rows stay under" in caplog.text
    ArchiveLog(files.root, "job").recover()
    assert files.data() == ["part-a-0.avro", "part-a-1.avro"]


def test_a_name_too_long_of_an_older_version_is_shortened(files: Files) -> None:
    """An archive that one route value had closed for good: every start failed in recovery."""
    written = files.write("a", 0)
    folder = f"fleet={quote('Ж' * 57)}"
    commits = Path(files.log.folder) / "commits"
    commits.mkdir()
    named = {"from": written.temporary, "to": f"{files.root}/{folder}/hour=07/part-a-0.avro", "rows": 5}
    (commits / f"{new_id()}.json").write_text(json.dumps({"files": [named], "held": []}))
    ArchiveLog(files.root, "job").recover()
    (found,) = list_files(f"{files.root}/**.avro")
    assert found == f"{files.root}/{bounded(folder)}/hour=07/part-a-0.avro"


def test_an_entry_that_was_folded_and_removed_is_not_made_anew(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker sleeps between its last look at the log and its commit, until its number is free again."""
    monkeypatch.setattr(archive_log, "_FOLD_AT", 3)
    slow = ArchiveLog(files.root, "job", files.log.owner)
    written = files.write("slow", 0)
    create = archive_log.create

    def held_up(path: str, data: bytes) -> bool:
        monkeypatch.setattr(archive_log, "create", create)
        for i in range(5):
            files.log.commit(new_id(), [], Held(ranges((10 * i, 10 * i + 9), partition=1)))
        return create(path, data)

    monkeypatch.setattr(archive_log, "create", held_up)
    with pytest.raises(UserError, match="went on while a commit was held up"):
        slow.commit("slow", [written], Held(ranges((0, 9))))
    assert files.data() == []
    assert not ArchiveLog(files.root, "job").recover().holds(("t", 0), np.array([0])).any()


def test_what_is_no_entry_is_named(files: Files) -> None:
    files.log.recover()
    (entry,) = list_files(f"{files.log.folder}/commits/*.json")
    Path(entry).write_text('{"held": [')
    with pytest.raises(UserError, match=r"000000000001.json: is no entry of an archive's log"):
        ArchiveLog(files.root, "job").recover()
