"""Rows on disk: shuffled by seed, whole cars held out, nothing lost, in memory that does not grow with them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from beam_jobs.errors import UserError
from model import rows as model_rows
from model.kinds.autoencoder.scaling import Scaling
from model.outliers.sentinels import find
from model.rows import Part, StoredRows, slices, take_first
from model.training import spool as module
from model.training.spool import Examples, Parts, Spool, kth_largest

FEATURES = 3


def examples(start: int, n: int, cars: int = 50) -> Examples:
    """Rows that carry their number as first feature; each car fails in its last tenth, of one of three kinds."""
    number = np.arange(start, start + n)
    x = np.stack([number, number % 7, np.ones(n)], axis=1).astype(np.float32)
    car = number % cars
    kinds = np.where(number % 100 >= 90, np.array(["tire", "firmware", "drive_shaft"])[car % 3], "")
    return Examples(x, pa.array([f"car-{i}" for i in car]), 1000 + number, pa.array(kinds))


def spooled(folder: Path, seed: int = 1, n: int = 5000, block: int = 700, cars: int = 50) -> Spool:
    folder.mkdir()
    spool = Spool(folder, FEATURES, seed)
    for start in range(0, n, block):
        spool.add(examples(start, min(block, n - start), cars))
    return spool


def numbers(part: Part) -> np.ndarray:
    return part.x[:][:, 0].astype(int)


@pytest.fixture(params=["in memory", "in buckets"])
def stored(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "in buckets":
        monkeypatch.setattr(module, "HELD_ROWS", 1000)


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize("by", ["key", "time"])
def test_each_row_is_in_one_part(tmp_path: Path, by: str) -> None:
    spool = spooled(tmp_path / "a")
    parts = spool.divide(0.2, by)
    train, validation, test = (numbers(part) for part in (parts.train, parts.validation, parts.test))
    used = np.concatenate([train, validation, test])
    assert len(np.unique(used)) == len(used)
    left_out = np.setdiff1d(np.arange(5000), used)
    assert (left_out % 100 >= 90).all()  # failures that are not judged by
    assert (np.concatenate([train, validation]) % 100 < 90).all()
    np.testing.assert_array_equal(parts.failed, test % 100 >= 90)
    assert (spool.count, spool.failures, spool.first_ms, spool.last_ms) == (5000, 500, 1000, 5999)
    kinds = np.where(parts.failed, np.array(["tire", "firmware", "drive_shaft"])[test % 50 % 3], "")
    assert parts.kinds.to_pylist() == kinds.tolist()
    for part, number in zip((parts.train, parts.validation, parts.test), (train, validation, test), strict=True):
        np.testing.assert_array_equal(part.times, 1000 + number)
        assert len(np.unique(part.keys)) == len(np.unique(number % 50))
        assert len(set(zip(part.keys.tolist(), (number % 50).tolist(), strict=True))) == len(np.unique(number % 50))
    assert not [path for path in spool.folder.iterdir() if path.name.startswith("bucket")]


@pytest.mark.parametrize("rows", [0, 1])
def test_parts_may_be_empty(tmp_path: Path, rows: int) -> None:
    parts = spooled(tmp_path / "a", n=rows, cars=1).divide(0.2, "time")
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (0, 0, rows)
    for part in (parts.train, parts.validation, parts.test):
        assert (len(part), part.x[:].shape) == (len(part.keys), (len(part.times), FEATURES))
    assert (len(parts.failed), len(parts.kinds)) == (rows, rows)


@pytest.mark.usefixtures("stored")
def test_the_order_depends_on_seed_and_rows_alone(tmp_path: Path) -> None:
    def order(name: str, seed: int) -> list[list[int]]:
        parts = spooled(tmp_path / name, seed).divide(0.2)
        return [numbers(part).tolist() for part in (parts.train, parts.validation, parts.test)]

    first, again, other = order("a", 1), order("b", 1), order("c", 2)
    assert first == again
    assert first != other
    ups = np.mean(np.diff(first[0]) > 0)
    assert 0.4 < ups < 0.6  # no trace of the order they came in
    assert abs(np.corrcoef(first[0], np.arange(len(first[0])))[0, 1]) < 0.1


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize("by", ["key", "time"])
def test_unsound_rows_are_in_no_part_unless_they_are_labelled_as_failures(tmp_path: Path, by: str) -> None:
    spool = spooled(tmp_path / "a")
    every_third = [numbers(part) for part in parts_of(spooled(tmp_path / "b").divide(0.2, by))]
    kept = [numbers(part) for part in parts_of(spool.divide(0.2, by, sound=lambda x: x[:, 0] % 3 != 0))]
    for some, all_ in zip(kept, every_third, strict=True):
        np.testing.assert_array_equal(some, all_[(all_ % 3 != 0) | (all_ % 100 >= 90)])


@pytest.mark.usefixtures("stored")
def test_unlabelled_rows_can_be_seen_before(tmp_path: Path) -> None:
    spool = spooled(tmp_path / "a")
    for _ in range(2):
        seen = np.sort(np.concatenate([x[:, 0] for x in spool.unlabelled()]))
        np.testing.assert_array_equal(seen, [i for i in range(5000) if i % 100 < 90])
    assert sum(map(len, parts_of(spool.divide(0.2)))) > 4500


def parts_of(parts: Parts) -> list[Part]:
    return [parts.train, parts.validation, parts.test]


def by_key(parts: Parts) -> list[set[int]]:
    return [set((numbers(part) % 50).tolist()) for part in (parts.train, parts.validation, parts.test)]


@pytest.mark.usefixtures("stored")
def test_a_car_is_wholly_in_one_part_and_more_data_moves_none(tmp_path: Path) -> None:
    parts = spooled(tmp_path / "a").divide(0.2)
    sides = by_key(parts)
    assert parts.by == "key"
    assert sum(len(side) for side in sides) == len(set.union(*sides)) == 50
    assert by_key(spooled(tmp_path / "b", n=1500, block=100).divide(0.2)) == sides
    assert by_key(spooled(tmp_path / "c", seed=2).divide(0.2)) != sides


@pytest.mark.usefixtures("stored")
def test_a_split_by_time_holds_out_the_newest(tmp_path: Path) -> None:
    parts = spooled(tmp_path / "a").divide(0.25, "time")
    assert sorted(numbers(parts.test)) == list(range(3750, 5000))
    assert numbers(parts.validation).min() == 2500
    assert numbers(parts.train).max() < 2500


def test_few_cars_are_split_by_time(tmp_path: Path) -> None:
    assert spooled(tmp_path / "a", cars=module.MIN_KEYS - 1).divide(0.2).by == "time"
    assert spooled(tmp_path / "b", cars=module.MIN_KEYS).divide(0.2).by == "key"


def test_held_out_rows_are_a_sample_where_they_are_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELD_ROWS", 1000)
    monkeypatch.setattr(module, "HELD_OUT_ROWS", 300)
    parts = spooled(tmp_path / "a").divide(0.2)
    assert (len(parts.validation), len(parts.test), len(parts.failed), len(parts.kinds)) == (300, 300, 300, 300)
    assert numbers(parts.test).min() < 1000
    assert numbers(parts.test).max() > 4000


def test_a_label_that_says_no_kind_is_refused(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1, 0)
    kinds = pa.array([f"at {i}" for i in range(module.MAX_KINDS)])
    n = len(kinds)
    with pytest.raises(UserError, match="more than 1000 values"):
        spool.add(Examples(np.zeros((n, 1), np.float32), kinds, np.zeros(n, np.int64), kinds))


def test_slices_are_read_when_they_are_taken(tmp_path: Path) -> None:
    values = np.arange(30, dtype=np.float32).reshape(10, 3)
    values.tofile(tmp_path / "rows")
    rows = StoredRows(tmp_path / "rows", 3)
    assert len(rows) == 10
    np.testing.assert_array_equal(rows[2:5], values[2:5])
    np.testing.assert_array_equal(rows[8:99], values[8:])
    assert rows[10:].shape == (0, 3)
    np.testing.assert_array_equal(np.concatenate(list(slices(rows, 4))), values)


def test_memory_does_not_grow_with_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELD_ROWS", 20_000)
    monkeypatch.setattr(module, "HELD_OUT_ROWS", 20_000)
    monkeypatch.setattr(model_rows, "CHUNK_ROWS", 10_000)
    n, block = 400_000, 5000
    keys, kinds = pa.array([f"car-{i % 100}" for i in range(block)]), pa.array([""] * block)
    x = np.random.default_rng(0).random((block, 19), np.float32)
    tracemalloc.start()
    try:
        spool = Spool(tmp_path, 19, 1)
        for start in range(0, n, block):
            spool.add(Examples(x, keys, np.arange(start, start + block), kinds))
        assert find(spool.unlabelled(), [str(i) for i in range(19)]) == []
        parts = spool.divide(0.2, "time", sound=lambda x: x[:, 0] < 2)
        Scaling.fit(take_first(parts.train.x, np.ones(len(parts.train), np.bool_), 10_000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (len(parts.train), len(parts.test)) == (240_000, 20_000)
    assert peak < 12e6 < 0.4 * n * 19 * 4


@pytest.mark.parametrize("spread", [10, 1 << 40])
def test_the_kth_largest_of_many(spread: int) -> None:
    values = np.random.default_rng(3).integers(-spread, spread, 5000)
    ordered = np.sort(values)[::-1]

    def chunks() -> Iterator[np.ndarray]:
        return iter(np.array_split(values, 7))

    for k in (1, 2, 100, 2500, 5000):
        assert kth_largest(chunks, k, int(values.min()), int(values.max())) == ordered[k - 1]


@pytest.mark.usefixtures("stored")
def test_a_kind_that_learns_from_labels_gets_failures_in_every_part(tmp_path: Path) -> None:
    plain, labelled = (
        spooled(tmp_path / name).divide(0.2, labels=labels) for name, labels in (("a", False), ("b", True))
    )
    for part in (labelled.train, labelled.validation, labelled.test):
        assert part.failed is not None
        np.testing.assert_array_equal(part.failed, numbers(part) % 100 >= 90)
        np.testing.assert_array_equal(part.sound, ~part.failed)
    for without, part in ((plain.train, labelled.train), (plain.validation, labelled.validation)):
        assert without.failed is None
        assert without.sound.all()
        sound = part.without_failures()
        assert sorted(numbers(sound)) == sorted(numbers(without))
        for start, stop in ((0, 10), (3, 3), (5, 200), (len(sound) - 2, len(sound) + 9)):
            np.testing.assert_array_equal(sound.x[start:stop], sound.x[:][start:stop])
        np.testing.assert_array_equal(sound.times, 1000 + numbers(sound))
    np.testing.assert_array_equal(numbers(plain.test), numbers(labelled.test))
