"""What an alert says in words: what was seen, what was expected, and what is usual for the key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from beam_jobs.preprocessing.told import PLACE, Told

MOST_TOLD = 3  # features of a story
LEAST_SHARE = 0.05  # of the error, for a feature to be told beside the first


def story(features: Sequence[Mapping[str, Any]], told: Mapping[str, Told]) -> str | None:
    """The sentences of an alert's features, largest share first; None: there are none.

    >>> seen = {"name": "count_10m", "observed": 6.0, "expected": 1.0, "unit": None, "share": 0.7, "usual": 0.2}
    >>> words = Told("count_10m", "{} payments in 10 minutes", usual_says="this card's mean is {}")
    >>> story([seen], {"count_10m": words})
    "6 payments in 10 minutes, expected 1; this card's mean is 0.2"
    """
    chosen = [*features[:1], *(each for each in features[1:MOST_TOLD] if each["share"] >= LEAST_SHARE)]
    said = [_sentence(each, told.get(each["name"])) for each in chosen]
    return ". ".join(said) or None


def _sentence(feature: Mapping[str, Any], told: Told | None) -> str:
    observed, unit = number(feature["observed"]), f" {feature['unit']}" if feature["unit"] else ""
    said = f"{feature['name']} {observed}{unit}" if told is None else told.says.replace(PLACE, observed)
    counts = told is None or PLACE in told.says
    if counts and isfinite(feature["expected"]):
        said += f", expected {number(feature['expected'])}"
    if told is not None and feature["usual"] is not None:
        said += f"; {told.usual_says.replace(PLACE, number(feature['usual']))}"
    return said


def number(value: float) -> str:
    """As people write it, to three digits or to the unit.

    >>> number(0.0138888), number(1234567.8), number(6.0)
    ('0.0139', '1,234,568', '6')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
