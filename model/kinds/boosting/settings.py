"""What can be chosen about boosting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from model.kinds.rules import Rules, check, is_count, is_number


@dataclass(frozen=True)
class BoostingSettings:
    """Keys of the section ``model`` of a use case; ValueError, naming the field, for a value that won't do."""

    labels: ClassVar[bool] = True  # it learns from rows labelled as failures

    trees: int = 150
    leaves: int = 8  # of a tree
    learning_rate: float = 0.05
    least_rows: int = 20  # of a leaf
    row_share: float = 1.0  # of the rows, drawn anew for each tree
    feature_share: float = 1.0  # of the features, drawn anew for each tree

    def __post_init__(self) -> None:
        check(self, _RULES)


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 < value <= 1


_RULES: Rules = {
    "trees": (lambda x: is_count(x) and x <= 10_000, "a whole number from 1 to 10,000"),
    "leaves": (lambda x: is_count(x) and 2 <= x <= 1024, "a whole number from 2 to 1,024"),
    "learning_rate": (_is_share, "a number above 0 and at most 1"),
    "least_rows": (is_count, "a whole number above 0"),
    "row_share": (_is_share, "a share above 0, at most 1"),
    "feature_share": (_is_share, "a share above 0, at most 1"),
}
