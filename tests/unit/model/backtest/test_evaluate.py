"""``model.evaluate`` on payments: a kind that scores by the amount, and options and data that won't do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import use_cases
from beam_jobs.errors import UserError
from beam_jobs.sandbox.payments import benchmark
from model.evaluate import main
from tests.distribution import install

KIND = """
from dataclasses import dataclass
from model.kinds.protocol import FittedModel, Judged

@dataclass(frozen=True)
class Nothing:
    pass

class ByAmount:
    settings, modules = Nothing, ()

    def fit(self, training):
        return FittedModel(self, None, Judged.kept(self, training.train), Judged.kept(self, training.validation))

    def score(self, x):
        return x[:, 0]

KIND = ByAmount()
"""
SQL = "SELECT customer_id, event_time, amount FROM events"


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of the command, with a use case and 30 days of payments."""
    kinds = {"highbeam.model_kinds": {"by_amount": "by_amount:KIND"}}
    monkeypatch.syspath_prepend(install(tmp_path / "site", "by_amount", KIND, kinds))
    folder = tmp_path / "case"
    shutil.copytree(Path(use_cases.__file__).parent / "fraud_benchmark", folder)
    (folder / "preprocess.sql").write_text(SQL)
    settings = (folder / "use_case.yaml").read_text().partition("model:")[0]
    (folder / "use_case.yaml").write_text(settings + "model: {kind: by_amount, alert_budget: 0.01}\n")
    pq.write_table(benchmark(customers=150, terminals=300, days=30).table(), tmp_path / "payments.parquet")
    return ["--use_case", str(folder), "--data", str(tmp_path / "payments.parquet"), "--from", "2018-04-03T00:00:00Z"]


def test_rounds_are_told_in_tables_and_on_a_page(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "pages/rounds.html"
    options = [
        "--rounds",
        "2",
        "--train_days",
        "5",
        "--top",
        "5",
        "--seeds",
        "2",
        "--alert_budget",
        "0.1",
        "--html",
        str(page),
    ]
    main([*command, *options])
    said = capsys.readouterr().out
    assert "2018-04-15" in said
    assert "2018-04-22" in said
    assert "precision@5" in page.read_text()
    assert "data:image/png" in page.read_text()
    found = [line.split("│")[2].strip() for line in said.splitlines() if line.startswith("│ 1 ")]
    assert found == ["1.000"]  # every payment above 220 is among the highest


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (["--rounds", "0"], "--rounds 0 is not at least 1"),
        (["--delay_days", "-1"], "--delay_days -1 is below 0"),
        (["--alert_budget", "1"], "--alert_budget 1.0 is not a share"),
        (["--validation_fraction", "0.5"], "--validation_fraction 0.5 is not between"),
        (["--rounds", "9"], "a round has 0 rows to judge by"),
        (["--from", "yesterday"], "--from yesterday: expected an event time"),
    ],
)
def test_what_will_not_do(command: list[str], more: list[str], what: str) -> None:
    with pytest.raises(UserError, match=what):
        main([*command, *more])


def test_without_a_label_there_is_nothing_to_judge_by(command: list[str]) -> None:
    schema = Path(command[1], "payment.avsc")
    schema.write_text(schema.read_text().replace(', "label": true', ""))
    with pytest.raises(UserError, match="no field of the schema is tagged label"):
        main(command)
