"""How features are told to people: ``story`` in use_case.yaml, words around numbers, and what is usual for a key.

story:
  count_10m:
    says: "{} payments in 10 minutes"
    usual: count_30d / 4320
    usual_says: "this card's mean is {}"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from beam_jobs.errors import UserError
from beam_jobs.preprocessing.query.compiler import Compiled, with_steps
from beam_jobs.preprocessing.sql import compile_number

PLACE = "{}"  # where the number stands
_LONGEST = 200  # characters
_KEYS = ("says", "usual", "usual_says")


@dataclass(frozen=True)
class Told:
    """How one feature is told."""

    feature: str
    says: str  # "{} payments in 10 minutes"; without {} the number says nothing
    usual: str = ""  # SQL over the features: what the key's own history lets expect; "": it is not said
    usual_says: str = f"its own mean is {PLACE}"


def told_of(section: Any, where: str) -> tuple[Told, ...]:
    """What ``story`` says.

    Raises:
      UserError: it is no mapping of features to texts.
    """
    if section is None:
        return ()
    if not isinstance(section, dict):
        like = f'{{says: "{PLACE} payments in 10 minutes"}}'
        raise UserError(f"{where}: story is {section!r}; use `feature: {like}` lines")
    return tuple(_told(str(feature), given, f"{where}: story.{feature}") for feature, given in section.items())


def _told(feature: str, given: Any, where: str) -> Told:
    if isinstance(given, str):
        given = {"says": given}
    if not isinstance(given, dict) or "says" not in given:
        raise UserError(f"{where} is {given!r}; it needs says, and may have usual and usual_says")
    for key, value in given.items():
        if key not in _KEYS:
            raise UserError(f"{where}: unknown key {key!r}; it is one of {', '.join(_KEYS)}")
        if not isinstance(value, str) or not value.strip() or len(value) > _LONGEST or not value.isprintable():
            raise UserError(f"{where}.{key} is {value!r}; use a line of text, {_LONGEST} characters at most")
    if given.get("usual_says", PLACE).count(PLACE) != 1:
        raise UserError(f"{where}.usual_says is {given['usual_says']!r}; it needs one {PLACE}, where the number stands")
    return Told(feature, **given)


def check_told(told: Sequence[Told], features: Sequence[str], where: str) -> None:
    """Refuses what can't be told of ``features``.

    Raises:
      UserError: no such feature, or a ``usual`` that is no number made of features.
    """
    for each in told:
        if each.feature not in features:
            there = ", ".join(features)
            raise UserError(f"{where}: story tells of {each.feature}, no feature of the SQL; it has {there}")
    _compiled(tuple(told), tuple(features))


def usual(told: Sequence[Told], features: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float64]]:
    """What is usual for the keys of some rows, [n] by feature; NaN where nobody can say.

    Args:
      features: all of them, [n].
    """
    compiled = _compiled(tuple(told), tuple(features))
    if not compiled:
        return {}
    frame = with_steps(pl.DataFrame(dict(features)), compiled.values())
    found = frame.select(value.expr.cast(pl.Float64).alias(name) for name, value in compiled.items())
    return {name: found[name].fill_null(np.nan).to_numpy() for name in compiled}


@cache
def _compiled(told: tuple[Told, ...], features: tuple[str, ...]) -> dict[str, Compiled]:
    return {
        each.feature: compile_number(each.usual, features, f"story.{each.feature}.usual {each.usual!r}")
        for each in told
        if each.usual
    }
