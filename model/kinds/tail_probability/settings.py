"""What can be chosen about the tail probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from model.kinds.rules import Rules, check, is_names


@dataclass(frozen=True)
class TailSettings:
    """Keys of the section ``model`` of a use case; ValueError, naming the field, for a value that won't do."""

    inputs: tuple[str, ...] = ()  # features that count; none: all of them
    only_more: tuple[str, ...] = ()  # of them, those of which large values alone are suspicious
    rates: tuple[tuple[str, str], ...] = ()  # events and trials, such as frauds and payments: too many of so many?

    def __post_init__(self) -> None:
        check(self, _RULES)
        of_rates = [name for pair in self.rates for name in pair]
        for name in (*self.inputs, *self.only_more):
            if name in of_rates:
                raise ValueError(f"rates is {self.rates!r}; use {name} either there or in inputs and only_more")
        if self.inputs:
            missing = [name for name in self.only_more if name not in self.inputs]
            if missing:
                raise ValueError(f"only_more is {self.only_more!r}; use names that inputs has, not {missing[0]}")

    @property
    def named(self) -> Sequence[tuple[str, str]]:
        """Fields, and features they name."""
        plain = [(field, name) for field in ("inputs", "only_more") for name in getattr(self, field)]
        return [*plain, *(("rates", name) for pair in self.rates for name in pair)]


def _is_pairs(value: Any) -> bool:
    pairs = isinstance(value, list | tuple) and all(is_names(pair) and len(pair) == 2 for pair in value)
    return pairs and len({pair[0] for pair in value}) == len(value)


_RULES: Rules = {
    "inputs": (is_names, "a list of features, each once, such as [amount]"),
    "only_more": (is_names, "a list of features, each once, such as [amount]"),
    "rates": (_is_pairs, "a list of pairs of features, events and trials, such as [[frauds_7d, payments_7d]]"),
}
