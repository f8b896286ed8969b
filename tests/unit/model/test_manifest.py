"""A manifest says what was left out and where the threshold comes from; an older one says nothing of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from model.alert_rate import AlertRate
from model.manifest import Manifest
from model.outliers.groups import Deviating, Example, Group, LeftOut
from model.outliers.sentinels import Sentinel
from tests.unit.model import samples
from tests.unit.model.samples import THRESHOLD

GROUP = Group(
    name="g1",
    features=(Deviating("speed", "high", 45.5, 3.0, 30.0),),
    rows=400,
    row_share=0.02,
    keys=99,
    key_share=0.99,
    where="speed BETWEEN 40 AND 50",
    kept=3,
    examples=(Example("2026-11-22T07:00:00.000+00:00", {"speed": 45.5}),),
)
MANIFEST = replace(
    samples.MANIFEST,
    left_out=LeftOut(440, 0.022, 7.25, "", (GROUP,), 40),
    sentinels=(Sentinel("speed", 65535.0, 3, 2, 0.5, 30.0),),
    normal=("speed = 0",),
)


def test_a_manifest_is_read_as_it_was_written() -> None:
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST
    no_cut = replace(MANIFEST, left_out=LeftOut(0, 0.0, None, "scores overlap", (), 0, 0, (GROUP,)))
    assert Manifest.from_json(no_cut.to_json()) == no_cut


def test_the_summary_says_what_was_left_out() -> None:
    line = "440 of the training rows (2.2 %) with a score above 7.25, in 1 group of rows that look alike and 40 others"
    assert f"left out       {line}\n" in MANIFEST.summary()


def test_the_summary_names_sentinels_and_what_was_called_normal() -> None:
    named = "column speed: 65535 in 3 rows looks like a sentinel (the other values are 0.5 to 30)"
    assert f"sentinels      {named}\ncalled normal  speed = 0\n" in MANIFEST.summary()


def test_an_older_manifest_says_nothing_of_what_was_left_out() -> None:
    value = json.loads(MANIFEST.to_json())
    for late in ("left_out", "sentinels", "normal", "kind"):
        del value[late]
    old = Manifest.from_json(json.dumps(value))
    assert old == replace(MANIFEST, left_out=None, sentinels=(), normal=())
    assert "left out" not in old.summary()
    assert old.kind == "autoencoder"


@pytest.mark.parametrize("broken", [7, "x", {}, {"groups": 3}, {"groups": [{}]}, {"groups": [7]}, {"more": 1}])
def test_a_broken_list_of_groups_is_a_value_error(broken: object) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Manifest.from_json(json.dumps({**json.loads(MANIFEST.to_json()), "left_out": broken}))


TOLD = replace(
    MANIFEST, threshold_fit=THRESHOLD, test_alerts=AlertRate(4000, 0.02, 0.016, 0.025, 2, "it differs"), made_from="0"
)


def test_where_the_threshold_comes_from_is_read_as_it_was_written() -> None:
    assert Manifest.from_json(TOLD.to_json()) == TOLD


def test_the_summary_says_what_the_threshold_is_expected_to_do_and_does() -> None:
    text = TOLD.summary()
    assert "made 2026-11-22T07:00:00+00:00 from 0 with another threshold\n" in text
    assert "threshold      4.5, expected to alert on 0.01 (0.007 to 0.0135) of normal rows; counted: 40 of" in text
    assert "test alerts    0.02 (0.016 to 0.025) of 4,000 rows; 2 outliers not counted\n" in text
    assert "warning        it differs\n" in text
    doubted = replace(TOLD, threshold_fit=replace(THRESHOLD, doubt="outliers overlap the tail")).summary()
    assert "expected to alert" not in doubted
    assert "no telling which share of normal rows it alerts on: outliers overlap the tail" in doubted


def test_an_older_manifest_still_has_a_threshold() -> None:
    value = json.loads(TOLD.to_json())
    for name in ("threshold_fit", "test_alerts", "made_from"):
        del value[name]
    old = Manifest.from_json(json.dumps(value))
    assert old == MANIFEST
    assert "threshold      4.5, expected to alert on 0.01 of normal rows\n" in old.summary()


@pytest.mark.parametrize("broken", [7, "x", {}, {"more": 1}, [1]])
@pytest.mark.parametrize("name", ["threshold_fit", "test_alerts"])
def test_a_broken_account_of_the_threshold_is_a_value_error(name: str, broken: object) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Manifest.from_json(json.dumps({**json.loads(TOLD.to_json()), name: broken}))


@pytest.mark.parametrize(
    ("rows", "held_out", "budget", "needed"),
    [
        (339, 68, 0.001, "5,000"),  # a first try
        (339, 68, 0.01, "500"),
        (6000, 1200, 0.001, None),
        (100_000, 20_000, 0.0001, None),
        (20_000, 4_000, 0.0001, "50,000"),
    ],
)
def test_a_threshold_from_few_rows_is_named(rows: int, held_out: int, budget: float, needed: str | None) -> None:
    data = replace(MANIFEST.data, rows=rows, training_rows=rows // 2)
    fit = replace(THRESHOLD, rows=held_out, alert_budget=budget)
    few = replace(MANIFEST, data=data, threshold_fit=fit, alert_budget=budget).few_rows
    assert bool(few) == (needed is not None)
    if needed:
        assert f"train on {needed} rows or more" in few
        assert "\n" not in few
    assert not replace(MANIFEST, threshold_fit=None).few_rows  # of a version made before: nobody can tell
