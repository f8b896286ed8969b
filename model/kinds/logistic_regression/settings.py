"""What can be chosen about the logistic regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from model.kinds.rules import Rules, check, is_number
from model.kinds.tail_probability.settings import TailSettings


@dataclass(frozen=True)
class LogisticSettings(TailSettings):
    """Keys of the section ``model`` of a use case; ValueError, naming the field, for a value that won't do."""

    labels: ClassVar[bool] = True  # it learns from rows labelled as failures

    strength: float = 1.0  # of what the labels say against weights near 0; scikit-learn's C

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, _RULES)


_RULES: Rules = {"strength": (lambda x: is_number(x) and x > 0, "a number above 0")}
