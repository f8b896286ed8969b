"""Options of the archive job that are refused before a broker is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from beam_jobs.archives.layout import Layout, keep_layout
from beam_jobs.errors import UserError
from beam_jobs.preflight.archive import archive_job
from beam_jobs.terminal import options
from beam_jobs.terminal.commands import JOBS


def refused(folder: Path, *more: str) -> str:
    nowhere = "kafka://127.0.0.1:1"
    given = ["--use_case", "car_sensors", "--input", f"{nowhere}/events", "--dead_letters", f"{nowhere}/dead"]
    parsed = options.parse(JOBS["archive"].parser(), [*given, "--output", str(folder / "archive"), *more])
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError) as error:
        archive_job(parsed)
    assert "\n" not in str(error.value)
    assert sorted(folder.rglob("*")) == before
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "more", "message"),
    [
        ("car_id,fleet\na,x\na,y\n", [], "--enrich: {file}: car_id 'a' is there 2 times (1 such keys)"),
        ("car_id,speed\na,1\n", [], "the lookup table has a column 'speed'"),
        ("car_id,Highbeam_Date\na,1\n", [], "a column is called 'Highbeam_Date', as the archive's folders are"),
        ("car_id,Fleet,fleet\na,x,y\n", [], "'Fleet' and 'fleet' differ in upper and lower case only"),
        ("car_id,driver_name\na,Ann\n", [], "personal data in the events (pii: direct)"),
        ("car_id,fleet\na,x\n", ["--enrich_on", "sped"], "--enrich_on sped: no column of the archive"),
        ("speed,fleet\n1,x\n", ["--enrich_on", "speed"], "speed is a float; rows are looked up by a text"),
        ("car_id,fleet\na,x\n", ["--enrich_every", "0"], "--enrich_every 0: expected more than 0"),
        (
            "car_id,fleet\na,x\n",
            ["--route_by", "flet"],
            "no text column of the archive; there are source_topic, car_id, ",
        ),
        (None, [], "--enrich {file}: no such file; name a .csv"),
    ],
)
def test_a_lookup_table_that_does_not_fit(tmp_path: Path, text: str | None, more: list[str], message: str) -> None:
    file = tmp_path / "cars.csv"
    if text is not None:
        file.write_text(text)
    assert message.format(file=file) in refused(tmp_path, "--enrich", str(file), *more)


@pytest.mark.parametrize("share", ["-0.1", "nan"])
def test_a_share_is_between_0_and_1(tmp_path: Path, share: str) -> None:
    assert (
        refused(tmp_path, "--max_dead_letter_rate", share) == f"--max_dead_letter_rate {share}: a share between 0 and 1"
    )


def test_a_layout_that_the_archive_has_not(tmp_path: Path) -> None:
    keep_layout(str(tmp_path / "archive"), Layout("day", "vin"))
    assert "has a folder for each day of event time" in refused(tmp_path, "--partition_by", "hour")
    assert "--route_by car_id: the archive in " in refused(tmp_path, "--route_by", "car_id")
    assert "--route_by vin: no text column of the archive" in refused(tmp_path)  # personal, and of no archive of ours


def test_options_that_do_not_fit(tmp_path: Path) -> None:
    assert "--compression zstd: avro files have one of deflate, none" in refused(tmp_path, "--compression", "zstd")
    parquet = ["--file_format", "parquet", "--compression", "deflate"]
    assert "parquet files have one of zstd, snappy, none" in refused(tmp_path, *parquet)
    assert "name the lookup table with --enrich" in refused(tmp_path, "--enrich_on", "car_id")
    assert "--enrich: 's3://b/cars.csv': expected gs://" in refused(tmp_path, "--enrich", "s3://b/cars.csv")
