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
    with pytest.raises(UserError, match=r"--labels: .*; the label fraud is bool"):
        KnownLabels(pa.array(["pay-2-41"]), pa.array(["card_testing"])).on(rows(pa.bool_()), "fraud", "source_")


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


def test_a_folder_without_labels_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no labels there; highbeam feedback writes them"):
        known_labels(str(tmp_path))
    assert SCHEMA.names == ["id", "label", "at"]
