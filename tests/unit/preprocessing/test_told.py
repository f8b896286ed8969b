"""How features are told: what a use case may say, and what is usual for a key."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from beam_jobs.errors import UserError
from beam_jobs.preprocessing.told import Told, check_told, told_of, usual
from beam_jobs.use_case import load_use_case

FEATURES = ("count_10m", "count_30d", "amount")
COUNT = Told("count_10m", "{} payments in 10 minutes", "count_30d / 4320", "this card's mean is {}")


def test_what_a_use_case_says() -> None:
    section = {
        "count_10m": {"says": COUNT.says, "usual": COUNT.usual, "usual_says": COUNT.usual_says},
        "amount": "{} euros",
    }
    assert told_of(section, "w") == (COUNT, Told("amount", "{} euros"))
    assert told_of(None, "w") == ()


@pytest.mark.parametrize(
    ("section", "error"),
    [
        (["count"], "story is"),
        ({"amount": 3}, "story.amount is 3; it needs says"),
        ({"amount": {"usual": "amount"}}, "it needs says"),
        ({"amount": {"says": "a", "mean": "b"}}, "unknown key 'mean'; it is one of says, usual, usual_says"),
        ({"amount": ""}, "use a line of text"),
        ({"amount": "a\nb"}, "use a line of text"),
        ({"amount": {"says": "x", "usual_says": "none"}}, "needs one {}"),
    ],
)
def test_what_it_may_not_say(section: Any, error: str) -> None:
    with pytest.raises(UserError) as found:
        told_of(section, "cards/use_case.yaml")
    assert error in str(found.value)
    assert str(found.value).startswith("cards/use_case.yaml: story")


@pytest.mark.parametrize(
    ("told", "error"),
    [
        (Told("speed", "{}"), "story tells of speed, no feature of the SQL; it has count_10m"),
        (Told("amount", "{}", "count_30d +"), "story.amount.usual 'count_30d +'"),
        (Told("amount", "{}", "count_30d > 3"), "it is a boolean; it needs a number"),
        (Told("amount", "{}", "speed"), "speed"),
        (Told("amount", "{}", "sum(amount) OVER (PARTITION BY amount)"), "no window is known here"),
    ],
)
def test_what_can_not_be_told_of_these_features(told: Told, error: str) -> None:
    check_told([COUNT], FEATURES, "use case cards")
    with pytest.raises(UserError) as found:
        check_told([told], FEATURES, "use case cards")
    assert error in str(found.value)


def test_what_is_usual_comes_from_the_row_s_own_features() -> None:
    rows = {
        name: np.array(values, np.float32) for name, values in zip(FEATURES, ([6, 1], [864, 0], [9, 9]), strict=True)
    }
    ratio = Told("amount", "{}", "amount / NULLIF(count_30d, 0)")
    found = usual([COUNT, ratio, Told("count_30d", "{}")], rows)
    assert list(found) == ["count_10m", "amount"]
    assert found["count_10m"].tolist() == pytest.approx([0.2, 0.0])
    assert found["amount"][0] == pytest.approx(9 / 864)
    assert np.isnan(found["amount"][1])
    assert usual([], rows) == {}


def test_the_words_of_payment_fraud_are_of_its_features() -> None:
    cards = load_use_case("payment_fraud")
    check_told(cards.story, cards.preprocessor().features, "payment_fraud")
    assert "count_10m" in {told.feature for told in cards.story}
