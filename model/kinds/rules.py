"""What settings of kinds may be: checks of values, by their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Rules = Mapping[str, tuple[Callable[[Any], bool], str]]  # name of a setting: whether it is right, and what is


def check(settings: Any, rules: Rules) -> None:
    """Raises ValueError, naming the setting, for a value that won't do; turns YAML's lists into tuples."""
    for name, (right, wanted) in rules.items():
        value = getattr(settings, name)
        if not right(value):
            raise ValueError(f"{name} is {value!r}; use {wanted}")
        if isinstance(value, list):
            frozen = tuple(tuple(each) if isinstance(each, list) else each for each in value)
            object.__setattr__(settings, name, frozen)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_names(value: Any) -> bool:
    """Texts, none of them twice."""
    texts = isinstance(value, list | tuple) and all(isinstance(each, str) and each for each in value)
    return texts and len(set(value)) == len(value)
