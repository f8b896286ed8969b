"""A file becomes a use case that its own rows pass; what is guessed is said, and what will not do leaves nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fastavro
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import schemas
from beam_jobs import init, preview
from beam_jobs.codec.csv.dialect import Dialect
from beam_jobs.errors import UserError
from beam_jobs.use_case import UseCase, load_use_case
from schemas.registry.server import RegistryServer

READINGS = """\
pump,at,flow,Temp (°C),order,open,note,mail
b,2026-11-22T07:00:02Z,1.5,20,1,true,fine,ann@example.org
a,2026-11-22T07:00:00.250Z,2.5,,2,false,,bob@example.org
a,2026-11-22T07:00:01Z,3.5,22,3,true,odd,ann@example.org
b,2026-11-22T07:00:03Z,4.5,23,9,true,odd,ann@example.org
"""


def made(tmp_path: Path, text: str, *words: str, name: str = "readings.csv") -> UseCase:
    """The use case that a file of this text becomes."""
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert init.main([str(tmp_path / name), "--output", str(tmp_path / "pumps"), *words]) == 0
    return load_use_case(str(tmp_path / "pumps"))


def passes(tmp_path: Path, name: str = "readings.csv") -> bool:
    return preview.main(["--use_case", str(tmp_path / "pumps"), "--input", str(tmp_path / name)]) == 0


def fields(use_case: UseCase) -> dict[str, Any]:
    return {field["name"]: field for field in use_case.schema["fields"]}


def test_a_use_case_that_its_rows_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    use_case = made(tmp_path, READINGS)
    assert (use_case.name, use_case.key, use_case.event_time, use_case.label) == ("pumps", "pump", "at", None)
    assert use_case.preprocessor().features == ("flow", "order")
    assert fields(use_case)["Temp_C"] == {
        "name": "Temp_C",
        "type": ["null", "long"],
        "default": None,
        "doc": "Column 'Temp (°C)'.",
    }
    mail = fields(use_case)["mail"]  # may be NULL, for an archive of events can be replayed without it
    assert mail == {"name": "mail", "type": ["null", "string"], "default": None, "pii": "direct"}
    said = capsys.readouterr().out
    assert "key         pump: guessed, 2 values" in said
    assert "event time  at: guessed" in said
    assert "personal    mail: tagged in the schema" in said
    assert "highbeam preview --use_case" in said
    sql = (tmp_path / "pumps/preprocess.sql").read_text()
    assert "-- , Temp_C  -- empty in 1 of 4 rows" in sql
    assert "-- , open  -- a feature should have more than two values" in sql
    assert "-- , note  -- a text" in sql
    assert "mail" not in sql
    assert passes(tmp_path)


def test_what_is_offered_can_be_taken(tmp_path: Path) -> None:
    """Lines of the SQL that are comments are right once they are none."""
    made(tmp_path, READINGS)
    sql = tmp_path / "pumps/preprocess.sql"
    sql.write_text(sql.read_text().replace("  -- , ", "  , "))
    assert load_use_case(str(tmp_path / "pumps")).preprocessor().attributes == ("note",)


def test_rows_without_a_value_are_filtered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "on,at,x\n" + "".join(f"{'ab'[n % 2]},{1795330800 + n},{'' if n == 7 else n * n}\n" for n in range(20))
    made(tmp_path, text)
    assert "WHERE x IS NOT NULL  -- empty in 1 rows" in (tmp_path / "pumps/preprocess.sql").read_text()
    assert passes(tmp_path)
    assert "passed      19, 1 filtered by the WHERE\nrefused     0\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("first", "words"),
    [
        ("2026-11-22 07:00:00", []),
        ("2026-11-22T08:00:00+01:00", []),
        ("2026/11/22 07:00", []),
        ("1795330800", []),
        ("1795330800000", []),
        ("1795330800000000", []),
        ("1795330800.0", []),
        ("22.11.2026 07:00", ["--event_time", "at", "--time_format", "%d.%m.%Y %H:%M"]),
    ],
)
def test_times_are_read(tmp_path: Path, first: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path, "at,flow\n" + "".join(f"{first},{flow}\n" for flow in (1, 2, 4)), *words)
    assert passes(tmp_path)
    assert "2026-11-22T07:00:00.000Z to 2026-11-22T07:00:00.000Z" in capsys.readouterr().out


def test_how_the_file_is_written_is_kept(tmp_path: Path) -> None:
    text = "pump;when;flow\n" + "".join(f"p{n % 3};{1795330800 + n};{n},5\n" for n in range(9))
    use_case = made(tmp_path, text)
    assert use_case.csv == Dialect(";", ",", "seconds")
    assert (use_case.key, use_case.event_time) == ("pump", "when")
    assert passes(tmp_path)


def test_without_a_key_all_rows_are_of_one_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    use_case = made(tmp_path, "at,flow\n1795330800,1\n1795330801,2\n1795330802,4\n")
    assert use_case.key == "device"
    assert "all rows are of one" in capsys.readouterr().out
    assert passes(tmp_path)
    assert "; 1 keys, " in capsys.readouterr().out


def test_columns_that_are_named_win(tmp_path: Path) -> None:
    use_case = made(tmp_path, READINGS, "--key", "note", "--event_time", "at", "--label", "open", "--overwrite")
    assert (use_case.key, use_case.label) == ("note", "open")
    again = made(tmp_path, READINGS, "--key", "none", "--overwrite")
    assert (again.key, again.label) == ("device", None)


def test_a_label_is_found_and_is_no_feature(tmp_path: Path) -> None:
    text = "on,at,x,is_fraud,v\n" + "".join(
        f"p{n % 2},{1795330800 + n},{n * n},{n % 2},{3 * n * n}\n" for n in range(8)
    )
    assert (made(tmp_path, text).label, made(tmp_path, text, "--label", "none", "--overwrite").label) == (
        "is_fraud",
        None,
    )
    assert made(tmp_path, text, "--overwrite").preprocessor().features == ("x", "v")


def test_a_personal_key_becomes_a_pseudonym(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGHBEAM_PII_KEY", "k" * 40)
    made(tmp_path, READINGS, "--key", "mail")
    assert "pseudonymize(mail) AS mail" in (tmp_path / "pumps/preprocess.sql").read_text()
    assert passes(tmp_path)


def test_a_count_of_the_rows_is_no_feature(tmp_path: Path) -> None:
    made(tmp_path, "n,at,x\n" + "".join(f"{n},{1795330800 + n},{n * n}\n" for n in range(6)))
    assert "-- , n  -- counts the rows" in (tmp_path / "pumps/preprocess.sql").read_text()


def test_a_part_of_the_date_is_no_feature(tmp_path: Path) -> None:
    """A model that has seen January finds February strange: of real weather, half the rows."""
    text = "at,month,x\n" + "".join(f"2026-{n // 2 + 1:02}-01,{n // 2 + 1},{n * n}\n" for n in range(9))
    assert made(tmp_path, text).preprocessor().features == ("x",)
    assert "-- , month  -- a part of the date" in (tmp_path / "pumps/preprocess.sql").read_text()


def test_a_few_wrong_cells_make_no_text_of_a_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "at,x\n" + "".join(f"{1795330800 + n},{'?' if n == 50 else n * n}\n" for n in range(200))
    assert fields(made(tmp_path, text))["x"]["type"] == ["null", "long"]
    assert "wrong       x: 1 cells are not like the others" in capsys.readouterr().out
    assert passes(tmp_path)
    assert "1 decode, wrong_type: row 51: field 'x' is '?', expected long" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "avro"])
def test_other_files(tmp_path: Path, kind: str) -> None:
    frame = pl.DataFrame(
        {
            "machine": [f"m{n % 3}" for n in range(12)],
            "at": [1795330800000 + n for n in range(12)],
            "x": [n * n / 2 for n in range(12)],
        }
    )
    file = tmp_path / f"readings.{kind}"
    if kind == "avro":
        frame.write_avro(file, name="readings")
    else:
        {"jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[kind](file)
    assert init.main([str(file), "--output", str(tmp_path / "pumps")]) == 0
    use_case = load_use_case(str(tmp_path / "pumps"))
    assert (use_case.key, use_case.event_time) == ("machine", "at")
    assert use_case.preprocessor().features == ("x",)
    assert passes(tmp_path, file.name)


@pytest.mark.parametrize("coded", ["machine", "mode", "grade"])
def test_categories_of_parquet_are_what_they_stand_for(tmp_path: Path, coded: str) -> None:
    """pandas and polars write few texts, or numbers, as an index and a dictionary."""
    columns = {
        "machine": pa.array([f"m{n % 3}" for n in range(12)]),
        "at": pa.array([1795330800000 + n for n in range(12)]),
        "mode": pa.array(["run" if n % 2 else None for n in range(12)]),
        "grade": pa.array([n % 5 for n in range(12)]),
    }
    columns[coded] = columns[coded].dictionary_encode()
    pq.write_table(pa.table(columns), tmp_path / "readings.parquet")
    assert init.main([str(tmp_path / "readings.parquet"), "--output", str(tmp_path / "pumps"), "--events"]) == 0
    use_case = load_use_case(str(tmp_path / "pumps"))
    assert (use_case.key, use_case.preprocessor().features) == ("machine", ("grade",))
    assert passes(tmp_path, "readings.parquet")
    assert passes(tmp_path, "pumps/events")


def test_enums_of_avro_are_texts(tmp_path: Path) -> None:
    mode = {"type": "enum", "name": "Mode", "symbols": ["run", "idle"]}
    types = {"mode": mode, "at": {"type": "long", "logicalType": "timestamp-millis"}, "x": "double"}
    schema = {"type": "record", "name": "R", "fields": [{"name": name, "type": kind} for name, kind in types.items()]}
    rows = [{"mode": "run" if n % 2 else "idle", "at": 1795330800000 + n, "x": n * n / 2} for n in range(12)]
    with (tmp_path / "readings.avro").open("wb") as file:
        fastavro.writer(file, schema, rows)
    assert init.main([str(tmp_path / "readings.avro"), "--output", str(tmp_path / "pumps"), "--events"]) == 0
    assert load_use_case(str(tmp_path / "pumps")).preprocessor().features == ("x",)
    assert passes(tmp_path, "readings.avro")
    assert passes(tmp_path, "pumps/events")


def test_a_subject_of_a_registry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its tags are believed, and its names decide."""
    with RegistryServer() as registry:
        from schemas.client import RegistrySchemas

        RegistrySchemas(registry.url, {}).register("sensor-data-value", schemas.load("car_sensor"))
        folder = tmp_path / "cars"
        assert init.main([f"{registry.url}/subjects/sensor-data-value", "--output", str(folder)]) == 0
        with pytest.raises(UserError, match="no such subject"):
            init.main([f"{registry.url}/subjects/other", "--output", str(tmp_path / "other")])
    use_case = load_use_case(str(folder))
    assert (use_case.key, use_case.event_time, use_case.label) == ("car_id", "event_time", "failure_occurred")
    assert "coolant_temp" in use_case.preprocessor().features
    assert fields(use_case)["vin"]["pii"] == "direct"
    assert "latitude" not in use_case.preprocessor().input_columns


def test_its_rows_as_events_in_the_order_of_their_times(tmp_path: Path) -> None:
    made(tmp_path, READINGS, "--events")
    with (tmp_path / "pumps/events/part-0.avro").open("rb") as file:
        rows = [dict(row) for row in fastavro.reader(file) if isinstance(row, dict)]
    assert [(row["pump"], row["source_key"], row["source_offset"]) for row in rows] == [
        ("a", b"a", 0),
        ("a", b"a", 1),
        ("b", b"b", 2),
        ("b", b"b", 3),
    ]
    assert rows[0]["at"] == rows[0]["source_timestamp"] == datetime(2026, 11, 22, 7, 0, 0, 250_000, UTC)
    assert [row["Temp_C"] for row in rows] == [None, 22, 20, 23]
    assert {row["source_topic"] for row in rows} == {"pumps"}
    assert "mail" not in rows[0]
    assert passes(tmp_path, "pumps/events")


@pytest.mark.parametrize(
    ("text", "words", "what"),
    [
        (READINGS, ["--event_time", "when"], "--event_time when: there is no such column; there are pump, at"),
        (READINGS, ["--key", "car"], "--key car"),
        (READINGS, ["--label", "broken"], "--label broken"),
        (READINGS, ["--delimiter", "tab"], "one character"),
        (READINGS, ["--time_format", "iso"], "expected a format"),
        ("a,b\nx,1\ny,2\nz,4\n", [], "no column looks like the time"),
        ("at,a b,a-b\n1795330800,1,1\n", [], "two columns are called a_b, the second one 'a-b'"),
        ("at,x,x\n1795330800,1,1\n", [], "has the column 'x' more than once"),
        ("at,kind\n1795330800,a\n1795330801,b\n", [], "nothing to learn"),
        ("", [], "is empty"),
        ("at,x\n", [], "has no rows"),
    ],
)
def test_what_will_not_do_is_one_line_and_leaves_nothing(
    tmp_path: Path, text: str, words: list[str], what: str
) -> None:
    with pytest.raises(UserError, match=what) as refused:
        made(tmp_path, text, *words)
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["readings.csv"]


@pytest.mark.parametrize("source", ["readings.xlsx", "s3://bucket/x", "http://h:8081/schemas", "nowhere.csv"])
def test_what_is_no_source(tmp_path: Path, source: str) -> None:
    with pytest.raises(UserError, match=r"neither a file|expected a subject|no such file"):
        init.main([source, "--output", str(tmp_path / "x")])


def test_times_of_json_need_a_zone(tmp_path: Path) -> None:
    lines = [json.dumps({"pump": "ab"[n % 2], "at": f"2026-11-22T07:00:0{n}.5+01:00", "x": n * n}) for n in range(8)]
    assert made(tmp_path, "\n".join(lines), name="readings.jsonl").event_time == "at"
    assert passes(tmp_path, "readings.jsonl")
    text = "\n".join(lines).replace(".5+01:00", "")
    for words in (["--overwrite"], ["--overwrite", "--event_time", "at"]):
        with pytest.raises(UserError, match="at is written without a zone"):
            made(tmp_path, text, *words, name="readings.jsonl")


def test_seconds_are_refused_where_they_can_not_be_told(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"at": 1795330800 + n, "x": n * n}) + "\n" for n in range(5))
    with pytest.raises(UserError, match="at counts seconds"):
        made(tmp_path, rows, name="readings.jsonl")


def test_nothing_is_written_over_unless_it_is_to_be(tmp_path: Path) -> None:
    made(tmp_path, READINGS)
    folder = tmp_path / "pumps"
    (folder / "preprocess.sql").write_text("mine")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        made(tmp_path, READINGS)
    assert (folder / "preprocess.sql").read_text() == "mine"
    made(tmp_path, READINGS, "--overwrite")
    assert "SELECT" in (folder / "preprocess.sql").read_text()
    assert (folder / "notes.txt").read_text() == "mine"
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine").touch()
    words = [str(tmp_path / "readings.csv"), "--overwrite", "--output"]
    with pytest.raises(UserError, match="is no use case"):
        init.main([*words, str(tmp_path / "other")])
    with pytest.raises(UserError, match="letters, digits and _"):
        init.main([*words, str(tmp_path / "my-pumps")])


def test_numbers_with_words_between_them_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One cell in twenty says n/a: the column is one of texts, and that is said."""
    lines = [
        f"a,2026-11-22T07:{n // 60:02}:{n % 60:02}Z,{n * n % 97},{'n/a' if n % 20 == 7 else n / 3},ok\n"
        for n in range(200)
    ]
    text = "".join(["device,time,x,y,state\n", *lines])
    made(tmp_path, text)
    assert (
        "text        y: 95% of the cells are numbers, but 'n/a' is none: leave such cells empty"
        in capsys.readouterr().out
    )
    sql = (tmp_path / "pumps/preprocess.sql").read_text()
    assert "-- , y  -- 95% of the cells are numbers, but 'n/a' is none: leave such cells empty\n" in sql
    assert "-- , state  -- a feature should" in sql or "-- , state  -- a text comes along" in sql
    made(tmp_path, text.replace(",y,", ",phone,"), "--overwrite")
    assert "n/a" not in capsys.readouterr().out  # personal values are not shown
    assert "n/a" not in (tmp_path / "pumps/preprocess.sql").read_text()
    only = "".join(line.rsplit(",", 3)[0] + "," + line.rsplit(",", 2)[1] + "\n" for line in text.splitlines())
    with pytest.raises(
        UserError, match=r"of y 95% of the cells are numbers, but 'n/a' is none: leave such cells empty"
    ):
        made(tmp_path, only, "--overwrite")


def test_somebodys_payments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Card numbers that are read as numbers are no features, nor are times and numbers that only grow."""
    monkeypatch.setenv("HIGHBEAM_PII_KEY", "0123456789abcdef" * 2)
    cards = ["4111111111111111", "5500005555555559", "4012888888881881"]
    header = "trans_num,posted,cc_num,amt,first,last,lat,merch_long,unix_time,first_amt,last_amt,city_pop"
    lines = [
        f"{7 * n + n % 3},2026-11-22T{n // 60:02}:{n % 60:02}:00Z,{cards[n % 3]},{n * n % 97}.5,Ann,Lee,"
        f"4{n % 9}.5,-8{n % 7}.5,"
        f"{1795330800 + 60 * n + n % 2},{n % 11},{n % 13},{n * 31 % 1009}\n"
        for n in range(300)
    ]
    use_case = made(tmp_path, "".join([header + "\n", *lines]))
    assert {name: f["pii"] for name, f in fields(use_case).items() if "pii" in f} == {
        "cc_num": "direct",
        "first": "direct",
        "last": "direct",
        "lat": "quasi",
        "merch_long": "quasi",
    }
    assert use_case.key == "cc_num"
    assert use_case.preprocessor().features == ("amt", "first_amt", "last_amt", "city_pop")
    assert passes(tmp_path)
    with pytest.raises(UserError, match="--events: the key, cc_num, looks like personal data"):
        made(tmp_path, "".join([header + "\n", *lines]), "--overwrite", "--events")


def test_records_and_lists_are_no_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They stay in the schema, where Avro has a type for all that is in them."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        {"id": f"c{i % 3}", "at": start + timedelta(seconds=i), "x": i / 7, "p": {"lat": 1.5, "tags": ["a"]}}
        for i in range(99)
    ]
    text = "".join(json.dumps({**row, "at": f"{row['at']:%FT%TZ}"}) + "\n" for row in rows)
    assert set(fields(made(tmp_path, text, name="readings.jsonl"))) == {"id", "at", "x", "p"}
    assert passes(tmp_path, "readings.jsonl")
    table = pa.Table.from_pylist(rows).append_column("who", pa.array([bytes(16)] * 99, pa.uuid()))
    table = table.append_column("q", pa.array([{"raw": b"a"}] * 99)).append_column("l", pa.array([[b"a"]] * 99))
    pq.write_table(table, tmp_path / "x.parquet")
    capsys.readouterr()
    assert init.main([str(tmp_path / "x.parquet"), "--output", str(tmp_path / "pumps"), "--overwrite"]) == 0
    assert "left out    q, l" in capsys.readouterr().out
    assert passes(tmp_path, "x.parquet")
    with pytest.raises(UserError, match="the objects have a field 'p' with a name inside that is none in Avro"):
        made(tmp_path, text.replace("lat", "la-t"), "--overwrite", name="readings.jsonl")
