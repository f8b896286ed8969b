"""What a person calls normal: conditions over the features, in SQL. Rows that meet one are never left out.

A rare state and a fault look the same to a training; which of them a group of rows is, a person decides: with
``--normal "speed = 0 AND current_draw < 1"``, with the name of a group in the latest version's report, ``--normal g2``,
or for good with a list under ``normal`` in use_case.yaml.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from beam_jobs.errors import UserError
from beam_jobs.preprocessing.query.compiler import with_steps
from beam_jobs.preprocessing.sql import compile_condition
from beam_jobs.storage import files
from beam_jobs.use_case import UseCase
from model import registry

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Condition:
    """Rows a person calls normal."""

    where: str  # SQL
    source: str  # what errors call it


def conditions(use_case: UseCase, given: Sequence[str], registry_root: str) -> list[Condition]:
    """Those of the use case, and those given: SQL, or names of groups in the latest version of its model.

    Raises:
      UserError: no such group.
    """
    found = [Condition(where, "use_case.yaml: normal") for where in use_case.normal]
    for text in given:
        if re.fullmatch(r"\s*\w*\s*", text):
            found.append(_group(use_case.name, text.strip(), registry_root))
        else:
            found.append(Condition(text, "--normal"))
    return found


def compile_normal(conditions: Sequence[Condition], features: Sequence[str]) -> Callable[[Floats], Bools] | None:
    """Rows, float32 [n, F], to those that meet one of the conditions; None: there are no conditions.

    Raises:
      UserError: a condition that is no SQL, uses something other than the features or is no comparison.
    """
    if not conditions:
        return None
    compiled = [compile_condition(one.where, features, f"{one.source} {one.where!r}") for one in conditions]
    met = pl.any_horizontal([one.expr.fill_null(False) for one in compiled])
    columns = {name: features.index(name) for name in sorted(frozenset().union(*(one.columns for one in compiled)))}

    def normal(rows: Floats) -> Bools:
        frame = pl.DataFrame({name: np.ascontiguousarray(rows[:, i]) for name, i in columns.items()})
        return with_steps(frame, compiled).select(met).to_series().to_numpy()

    return normal


def _group(model: str, name: str, registry_root: str) -> Condition:
    folder = f"{files.root_of(registry_root)}/{model}"
    there = registry.versions(folder)
    if not there:
        raise UserError(
            f"--normal {name}: {registry_root} has no version of {model} yet, so no group; give a condition such as "
            "'speed = 0', or train without --normal first"
        )
    left_out = registry.resolve(f"{folder}@{there[-1]}").manifest.left_out
    groups = {group.name: group for group in left_out.groups} if left_out is not None else {}
    if name not in groups:
        nearest = difflib.get_close_matches(name, groups, n=3, cutoff=0) or ["none"]
        raise UserError(
            f"--normal {name}: no group of {model} {there[-1]}, whose nearest are {', '.join(nearest)}; name one of "
            "its report, or give a condition such as 'speed = 0'"
        )
    return Condition(groups[name].where, f"--normal {name} ({there[-1]})")
