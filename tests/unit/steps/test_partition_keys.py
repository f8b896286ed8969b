"""Keys in two partitions are noticed: all while they are few, of many those that came last."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from beam_jobs.steps.partition_keys import PartitionKeys


def blocks(keys: int, rows: int = 4000) -> list[tuple[pa.Array, np.ndarray]]:
    """Each key in the partition that it names."""
    chance = np.random.default_rng(1)
    drawn = [chance.integers(0, keys, rows) for _ in range(5)]
    return [(pa.array([f"k{k}" for k in block.tolist()]), (block % 7).astype(np.int32)) for block in drawn]


@pytest.mark.parametrize(("keys", "watched"), [(50, 1 << 14), (3000, 1 << 14), (3000, 1000)])
def test_keys_that_stay_are_no_trouble(keys: int, watched: int) -> None:
    seen = PartitionKeys(watched)
    assert [seen.elsewhere(*block) for block in blocks(keys)] == [None] * 5


@pytest.mark.parametrize(("keys", "watched"), [(50, 1 << 14), (3000, 1 << 14), (3000, 1000)])
def test_another_partitioner_is_noticed(keys: int, watched: int) -> None:
    seen = PartitionKeys(watched)
    for block in blocks(keys):
        seen.elsewhere(*block)
    names, partitions = blocks(keys)[0]
    assert seen.elsewhere(names, (partitions + 1) % 7) is not None
    mixed = PartitionKeys(watched)
    assert mixed.elsewhere(pa.concat_arrays([names, names]), np.concatenate([partitions, (partitions + 1) % 7]))


def test_one_key_alone_is_noticed_while_keys_are_few() -> None:
    seen = PartitionKeys()
    for block in blocks(3000):
        seen.elsewhere(*block)
    assert seen.elsewhere(pa.array(["new", "k15"]), np.array([3, 4], np.int32)) == (1, 4)


def test_keys_that_have_gone_make_room() -> None:
    seen = PartitionKeys(64)
    for n in range(100):
        assert seen.elsewhere(pa.array([f"session-{n}-{i}" for i in range(64)]), np.zeros(64, np.int32)) is None
    assert seen.elsewhere(pa.array(["session-99-63"]), np.array([1], np.int32)) == (0, 1)
