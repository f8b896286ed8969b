"""The live view fits the terminal it is given, whatever there is to show, and claims nothing it can not know."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from demo.live import State, alert_of, render, standing
from demo.referee import Verdict, Words
from demo.screenshots import SIZES, draw, file_of, sample

TIRE = {"name": "tire", "observed": 22.0, "expected": 28.48, "unit": "psi", "share": 0.96}
LONG = "é" * 300


def alert(features: list[dict[str, Any]], key: str = "car-1", score: float = 12.5) -> dict[str, Any]:
    return {"event_time": datetime(2026, 11, 22, 7, tzinfo=UTC), "key": key, "score": score, "features": features}


@pytest.mark.parametrize(
    ("features", "text", "short"),
    [
        ([TIRE], "tire 22 psi (expected 28.48, 96%)", "22 psi, not 28.48: tire"),
        ([{**TIRE, "expected": float("nan"), "unit": None}], "tire 22 (96%)", "22: tire"),
        ([], "", ""),
    ],
)
def test_an_alert(features: list[dict[str, Any]], text: str, short: str) -> None:
    shown = alert_of(alert(features), 3, "tire")
    assert (shown.time, shown.car, shown.count, shown.score) == ("07:00:00", "car-1", 3, "12.5")
    assert (shown.made_by, shown.short, shown.truth) == (text, short, "tire")


def early() -> State:
    return State("Highbeam", 9.23)


def backlog() -> State:
    state = sample()
    state.progress = {**state.progress, "latency_ms_p50": None, "catching_up": True, "behind": 12_345_678}
    return state


def in_trouble() -> State:
    state = sample()
    state.trouble = f"ERROR kafka://{LONG}: nothing can be read\n(down);\tretrying {LONG}"
    state.verdict = None
    return state


def large() -> State:
    """Everything longer than one would think."""
    state = State(f"Highbeam: {LONG}", 1e30)
    state.hint = f"highbeam watch kafka://{LONG}/{LONG}"
    state.produced = 10**15
    latency = {"latency_ms_p50": 1e9, "latency_ms_p99": 1e10, "catching_up": False, "behind": 0}
    for _ in range(100):
        state.add_progress({"events_per_second": 10**9, "scored": 10**15, "alerts": 10**15, **latency})
    state.add_scores(np.full(1000, np.inf, np.float32))
    for i in range(1000):
        features = [{**TIRE, "name": LONG, "observed": -1.23456e300, "unit": LONG, "share": 1 / 20}] * 20
        state.add_alert(alert(features, f"{i} {LONG}", 1e38), LONG if i % 2 else "")
    state.verdict = Verdict(10**9, 0.5, 0.5, {LONG: 0.5, LONG * 2: 0.1}, 10**9)
    return state


def told() -> State:
    """Payments, with the story of a card."""
    state = sample()
    state.words = Words("card", "fraud", "no fraud has happened yet")
    state.story = ["The story of card 0123456789, by the simulator:", *(f"  07:28 {i} {LONG}" for i in range(6))]
    return state


def lines(state: State, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, file=io.StringIO(), color_system=None)
    console.print(render(state, width, height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().removesuffix("\n").split("\n")


@pytest.mark.parametrize("size", [*SIZES, (60, 15), (40, 10), (300, 100)], ids=str)
@pytest.mark.parametrize("made", [early, sample, backlog, in_trouble, large, told])
def test_it_fits(made: Callable[[], State], size: tuple[int, int]) -> None:
    state, (width, height) = made(), size
    shown = lines(state, width, height)
    assert len(shown) <= max(height, 13)  # below that the panels alone are more
    assert max(map(len, shown)) <= width
    assert shown[-1].startswith("Ctrl-C ends the demo.")
    if state.alerts and 24 <= height <= 40:
        assert len(shown) == height
        assert sum("07:" in line for line in shown) >= 10
        assert any(line.startswith("The story of") for line in shown) is bool(state.story)


def test_what_it_shows_at_80_columns() -> None:
    shown = "\n".join(lines(sample(), 80, 24))
    for text in ("63,410", "97 / 118 ms", "threshold 9.23", "503 of 507 alerts right (99.2%)", "false alarm"):
        assert text in shown
    assert "records behind 12,345,678 catching up" in re.sub(" +", " ", "\n".join(lines(backlog(), 100, 30)))
    assert "ERROR kafka://" in "\n".join(lines(in_trouble(), 80, 24))


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        (None, "no car has failed yet, and there is no alert: nothing to judge"),
        (Verdict(0, None, None, {}, 0), "no car has failed yet, and there is no alert: nothing to judge"),
        (Verdict(1, 0.0, None, {}, 0), "1 alert, and no car has failed yet"),
        (Verdict(0, None, 0.0, {"tire": 0.0}, 2), "2 failed cars, and no alert yet"),
        (
            Verdict(4, 0.75, 0.5, {"tire": 0.5, "fuse": 1.0}, 2),
            "3 of 4 alerts right, 1 of 2 failed cars found; missed so far: tire",
        ),
        (Verdict(507, 503 / 507, 1.0, {"tire": 1.0}, 1), "503 of 507 alerts right (99.2%), 1 of 1 failed car found"),
    ],
)
def test_a_share_stands_there_only_when_there_is_enough_to_judge(verdict: Verdict | None, text: str) -> None:
    assert standing(verdict) == text


def test_payments_are_told_in_their_own_words() -> None:
    words = told().words
    assert standing(None, words) == "no fraud has happened yet, and there is no alert: nothing to judge"
    assert standing(Verdict(0, None, 0.0, {}, 2), words) == "2 frauds, and no alert yet"
    shown = lines(told(), 120, 40)
    assert sum(" card " in line and " alerts " in line for line in shown) == 1
    assert [line[:13] for line in shown[-8:]] == [
        "The story of ",
        *(f"  07:28 {i} ééé" for i in range(6)),
        "Ctrl-C ends t",
    ]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_screenshots_show_the_view_as_it_is(size: tuple[int, int]) -> None:
    kept = file_of(*size).read_text(encoding="utf-8")

    def texts(svg: str) -> list[str]:
        return [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]

    assert texts(kept) == texts(draw(*size)), "the view has changed: python -m demo.screenshots"
    asked_for = set(re.findall(r"https?://[^\s\"')]+", kept)) - {"http://www.w3.org/2000/svg"}
    assert asked_for <= {"https://www.textualize.io"}  # a comment
    assert "url(http" not in kept
