"""Figures by dotted path, a list by seed each: what a run measured, and the file it goes into."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Figures = dict[str, list[float]]  # "six.clean.rate" -> one a training, by rising seed


@dataclass
class Found:
    """What one training showed."""

    under: str  # start of every path, without the last dot
    figures: dict[str, float] = field(default_factory=dict)
    sentences: dict[str, str] = field(default_factory=dict)  # what training said, by path

    def add(self, name: str, value: float) -> None:
        """Takes a figure."""
        self.figures[f"{self.under}.{name}"] = float(value)

    def said(self, doubt: str) -> None:
        """Whether training could not tell outliers from the tail, and its sentence."""
        self.add("said", bool(doubt))
        if doubt:
            self.sentences[self.under] = doubt

    def refused(self, reason: str) -> None:
        """Training refused the rows."""
        self.add("refused", 1)
        self.sentences[self.under] = reason


def gather(found: Iterable[Found]) -> tuple[Figures, dict[str, str]]:
    """Figures by path, and the first sentence of each."""
    figures: Figures = {}
    sentences: dict[str, str] = {}
    for each in found:
        for path, value in each.figures.items():
            figures.setdefault(path, []).append(value)
        for path, sentence in each.sentences.items():
            sentences.setdefault(path, sentence)
    return figures, sentences


def mean(values: list[float]) -> float:
    """Their mean."""
    return sum(values) / len(values)


def write(path: Path, figures: Figures, sentences: Mapping[str, str], run: Mapping[str, Any]) -> None:
    """Means under their paths, and under "each" every training's figure."""
    data: dict[str, Any] = {**run, "said": dict(sorted(sentences.items()))}
    for name, values in sorted(figures.items()):
        shown = [_short(value) for value in values]
        _put(data, name.split("."), _short(mean(shown)))
        _put(data, ["each", *name.split(".")], shown)
    path.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read(path: Path) -> tuple[Figures, dict[str, str], dict[str, Any]]:
    """The counterpart of ``write``."""
    data = json.loads(path.read_text(encoding="utf-8"))
    figures: Figures = {}

    def walk(value: Any, at: str) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(inner, f"{at}.{name}" if at else name)
        else:
            figures[at] = value

    walk(data["each"], "")
    run = {name: value for name, value in data.items() if name in ("seeds", "date", "versions")}
    return figures, data["said"], run


def _short(value: float) -> float:
    return value if value.is_integer() else float(f"{value:.6g}")


def _put(data: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        data = data.setdefault(name, {})
    data[path[-1]] = value
