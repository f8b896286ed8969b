"""Named parts that other distributions can add to: buses, codecs, model kinds, metrics, targets.

Highbeam's own parts of a sort are listed where they are used, a line each; others are entry points of an installed
distribution, such as this one's ``pyproject.toml`` declares:

    [project.entry-points."highbeam.model_kinds"]
    forest = "acme.forest:KIND"

Entry points are found in every process of a job, its workers included, and nothing has to be imported or called first.
A part is imported when it is asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Generic, TypeVar

from beam_jobs.errors import UserError, one_line

Part = TypeVar("Part")


class Plugins(Generic[Part]):
    """The parts of one sort, by name.

    Args:
      what: they are, for errors: "model kind".
      group: of the entry points of other distributions: "highbeam.model_kinds".
      own: name to "module:attribute"; no other distribution can take such a name.
    """

    def __init__(self, what: str, group: str, own: Mapping[str, str]) -> None:
        self._what = what
        self._group = group
        self._own = own

    def names(self) -> list[str]:
        """All there are, Highbeam's own first."""
        return [*self._own, *sorted(self._others().names - self._own.keys())]

    def get(self, name: str) -> Part:
        """The part of that name.

        Raises:
          UserError: there is none, two distributions have one, or it can't be imported.
        """
        found = self._find(name)
        try:
            part: Part = found.load()
        except Exception as error:  # of whatever its module does
            of = f" of {found.dist.name}" if found.dist is not None else ""
            raise UserError(
                f"{self._what} {name!r} ({found.value}{of}) can't be loaded: {type(error).__name__}: "
                f"{one_line(error, 200)}"
            ) from error
        return part

    def _others(self) -> EntryPoints:
        return _installed(self._group, tuple(sys.path))

    def _find(self, name: str) -> EntryPoint:
        if name in self._own:
            return EntryPoint(name, self._own[name], self._group)
        found = tuple(self._others().select(name=name))
        if not found:
            raise UserError(
                f"no {self._what} {name!r}; there are {', '.join(self.names())} (others are entry points of the group "
                f"{self._group} in an installed package)"
            )
        if len({point.value for point in found}) > 1:
            of = " and ".join(sorted({point.dist.name for point in found if point.dist is not None}))
            raise UserError(f"{self._what} {name!r} is in {of}: uninstall one of them")
        return found[0]


@cache
def _installed(group: str, path: tuple[str, ...]) -> EntryPoints:
    """The entry points of a group on ``path``, which is ``sys.path``: looking through 250 distributions takes 12 ms."""
    return entry_points(group=group)
