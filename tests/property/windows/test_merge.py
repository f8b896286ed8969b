"""Whoever was faster, however often a part came again: rows have one order, and it is made again from any place."""

from __future__ import annotations

import contextlib
from itertools import pairwise
from random import Random
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest

from beam_jobs.preprocessing.windows.merge import NEVER, Mark, Merge

SOURCES = 3
SCHEMA = pa.schema({"_partition": pa.int32(), "_offset": pa.int64(), "order:": pa.int64()})
Row = tuple[int, int, int]  # partition, offset, clock


class Log(NamedTuple):
    """The second topic: a row or what a mark says, by offset."""

    entries: list[Row | list[list[int]]]

    def take(self, merge: Merge, start: int, end: int) -> list[Row]:
        """Takes a stretch in; what goes."""
        part = list(enumerate(self.entries))[start:end]
        rows = [(at, entry) for at, entry in part if isinstance(entry, tuple)]
        columns = list(zip(*(row for _, row in rows), strict=True)) or [[], [], []]
        block = pa.record_batch([pa.array(c, t) for c, t in zip(columns, SCHEMA.types, strict=True)], schema=SCHEMA)
        marks = [Mark(at, np.array(entry, np.int64)) for at, entry in part if isinstance(entry, list)]
        out = merge.take(block, np.array([at for at, _ in rows], np.int64), marks)
        return list(zip(*(column.to_pylist() for column in out.columns), strict=True))

    def all_of(self, merge: Merge, cuts: list[int]) -> list[Row]:
        places = [0, *sorted(cuts), len(self.entries)]
        return [row for a, b in pairwise(places) for row in self.take(merge, a, b)]


def sources(chance: Random) -> list[list[Row]]:
    """Each partition's rows; between their offsets are some that a WHERE has removed."""
    found = []
    for p in range(SOURCES):
        clock, offset, rows = 0, 0, []
        for _ in range(chance.choice([0, 1, 40])):
            clock, offset = clock + chance.choice([0, 1, 5, 100]), offset + chance.choice([1, 1, 3])
            rows.append((p, offset, clock))
        found.append(rows)
    return found


def written(chance: Random, of: list[list[Row]], idle: bool) -> Log:
    """What a job writes that is killed now and then, each partition by some process: rows, and a mark behind them.

    Args:
      idle: now and then a partition counts as read to its end that is not.
    """
    entries: list[Row | list[list[int]]] = []
    committed = [0] * SOURCES  # rows
    while any(done < len(rows) for done, rows in zip(committed, of, strict=True)):
        entries.append([[p, 0, NEVER, 0] for p in range(SOURCES)])
        at, running = list(committed), True
        while running and any(place < len(rows) for place, rows in zip(at, of, strict=True)):
            p = chance.randrange(SOURCES)
            n = chance.randint(0, 6)
            block = of[p][at[p] : at[p] + n]
            running = chance.random() > 0.05
            entries += block if running else block[: chance.randint(0, len(block))]
            if not running or not block:
                continue
            at[p] += len(block)
            entries.append([[p, block[-1][1] + 1, block[-1][2], int(idle and chance.random() < 0.2)]])
            if chance.random() < 0.7:
                committed[p] = at[p]
        committed = at if running else committed
    entries.append([[p, 0, NEVER, 1] for p in range(SOURCES)])
    return Log(entries)


@pytest.mark.parametrize("seed", range(40))
def test_the_order_is_that_of_the_sources(seed: int) -> None:
    chance = Random(seed)
    rows = sources(chance)
    log = written(chance, rows, idle=False)
    cuts = [chance.randrange(len(log.entries) + 1) for _ in range(chance.randint(0, 30))]
    merge = Merge(SOURCES)
    right = sorted((row for of in rows for row in of), key=lambda row: (row[2], row[0], row[1]))
    assert log.all_of(merge, cuts) == right
    assert merge.rows == 0


@pytest.mark.parametrize("seed", range(40))
def test_made_again_from_before_what_matters_it_goes_on_alike(seed: int) -> None:
    chance = Random(seed)
    rows = sources(chance)
    log = written(chance, rows, idle=True)
    n = len(log.entries)
    cuts = [chance.randrange(n + 1) for _ in range(20)]
    whole = log.all_of(Merge(SOURCES), cuts)
    assert whole == log.all_of(Merge(SOURCES), [])  # however it is cut
    assert sorted(row[:2] for row in whole) == sorted(row[:2] for of in rows for row in of)
    end = chance.randrange(n + 1)
    before = Merge(SOURCES)
    gone = log.take(before, 0, end)
    reach = chance.choice([0, 20, 300])
    begin = next((i for i, e in enumerate(log.entries) if isinstance(e, tuple) and e[2] >= before.limit - reach), end)
    begin = min(begin, end)
    start = next((s for s in range(begin, -1, -1) if told(log, s, begin)), 0)
    again = Merge(SOURCES)
    log.take(again, start, end)
    assert again.rows == before.rows
    assert log.take(again, end, n) == whole[len(gone) :]


@pytest.mark.parametrize("seed", range(20))
def test_another_one_goes_on_with_what_one_has_held(seed: int) -> None:
    chance = Random(seed)
    log = written(chance, sources(chance), idle=True)
    n = len(log.entries)
    for at in (0, chance.randrange(n + 1), chance.randrange(n + 1), n):
        merge, other = Merge(SOURCES), Merge(SOURCES)
        log.take(merge, 0, at)
        other.restore({name: array.copy() for name, array in merge.held().items()}, SCHEMA)
        assert (other.rows, other.limit, other.knows_all) == (merge.rows, merge.limit, merge.knows_all)
        assert log.take(other, at, n) == log.take(merge, at, n)
        with pytest.raises(ValueError, match="not what is known of as many partitions"):
            Merge(SOURCES + 1).restore(merge.held(), SCHEMA)


def test_rows_that_wait_are_looked_at_before_they_are_taken() -> None:
    merge = Merge(SOURCES)
    log = Log([(0, 0, 10), [[0, 1, 10, 0]]])
    log.take(merge, 0, 2)
    held = merge.held()
    with pytest.raises(ValueError, match="have other columns"):
        Merge(SOURCES).restore(held, SCHEMA.append(pa.field("amount", pa.float64())))
    for cut in range(0, len(held["waiting"]), 8):
        broken = {**held, "waiting": held["waiting"][:cut]}
        with contextlib.suppress(ValueError):
            Merge(SOURCES).restore(broken, SCHEMA)
    chance = np.random.default_rng(1)
    for _ in range(300):
        broken = {name: array.copy() for name, array in held.items()}
        broken["waiting"][chance.integers(len(broken["waiting"]))] = chance.choice([0, 1, 127, 255])
        other = Merge(SOURCES)
        with contextlib.suppress(ValueError):
            other.restore(broken, SCHEMA)
            log.take(other, 1, 2)


def told(log: Log, start: int, end: int) -> bool:
    """Whether marks there tell of each partition."""
    merge = Merge(SOURCES)
    log.take(merge, start, end)
    return merge.knows_all
