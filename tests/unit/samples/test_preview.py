"""``highbeam preview``: the page, the plan, and that it runs again when the use case is saved."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from beam_jobs.errors import UserError
from beam_jobs.preview import main, watch
from beam_jobs.samples.records import FileRecords
from beam_jobs.storage import files
from beam_jobs.terminal.commands import BEGIN
from tests.unit.samples.payments import SQL, write_events, write_use_case


@pytest.fixture
def given(tmp_path: Path) -> Namespace:
    words = ["--use_case", write_use_case(tmp_path / "cards"), "--input", write_events(tmp_path / "p.jsonl")]
    return BEGIN["preview"].parser().parse_args(words)


def run_with(given: Namespace, *saves: Callable[[], object]) -> None:
    """Watches; each time that it waits, the next save is done, then Ctrl-C."""
    steps: Iterator[Callable[[], object]] = iter(saves)

    def wait() -> None:
        step = next(steps, None)
        if step is None:
            raise KeyboardInterrupt
        step()

    records = FileRecords(given.input, given.rows, Path(given.use_case))
    with pytest.raises(KeyboardInterrupt):
        watch(given, records, Path(given.use_case), wait)


def test_a_page_and_the_plan(tmp_path: Path, given: Namespace, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--use_case", given.use_case, "--input", given.input]
    assert main([*words, "--max_refused", "0.1", "--explain", "--html", str(tmp_path / "p.html")]) == 0
    said = capsys.readouterr().out
    assert "2. windows\n" in said
    assert f"page        {tmp_path / 'p.html'}" in said
    assert (tmp_path / "p.html").read_text().startswith("<!doctype html>")
    assert main(words) == 1  # 2 % are refused
    assert "2. windows" not in capsys.readouterr().out


def test_where_nothing_passes_what_went_in_is_shown(
    given: Namespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use_case = write_use_case(Path(given.use_case), SQL.replace("amount > 1", "amount > 100"))
    assert main(["--use_case", use_case, "--input", given.input, "--html", str(tmp_path / "p.html")]) == 1
    said = capsys.readouterr().out
    assert "passed      0, 196 filtered by the WHERE" in said
    assert "filtered    amount 3 EUR, age (personal: left out)" in said
    [amount] = [line for line in said.splitlines() if line.startswith("  amount (EUR) ")]
    assert amount.split()[2] == "-5"
    assert "the first" not in said.partition("statistics")[0].replace("the first one looked at", "")
    assert "histogram of amount, -5 to 14" in (tmp_path / "p.html").read_text()


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path, given: Namespace) -> None:
    with pytest.raises(UserError, match=r"--html .*nowhere/p\.html: No such file"):
        main(["--use_case", given.use_case, "--input", given.input, "--html", str(tmp_path / "nowhere/p.html")])


def test_each_save_is_shown_and_a_wrong_one_is_said_with_its_place(
    given: Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(given.use_case)
    sql, settings, schema = (folder / name for name in ("preprocess.sql", "use_case.yaml", "payment.avsc"))

    def replaced() -> None:  # as many editors save
        (folder / "new").write_text(SQL.replace("count(*)", "sum(amount)").replace("payments", "spent"))
        os.replace(folder / "new", sql)

    run_with(
        given,
        lambda: sql.write_text(SQL.replace("COALESCE(amount", "COALESC(amount")),
        replaced,
        lambda: None,  # nothing is saved
        lambda: settings.write_text(settings.read_text() + "window_lateness: soon\n"),
        lambda: settings.write_text("schema: payment.avsc\nkey: card\nevent_time: ts\n"),
        lambda: schema.write_text(schema.read_text().replace('"min": 0', '"min": -9')),
        lambda: sql.unlink(),
        lambda: sql.write_text(SQL),
    )
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "preprocess.sql line 1, column 18: unknown function COALESC; did you mean coalesce?" in errors[0]
    assert "window_lateness is 'soon'" in errors[1]
    assert "preprocess.sql can't be read" in errors[2]
    assert len(errors) == 3
    assert out.count("looked at   200 rows") == 5
    assert err.count("until Ctrl-C") == 8
    spent = [run for run in out.split("looked at   ")[1:] if "spent" in run]
    assert len(spent) == 3
    assert ["out_of_range" in run for run in out.split("looked at   ")[1:]] == [True, True, True, False, False]


def test_files_of_a_bucket_are_copied_once(
    bucket: str, given: Namespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given.input = f"{bucket}/events/p.jsonl"
    files.upload(Path(write_events(Path(given.use_case).parent / "q.jsonl")), given.input)
    copies: list[str] = []

    def counted(path: str, copy: Path) -> None:
        copies.append(path)
        files.download(path, copy)

    monkeypatch.setattr("beam_jobs.samples.records.download", counted)
    sql = Path(given.use_case) / "preprocess.sql"
    run_with(given, lambda: sql.write_text(SQL + "\n"), lambda: sql.write_text(SQL))
    assert copies == [given.input]
    assert capsys.readouterr().out.count("looked at   200 rows of gs://") == 3


def test_what_is_looked_at_is_bounded(given: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beam_jobs.samples.sample.MAX_BYTES", 1000)
    with pytest.raises(UserError, match="rows take more than 0 MB; ask for less with --rows"):
        main(["--use_case", given.use_case, "--input", given.input])


def test_a_row_of_a_hundred_thousand_fields_and_a_huge_text_stay_short(
    tmp_path: Path, given: Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that the schema lacks are a dead letter, whose sentence is cut as the text is."""
    row = {"card": "a", "ts": 1_700_000_000_000, "amount": 3, "age": 50, "online": True, "merchant": "\x1b[2J" * 10**6}
    file = tmp_path / "large.jsonl"
    file.write_text(json.dumps(row) + "\n" + json.dumps(row | {f"{'x' * 100}{i}": i for i in range(100_000)}))
    words = ["--input", str(file), "--html", str(tmp_path / "p.html"), "--max_refused", "0.5"]
    assert main(["--use_case", given.use_case, *words]) == 0
    assert len(capsys.readouterr().out) < 5000
    assert len((tmp_path / "p.html").read_bytes()) < 50_000


def test_ctrl_c_ends_it_in_order(given: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("beam_jobs.preview.watch", interrupted)
    assert main(["--use_case", given.use_case, "--input", given.input, "--watch"]) == 0


@pytest.mark.parametrize("name", ["car_sensors", "gs://bucket/cards"])
def test_what_cannot_be_watched_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"--watch: {name} is no folder on this machine"):
        main(["--use_case", name, "--input", "x.csv", "--watch"])
