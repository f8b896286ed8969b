"""What is stored is what was answered: after any history, a restart changes nothing."""

from __future__ import annotations

import json
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.compatibility import LEVELS
from schemas.registry.store import LOG_NAME, RegistryError, SchemaStore

SUBJECTS = st.sampled_from(["a", "b/../c"])
TEXTS = st.sampled_from(
    [
        json.dumps({"type": "record", "name": "R", "fields": [{"name": n, "type": "int"} | d for n, d in fields]})
        for fields in (
            [],
            [("x", {})],
            [("x", {}), ("y", {})],
            [("x", {}), ("y", {"default": 1})],
        )
    ]
    + ['"string"', "not a schema"]
)
OPERATIONS = st.one_of(
    st.tuples(st.just("register"), SUBJECTS, TEXTS),
    st.tuples(st.just("set_level"), st.none() | SUBJECTS, st.none() | st.sampled_from(LEVELS)),
    st.tuples(st.just("delete_subject"), SUBJECTS, st.booleans()),
    st.tuples(st.just("delete_version"), SUBJECTS, st.none() | st.integers(1, 3), st.booleans()),
)


def state(store: SchemaStore) -> Any:
    versions = list(store.all_versions(deleted=True))
    return (
        versions,
        [store.schema_text(version.id) for version in versions],
        [store.level(subject) for subject in (None, "a", "b/../c")],
        store.max_id(),
    )


@given(st.lists(OPERATIONS, max_size=30))
def test_a_restart_changes_nothing(operations: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = SchemaStore(Path(folder))
        for name, *arguments in operations:
            before = state(store)
            try:
                getattr(store, name)(*arguments)
            except RegistryError:
                assert state(store) == before
        after = state(store)
        store.close()
        again = SchemaStore(Path(folder))
        assert state(again) == after
        again.close()


@given(st.integers(0, 600))
def test_any_cut_of_the_log_loses_only_its_end(cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = SchemaStore(Path(folder))
        for number in range(4):
            store.register(f"s{number}", json.dumps({"type": "fixed", "name": "F", "size": number + 1}))
        store.close()
        log = Path(folder, LOG_NAME)
        whole = log.read_bytes()
        log.write_bytes(whole[:cut])
        again = SchemaStore(Path(folder))
        lines = whole[:cut].count(b"\n")
        assert again.subjects() == [f"s{number}" for number in range(lines)]
        assert again.register("next", '"int"') == lines + 1
        again.close()
        assert log.read_bytes().startswith(b"".join(whole.splitlines(keepends=True)[:lines]))


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    class Full:
        """A log on a disk that takes half of a line."""

        def __init__(self, log: Any) -> None:
            self.log = log

        def __getattr__(self, name: str) -> Any:
            return getattr(self.log, name)

        def write(self, line: bytes) -> int:
            return int(self.log.write(line[: len(line) // 2]))

    store = SchemaStore(tmp_path)
    store.register("s", '"int"')
    whole = store._log
    store._log = Full(whole)  # type: ignore[assignment]
    with pytest.raises(RegistryError) as caught:
        store.register("s2", '"string"')
    assert (caught.value.status, caught.value.code) == (500, 50001)
    assert store.subjects() == ["s"]
    store._log = whole
    store.register("s3", '"string"')
    store.close()
    again = SchemaStore(tmp_path)
    assert again.subjects() == ["s", "s3"]
    again.close()


def test_a_default_in_unions_of_unions_is_looked_at_once(tmp_path: Path) -> None:
    """Ten records a level, all with the field of the default, 14 levels deep: 10**14 ways down."""
    inner: Any = ["boolean"]
    value: Any = 5
    for level in range(14):
        fields = [{"name": "x", "type": inner}]
        records = [{"type": "record", "name": f"A{level}_{i}", "fields": fields} for i in range(10)]
        names = [branch["name"] if isinstance(branch, dict) else branch for branch in inner]
        for record in records[1:]:
            record["fields"] = [{"name": "x", "type": names}]
        inner, value = records, {"x": value}
    schema = {"type": "record", "name": "R", "fields": [{"name": "z", "type": inner, "default": value}]}
    with closing(SchemaStore(tmp_path)) as store, pytest.raises(RegistryError, match="which is no union"):
        store.register("s", json.dumps(schema))
