"""What can be chosen about the autoencoder and its training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from model.kinds.rules import Rules, check, is_count, is_names, is_number


@dataclass(frozen=True)
class NetworkConfig:
    """Keys of the section ``model`` of a use case; ValueError, naming the field, for a value that won't do."""

    hidden: tuple[int, ...] = (32, 12, 32)  # units of the hidden layers; the narrowest is the bottleneck
    noise: float = 0.5  # standard deviations of the noise added to inputs in training
    l1: float = 0.0  # activity regularisation of the first hidden layer
    epochs: int = 20  # passes over the training data, at most
    batch_size: int = 512  # rows a step
    learning_rate: float = 3e-3  # of Adam at the start; falls to nothing over the epochs, as a cosine
    patience: int = 5  # epochs without a better validation loss before training stops
    only_more: tuple[str, ...] = ()  # features that count only where they are more than expected
    error: str = "tail"  # a deviation's unit and how they add up: as docs/model.md has it, or by each one's "variance"

    def __post_init__(self) -> None:
        check(self, _RULES)

    @property
    def named(self) -> Sequence[tuple[str, str]]:
        """Fields, and features they name."""
        return [("only_more", name) for name in self.only_more]


def _is_layers(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(is_count(units) for units in value)


_RULES: Rules = {
    "hidden": (_is_layers, "a list of whole numbers above 0, such as [14, 7, 14]"),
    "noise": (lambda x: is_number(x) and x >= 0, "a number of at least 0"),
    "l1": (lambda x: is_number(x) and x >= 0, "a number of at least 0"),
    "learning_rate": (lambda x: is_number(x) and x > 0, "a number above 0"),
    "epochs": (is_count, "a whole number above 0"),
    "patience": (is_count, "a whole number above 0"),
    "only_more": (is_names, "a list of features, each once, such as [amount]"),
    "error": (lambda x: x in ("tail", "variance"), "tail or variance"),
    "batch_size": (is_count, "a whole number above 0"),
}
