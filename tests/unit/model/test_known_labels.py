"""Labels that came later: written, read again, and on the rows of an archive."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_jobs import feedback
from beam_jobs.errors import UserError
from beam_jobs.steps.alerting.verdicts import Verdict
from model.known_labels import SCHEMA, KnownLabels, known_labels, read_labels


def rows(label: pa.DataType) -> pa.RecordBatch:
    return pa.record_batch(
        {
            "source_topic": pa.array(["pay"] * 3).dictionary_encode(),
            "source_partition": pa.array([2, 2, 0], pa.int32()),
            "source_offset": pa.array([41, 42, 1], pa.int64()),
            "fraud": pa.array(["false", None, "true"]).cast(label),
        }
    )


@pytest.mark.parametrize("kind", [pa.bool_(), pa.string()])
def test_labels_that_came_later_count_in_place_of_those_of_the_archive(kind: pa.DataType) -> None:
    later = KnownLabels(pa.array(["pay-2-41", "pay-2-42", "other-0-1"]), pa.array(["true", "false", "false"]))
    found = later.on(rows(kind), "fraud", "source_")
    assert found.column("fraud").cast(pa.string()).to_pylist() == ["true", "false", "true"]
    none = KnownLabels(pa.array(["other-0-1"]), pa.array(["false"]))
    assert none.on(rows(kind), "fraud", "source_").equals(rows(kind))
    assert (later.met, none.met) == (2, 0)


@pytest.mark.parametrize(("kind", "value"), [(pa.bool_(), "card_testing"), (pa.int64(), "true"), (pa.int64(), "1.5")])
def test_a_label_of_another_type_is_named(tmp_path: Path, kind: pa.DataType, value: str) -> None:
    feedback._write([Verdict("pay-2-42", value, 1), Verdict("other-0-1", "true", 1)], str(tmp_path))
    (file,) = tmp_path.iterdir()
    labelled = rows(pa.bool_()).set_column(3, "fraud", pa.array([0, None, 1], pa.int64()).cast(kind))
    with pytest.raises(UserError) as found:
        known_labels(str(tmp_path)).on(labelled, "fraud", "source_")
    text = f"--labels {file}: the label of pay-2-42 is '{value}', and fraud is {kind}; remove the file"
    assert str(found.value).startswith(text)


def test_what_is_written_is_read_again_and_the_newest_of_an_id_counts(tmp_path: Path) -> None:
    assert read_labels(str(tmp_path)).num_rows == 0
    feedback._write([Verdict("pay-2-41", "false", 9), Verdict("pay-2-42", "true", 1)], str(tmp_path))
    feedback._write([Verdict("pay-2-41", "true", 5)], str(tmp_path))
    found = known_labels(str(tmp_path))
    assert dict(zip(found.ids.to_pylist(), found.labels.to_pylist(), strict=True)) == {
        "pay-2-41": "false",
        "pay-2-42": "true",
    }
    (tmp_path / "other.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"other.parquet: no labels of highbeam feedback"):
        known_labels(str(tmp_path))
    pq.write_table(pa.table({"id": ["x"]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match="no labels of"):
        known_labels(str(tmp_path))


def last(folder: Path) -> str:
    (label,) = known_labels(str(folder)).labels.to_pylist()
    return str(label)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize(
    ("one", "two"),
    [
        (("x-0-1", "late", 9, 0, 0), ("x-0-1", "early", 5, 3, 8)),
        (("x-0-1", "late", 5, 1, 0), ("x-0-1", "early", 5, 0, 8)),
        (("x-0-1", "late", 5, 1, 9), ("x-0-1", "early", 5, 1, 8)),
    ],
)
def test_files_and_topics_have_one_rule_of_what_was_said_last(
    tmp_path: Path, order: tuple[int, int], one: tuple[str, str, int, int, int], two: tuple[str, str, int, int, int]
) -> None:
    for number in order:
        feedback._write([Verdict(*(one, two)[number])], str(tmp_path))
    assert last(tmp_path) == "late"
    known = feedback._known(str(tmp_path))
    assert not feedback._is_new(Verdict(*two), known["x-0-1"])  # nor at any later run
    assert not feedback._is_new(Verdict(*one), known["x-0-1"])
    assert feedback._is_new(Verdict("x-0-1", "changed", 9, 3, 9), known["x-0-1"])
    assert not feedback._is_new(Verdict("x-0-1", "late", 9, 3, 9), known["x-0-1"])


def test_files_of_three_columns_are_read_as_well(tmp_path: Path) -> None:
    three = pa.table({"id": ["x-0-1"], "label": ["own"], "at": pa.array([5], pa.timestamp("ms", "UTC"))})
    pq.write_table(three, tmp_path / "own.parquet")
    assert last(tmp_path) == "own"
    feedback._write([Verdict("x-0-1", "said", 5, 0, 0)], str(tmp_path))
    assert last(tmp_path) == "said"
    pq.write_table(
        pa.table({**dict(zip(three.schema.names, three.columns, strict=True)), "id": pa.nulls(1, pa.string())}),
        tmp_path / "own.parquet",
    )
    with pytest.raises(UserError, match=r"own.parquet: no labels of highbeam feedback .*'id' with null values"):
        read_labels(str(tmp_path))


def test_a_folder_without_labels_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no labels there; highbeam feedback writes them"):
        known_labels(str(tmp_path))
    assert SCHEMA.names == ["id", "label", "at", "partition", "offset"]
