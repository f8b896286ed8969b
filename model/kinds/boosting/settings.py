"""What can be chosen about boosting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from model.kinds.rules import Rules, check, is_count, is_number


@dataclass(frozen=True)
class BoostingSettings:
    """Keys of the section ``model`` of a use case; ValueError, naming the field, for a value that won't do."""

    labels: ClassVar[bool] = True  # it learns from rows labelled as failures

    trees: int = 150
    leaves: int = 8  # of a tree
    learning_rate: float = 0.05
    least_rows: int = 20  # of a leaf

    def __post_init__(self) -> None:
        check(self, _RULES)


_RULES: Rules = {
    "trees": (lambda x: is_count(x) and x <= 10_000, "a whole number from 1 to 10,000"),
    "leaves": (lambda x: is_count(x) and 2 <= x <= 1024, "a whole number from 2 to 1,024"),
    "learning_rate": (lambda x: is_number(x) and 0 < x <= 1, "a number above 0 and at most 1"),
    "least_rows": (is_count, "a whole number above 0"),
}
