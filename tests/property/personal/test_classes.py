"""What a privacy report counts, against counting by hand."""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_jobs.privacy.classes import Classes, Found

SCHEMA = pa.schema(
    {"at": pa.timestamp("ms"), "zip": pa.string(), "latitude": pa.float32(), "age": pa.int64(), "who": pa.string()}
)
QUASI = ("at", "zip", "latitude", "age")
START = datetime(2026, 1, 31, 23)
ROWS = st.lists(
    st.tuples(
        st.integers(0, 60 * 24 * 40).map(lambda minutes: START + timedelta(minutes=minutes)),
        st.sampled_from(["80331", "80333", "10115", None]),
        st.sampled_from([48.29, 48.13, 52.5, None]),
        st.sampled_from([31, 32, 57, None]),
        st.sampled_from(["a", "b", "c", "d", None]),
    ),
    min_size=1,
    max_size=30,
)


@contextmanager
def classes(rows: list[tuple[Any, ...]], person: str | None, wanted: int) -> Iterator[Classes]:
    columns = [pa.array(column, type_) for column, type_ in zip(zip(*rows, strict=True), SCHEMA.types, strict=True)]
    batch = pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
    with tempfile.TemporaryDirectory() as folder:
        halves = [batch.slice(0, len(rows) // 2), batch.slice(len(rows) // 2)]
        made = Classes(SCHEMA, halves, QUASI, person, wanted, Path(folder), 200)
        try:
            yield made
        finally:
            made.close()


def by_hand(keys: list[Any], persons: list[Any], wanted: int) -> Found:
    of, rows = defaultdict(set), Counter(keys)
    for i, (key, person) in enumerate(zip(keys, persons, strict=True)):
        of[key].add(i if person is Ellipsis else person)
    sizes = {key: len(found) for key, found in of.items()}
    below = sum(rows[key] for key, n in sizes.items() if n < wanted)
    return Found(min(sizes.values()), len(sizes), sum(rows[key] for key, n in sizes.items() if n == 1), below)


@settings(max_examples=6)
@given(ROWS, st.booleans(), st.integers(2, 5))
def test_k_is_that_of_the_smallest_class(rows: list[tuple[Any, ...]], by_person: bool, wanted: int) -> None:
    persons = [row[4] if by_person else ... for row in rows]
    with classes(rows, "who" if by_person else None, wanted) as made:
        assert made.rows == len(rows)
        assert made.persons == (len(set(persons)) if by_person else len(rows))
        whole = dict.fromkeys(QUASI, 0)
        assert made.at(whole) == by_hand([row[:4] for row in rows], persons, wanted)
        assert made.alone("zip") == by_hand([row[1] for row in rows], persons, wanted)
        assert made.without("at") == by_hand([row[1:4] for row in rows], persons, wanted)
        sizes = made.sizes(whole)
        assert sum(size.rows for size in sizes) == len(rows)
        assert sum(size.classes for size in sizes) == len({row[:4] for row in rows})
        levels = made.generalized(lambda found: None)
        if levels is None:
            assert made.persons < wanted
            return
        assert made.at(levels).k >= wanted
        for name, level in levels.items():  # nothing is coarser than it has to be
            assert level == 0 or made.at({**levels, name: level - 1}).k < wanted


def test_the_steps_of_a_column() -> None:
    rows = [
        (datetime(2026, 1, 31, 23, 59, 30), "80331", 48.29, 31, "a"),
        (datetime(2026, 1, 31, 23, 58, 30), "80333", 48.21, 32, "b"),
        (datetime(2026, 2, 1, 0, 0, 0), "10115", 52.5, 57, "c"),
        (datetime(2027, 2, 1, 0, 0, 0), "10115", 52.5, 57, "d"),
    ]
    with classes(rows, None, 2) as made:
        says = {name: [level.says for level in ladder] for name, ladder in made.ladders.items()}
        assert says == {
            "at": ["as it is", "to the hour", "to the year", "left out"],
            "zip": ["as it is", "the first 3 characters", "left out"],
            "latitude": ["as it is", "to 1 decimal", "to 100s", "left out"],
            "age": ["as it is", "to 10s", "to 100s", "left out"],
        }
        assert made.ladders["latitude"][1].sql == "truncate(COLUMN, 1)"
        levels = made.generalized(lambda found: None)
        assert levels == {"at": 3, "zip": 1, "latitude": 1, "age": 1}
