"""A CSV file becomes a use case and an archive of its rows; what can't is one line, and leaves nothing behind."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fastavro
import pytest

from beam_jobs.errors import UserError
from beam_jobs.import_csv import Columns, import_csv, main
from beam_jobs.use_case import load_use_case

READINGS = """\
pump,at,flow,Temp (°C),order,open,note
b,2026-11-22T07:00:02Z,1.5,20,1,true,fine
a,2026-11-22T07:00:00.250Z,2.5,,2,false,
a,2026-11-22T07:00:01Z,3.5,22,3,true,odd
"""


def made(tmp_path: Path, text: str, columns: Columns) -> tuple[Path, str]:
    """The folder that a file of this text becomes, and what was said of it."""
    file = tmp_path / "readings.csv"
    file.write_text(text, encoding="utf-8")
    return tmp_path / "pumps", import_csv(file, columns, tmp_path / "pumps")


def events(folder: Path) -> list[dict[str, Any]]:
    with (folder / "events/part-0.avro").open("rb") as file:
        return [dict(row) for row in fastavro.reader(file) if isinstance(row, dict)]


def times(folder: Path, name: str = "at") -> list[datetime]:
    return [row[name] for row in events(folder)]


def test_a_use_case_that_compiles(tmp_path: Path) -> None:
    folder, said = made(tmp_path, READINGS, Columns("at", "pump"))
    use_case = load_use_case(str(folder))
    assert (use_case.name, use_case.key, use_case.event_time) == ("pumps", "pump", "at")
    assert list(use_case.preprocessor().features) == ["flow", "order"]
    fields = {field["name"]: field for field in use_case.schema["fields"]}
    assert fields["Temp_C"] == {
        "name": "Temp_C",
        "type": ["null", "long"],
        "default": None,
        "doc": "Column 'Temp (°C)' of the file.",
    }
    assert (fields["flow"]["type"], fields["open"]["type"], fields["pump"]["type"]) == ("double", "boolean", "string")
    assert said.splitlines() == [
        "3 events, 2 features: flow, order",
        "in the events, but no features (see preprocess.sql): Temp_C, open, note",
    ]


def test_its_rows_are_an_archive_in_the_order_of_their_times(tmp_path: Path) -> None:
    folder, _ = made(tmp_path, READINGS, Columns("at", "pump"))
    rows = events(folder)
    assert [(row["pump"], row["source_key"], row["source_offset"]) for row in rows] == [
        ("a", b"a", 0),
        ("a", b"a", 1),
        ("b", b"b", 2),
    ]
    assert rows[0]["at"] == rows[0]["source_timestamp"] == datetime(2026, 11, 22, 7, 0, 0, 250_000, UTC)
    assert [row["Temp_C"] for row in rows] == [None, 22, 20]
    assert {row["source_topic"] for row in rows} == {"pumps"}


@pytest.mark.parametrize(
    ("first", "time_format"),
    [
        ("2026-11-22 07:00:00", None),
        ("2026-11-22T08:00:00+01:00", None),
        ("2026/11/22 07:00", None),
        ("1795330800", None),
        ("1795330800000", None),
        ("1795330800.0", None),
        ("22.11.2026 07:00", "%d.%m.%Y %H:%M"),
    ],
)
def test_times_are_read(tmp_path: Path, first: str, time_format: str | None) -> None:
    text = "at,flow\n" + "".join(f"{first},{flow}\n" for flow in (1, 2, 3))
    folder, _ = made(tmp_path, text, Columns("at", time_format=time_format))
    assert times(folder) == [datetime(2026, 11, 22, 7, 0, tzinfo=UTC)] * 3


@pytest.mark.parametrize(
    ("day", "time_format"), [("2026-11-22", None), ("2026/11/22", None), ("Nov 22 2026", "%b %d %Y")]
)
def test_a_day_is_its_first_moment(tmp_path: Path, day: str, time_format: str | None) -> None:
    folder, _ = made(tmp_path, f"at,flow\n{day},1\n{day},2\n{day},3\n", Columns("at", time_format=time_format))
    assert times(folder) == [datetime(2026, 11, 22, tzinfo=UTC)] * 3


def test_without_a_key_all_rows_are_of_one_device(tmp_path: Path) -> None:
    folder, _ = made(tmp_path, "at,flow\n1,1\n2,2\n3,3\n", Columns("at"))
    assert {row["device"] for row in events(folder)} == {"readings"}
    assert load_use_case(str(folder)).key == "device"


def test_a_label_is_no_feature(tmp_path: Path) -> None:
    text = "on,at,x,label,v\n" + "".join(f"p,{n},{n},{n % 3},{n}\n" for n in range(6))
    folder, _ = made(tmp_path, text, Columns("at", "on", "label"))
    use_case = load_use_case(str(folder))
    assert use_case.label == "label"
    assert list(use_case.preprocessor().features) == ["x", "v"]


def test_a_column_of_states_is_left_to_the_person(tmp_path: Path) -> None:
    text = "at,flow,door,mode\n" + "".join(f"{n},{n},{n % 2},7\n" for n in range(6))
    folder, _ = made(tmp_path, text, Columns("at"))
    sql = (folder / "preprocess.sql").read_text()
    assert "-- door: a feature should have more than two values" in sql
    assert "-- mode: a feature should have more than two values" in sql


def test_an_empty_column_is_left_out_and_empty_cells_are_named(tmp_path: Path) -> None:
    text = "at,flow,nothing\n0,1,\n1,2,\n2,,\n3,3,\n"
    folder, said = made(tmp_path, text, Columns("at"))
    assert "left out, without a value: nothing" in said
    assert "flow  -- empty in 1 rows, which are refused" in (folder / "preprocess.sql").read_text()


@pytest.mark.parametrize(
    ("text", "columns", "what"),
    [
        (READINGS, Columns("when", "pump"), "--event_time when: .* no such column; it has pump, at"),
        (READINGS, Columns("at", "car"), "--key car"),
        (READINGS, Columns("at", "pump", "broken"), "--label broken"),
        (READINGS, Columns("note", "pump"), "--event_time note: not all of its values are times"),
        (READINGS, Columns("at", "pump", time_format="%d.%m.%Y"), "--time_format %d.%m.%Y"),
        (READINGS, Columns("at", "note"), "row 2 has no note"),
        (READINGS, Columns("at", "pump", delimiter=";"), "no such column; it has pump,at"),
        ("at,flow\n1,1\n,2\n3,3\n", Columns("at"), "row 2 has no at"),
        ("at,a b,a-b\n1,1,1\n2,2,2\n", Columns("at"), "two columns are called a_b, the second one 'a-b'"),
        ("at,device,x\n1,1,1\n2,2,2\n3,3,3\n", Columns("at"), "--key device"),
        ("at,kind\n1,a\n2,b\n", Columns("at"), "nothing to learn"),
        ("at,source_topic,x\n1,a,1\n2,b,2\n3,c,3\n", Columns("at"), "source_topic"),
        ("", Columns("at"), "can't be read as CSV"),
        ("at,x\n1,2,3\n", Columns("at"), "can't be read as CSV"),
    ],
)
def test_what_will_not_do_is_one_line_and_leaves_nothing(
    tmp_path: Path, text: str, columns: Columns, what: str
) -> None:
    with pytest.raises(UserError, match=what) as refused:
        made(tmp_path, text, columns)
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["readings.csv"]


def test_a_folder_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    folder, _ = made(tmp_path, READINGS, Columns("at", "pump"))
    (folder / "preprocess.sql").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        made(tmp_path, READINGS, Columns("at", "pump"))
    assert (folder / "preprocess.sql").read_text() == "mine"
    with pytest.raises(UserError, match="letters, digits and _"):
        import_csv(tmp_path / "readings.csv", Columns("at", "pump"), tmp_path / "my-pumps")


def test_the_command_says_what_comes_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "readings.csv").write_text(READINGS.replace(",", ";"))
    folder = tmp_path / "pumps"
    arguments = [str(tmp_path / "readings.csv"), "--event_time", "at", "--key", "pump", "--output", str(folder)]
    assert main([*arguments, "--delimiter", ";"]) == 0
    assert f"--use_case {folder} --data {folder}/events --registry models" in capsys.readouterr().out
    assert json.loads((folder / "pumps.avsc").read_text())["name"] == "pumps"
    with pytest.raises(UserError, match="expected one character"):
        main([*arguments, "--delimiter", "tab"])
