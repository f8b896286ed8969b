"""The report is one page that says what was left out, whatever features and labels are called."""

from __future__ import annotations

import shlex
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from model.alert_rate import AlertRate
from model.manifest import Manifest
from model.outliers.groups import Deviating, Example, Group, LeftOut
from model.outliers.sentinels import Sentinel
from model.training.evaluate import AtBudget, Evaluation
from model.training.peers import Peer
from model.training.report import ReportData, budget_lines, left_out_lines, metrics_table, strangest_lines, write_report
from model.training.strangest import Reading, Strange
from tests.unit.model.samples import MANIFEST, THRESHOLD

HOSTILE = """<script>alert("x")</script> & $\\frac{ ' \u202e 温度 \ud800"""


def group(name: str, feature: str) -> Group:
    return Group(
        name=name,
        features=(Deviating(feature, "high", 45.5, 3.0, 30.0), Deviating("b", "low", 0.05, 0.1, 0.3)),
        rows=400,
        row_share=0.02,
        keys=1,
        key_share=0.01,
        where=f'"{feature}" BETWEEN 40 AND 50 AND b = 3',
        kept=17,
        examples=(Example("2026-11-22T07:00:00.000+00:00", {feature: 45.5, "b": 0.25}),),
    )


def evaluation(kind: str | None) -> Evaluation:
    kinds = {} if kind is None else {kind: 0.5}
    failures, auc = (0, None) if kind is None else (10, 0.97)
    return Evaluation(100, failures, auc, auc, auc, auc, 0.0125, kinds, kinds)


def described(features: tuple[str, ...], left_out: LeftOut | None) -> Manifest:
    units, libraries = (None,) * len(features), {"keras": "3"}
    return replace(MANIFEST, features=features, units=units, libraries=libraries, left_out=left_out)


def shown(feature: str = "a", kind: str | None = "tire", features: int = 2) -> ReportData:
    random = np.random.default_rng(0)
    failed = np.arange(100) < (0 if kind is None else 10)
    spread = {which: random.random(features) for which in ({False} if kind is None else {False, True})}
    readings = (Reading(feature, 45.5, 12.25, 0.875), Reading("b", 0.25, 0.5, 0.125))
    return ReportData(
        loss=[3.0, 2.0],
        validation_loss=[2.0, 1.5],
        scores=random.lognormal(size=100).astype(np.float32),
        failed=failed,
        deviation=spread,
        evaluations={"autoencoder": evaluation(kind)},
        peers=(
            Peer("isolation forest", evaluation(kind), 0.625, ""),
            Peer("robust Mahalanobis", None, None, "3 training rows say nothing"),
        ),
        strangest=(Strange("2026-11-22T07:00:00.000+00:00", 99.5, 99.99, True, kind or "", readings),),
        command="python -m model.train --use_case cars --data 'my data' --registry m",
    )


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No picture, which takes a second, where the page is looked at only."""
    monkeypatch.setattr("model.training.report.draw", lambda path, *_: path.write_bytes(b""))


class Page(HTMLParser):
    """Which elements there are, and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def test_the_page_says_what_was_left_out_and_how_to_call_it_normal(tmp_path: Path, undrawn: None) -> None:
    left_out = LeftOut(440, 0.022, 7.25, "", (group("g1", "a"), group("g2", "b")), 40)
    manifest = replace(described(("a", "b"), left_out), test_alerts=AlertRate(1000, 0.01, 0.007, 0.021, 0, ""))
    page = Page(write_report(tmp_path, manifest, shown()))
    for said in (
        "440 of the training rows (2.2 %) with a score above 7.25, in 2 groups of rows that look alike and 40 others.",
        "a high: 45.5 (normal 3 to 30)",
        "400 (2.0 %)",
        "1 (1.0 %)",
        "holds for 17 of the other rows as well",
        "40 other rows are in no group.",
        "python -m model.train --use_case cars --data 'my data' --registry m --normal g1\n",
        'normal:\n  - "\\"a\\" BETWEEN 40 AND 50 AND b = 3"',
        "As far as held-out rows can tell, it is.",
        "a 45.5, expected 12.25 (87.5 %); b 0.25, expected 0.5 (12.5 %)",
        "robust Mahalanobis: no figures, 3 training rows say nothing",
    ):
        assert said in page.text
    condition = next(line for line in page.text.splitlines() if line.endswith("b = 3'"))
    assert shlex.split(condition)[-2:] == ["--normal", group("g1", "a").where]


def test_the_first_page_says_what_a_manager_asks_and_nothing_of_this_machine(tmp_path: Path) -> None:
    manifest = replace(
        described(("a", "b"), None),
        units=("m/s", None),
        test_alerts=AlertRate(1000, 0.01, 0.007, 0.021, 0, ""),
        data=replace(MANIFEST.data, source=str(tmp_path / "secret customer" / "history")),
    )
    budgets = (AtBudget(0.0001, 9.5, 0.25, 1.0, 0.0), AtBudget(0.01, 4.5, 0.875, 0.5, 0.0125))
    kept = write_report(tmp_path / "report", manifest, replace(shown(), at_budgets=budgets))
    page = Page(kept)
    headings = [
        "What was it trained on?",
        "Is the alert budget met?",
        "What does it find?",
        "The strangest held-out rows",
    ]
    assert sorted(headings, key=page.text.index) == headings
    assert page.text.index("Technical appendix") > page.text.index("What was left out of training")
    for said in (
        "20,000 read, of which 12,000 were learnt from",
        "early to late",
        "history, 1 file",
        "a (m/s), b",
        "0.01 (this version)\n100\n4.5\n87.5 %\n50.0 %\n0.0125",
        "0.01 (0.007 to 0.021) of 1,000 rows",
    ):
        assert said in page.text
    source = kept.read_text(encoding="utf-8")
    assert "secret customer" not in source
    assert str(tmp_path) not in source
    assert not {"script", "link", "iframe"} & page.tags
    assert all(value and value.startswith("data:") for name, value in page.attributes if name in ("src", "href"))


def test_without_labels_it_does_not_say_what_is_found(tmp_path: Path, undrawn: None) -> None:
    page = Page(write_report(tmp_path, described(("a", "b"), None), shown(kind=None)))
    assert "nobody knows which share of the failures it finds" in page.text


def test_few_rows_come_before_all_else(tmp_path: Path, undrawn: None) -> None:
    data = replace(MANIFEST.data, rows=339, training_rows=203, source=str(Path.cwd()))
    counted = AlertRate(68, 0.0, 0.0, 0.05, 0, "")
    few = replace(
        described(("a", "b"), None), data=data, threshold_fit=replace(THRESHOLD, rows=68), test_alerts=counted
    )
    page = Page(write_report(tmp_path, few, shown()))
    assert "As far as held-out rows can tell" not in page.text
    assert f"{Path.cwd().name}, {data.files} file" in page.text  # the folder the command is started in
    assert (
        "cars 1 has learnt from 203 rows; of the 68 that its threshold comes from 0.68 are expected above it"
        in page.text
    )
    assert budget_lines(few)[-1].startswith("warning    cars 1 has learnt from 203 rows")


def test_what_was_put_back_is_shown_and_needs_no_call(tmp_path: Path, undrawn: None) -> None:
    left_out = LeftOut(0, 0.0, None, "", (), 0, 0, (group("p1", "a"),))
    page = Page(write_report(tmp_path, described(("a", "b"), left_out), shown()))
    assert "No rows; 400 others were put back, as most keys show rows like them." in page.text
    assert "a high: 45.5 (normal 3 to 30)" in page.text
    assert "--normal" not in page.text
    assert left_out_lines(left_out)[1:] == [
        "put back   what most keys show now and then:",
        "  p1       400 rows (2.0 %) of 1 key (1.0 %): a high: 45.5 (normal 3 to 30); b low: 0.05 (normal 0.1 to 0.3)",
    ]


def test_nothing_left_out_is_said_too(tmp_path: Path, undrawn: None) -> None:
    page = Page(write_report(tmp_path, described(("a", "b"), LeftOut(0, 0.0, None, "", (), 0)), shown()))
    assert "No rows." in page.text
    assert "--normal" not in page.text


@pytest.mark.parametrize(
    ("warning", "verdict"),
    [("", "As far as held-out rows can tell, it is."), ("it cannot be told: they overlap", "It cannot be told: they")],
)
def test_a_budget_is_met_only_where_nothing_speaks_against_it(
    tmp_path: Path, undrawn: None, warning: str, verdict: str
) -> None:
    left_out = LeftOut(0, 0.0, None, warning, (), 0)
    counted = AlertRate(1000, 0.0125, 0.007, 0.021, 3, warning)
    manifest = replace(described(("a", "b"), left_out), test_alerts=counted)
    page = Page(write_report(tmp_path, manifest, shown()))
    assert verdict in page.text
    assert ("As far as" in page.text) == (not warning)
    assert ("In doubt: it cannot be told" in page.text) == bool(warning)
    assert budget_lines(manifest)[1:] == [
        "test       alerts on 0.0125 (0.007 to 0.021) of 1,000 rows; 3 outliers not counted",
        *([f"warning    {warning}"] if warning else []),
    ]


def test_sentinels_and_what_is_normal_are_shown(tmp_path: Path, undrawn: None) -> None:
    manifest = replace(
        described(("a", "b"), None), sentinels=(Sentinel("b", 65535.0, 12, 11, 0.5, 30.25),), normal=("a = 0", "b > 3")
    )
    page = Page(write_report(tmp_path, manifest, shown()))
    assert "b\n65535\n12\n11\n0.5 to 30.25\n" in page.text
    assert "Called normal, and kept: a = 0; b > 3." in page.text


def test_a_page_obeys_no_feature_and_no_label(tmp_path: Path) -> None:
    plain = Page(
        write_report(tmp_path, described(("a", "b"), LeftOut(4, 0.1, 2.0, "", (group("g1", "a"),), 0)), shown())
    )
    left_out = LeftOut(4, 0.1, 2.0, HOSTILE, (group("g1", HOSTILE),), 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = Page(write_report(tmp_path, described((HOSTILE, "b"), left_out), shown(HOSTILE, HOSTILE)))
    assert page.tags == plain.tags
    assert "script" not in page.tags
    assert {name for name, _ in page.attributes} == {name for name, _ in plain.attributes}
    assert not any(value and value.startswith(("http:", "https:", "//")) for _, value in page.attributes)
    assert page.text.count('<script>alert("x")</script> & $') >= 8


@pytest.mark.parametrize("features", [1, 400])
def test_any_number_of_features_is_drawn(tmp_path: Path, features: int) -> None:
    names = tuple(f"feature_{i}" for i in range(features))
    write_report(tmp_path, described(names, None), shown(kind=None, features=features))
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_metrics_without_labels_count_alerts_and_compare_them() -> None:
    data = shown(kind=None)
    assert metrics_table(data.evaluations, data.peers) == [
        ["", "autoencoder", "isolation forest", "robust Mahalanobis"],
        ["share of alerts", "0.012500", "0.012500", "-"],
        ["the autoencoder's alerts it raises too", "-", "0.625", "-"],
    ]


def test_metrics_with_labels_are_shown_by_kind() -> None:
    data = shown(kind="tire")
    table = {name: figures for name, *figures in metrics_table(data.evaluations, data.peers)}
    assert table["ROC AUC"] == ["0.97000", "0.97000", "-"]
    assert table["recall: tire"] == ["0.500", "0.500", "-"]
    assert table["false alerts among normal rows"] == ["0.012500", "0.012500", "-"]


def test_the_terminal_says_it_in_short() -> None:
    left_out = LeftOut(440, 0.022, 7.25, "it may be more", (group("g1", "a"), group("g2", "b")), 40)
    what = "high: 45.5 (normal 3 to 30); b low: 0.05 (normal 0.1 to 0.3)"
    assert left_out_lines(left_out) == [
        f"left out   {left_out}",
        "           in doubt: it may be more",
        f"  g1       400 rows (2.0 %) of 1 key (1.0 %): a {what}",
        f"  g2       400 rows (2.0 %) of 1 key (1.0 %): b {what}",
        "           if a group is normal, train again with --normal g1, or with its condition",
    ]
    assert left_out_lines(LeftOut(0, 0.0, None, "", (), 0)) == ["left out   no rows"]
    (line,) = strangest_lines(shown().strangest)
    assert (
        line
        == "strangest  2026-11-22T07:00:00.000+00:00  score 99.5 (tire): a 45.5, expected 12.25; b 0.25, expected 0.5"
    )
