"""Whether something else has the names of Highbeam's packages: a file model.py where a command is started."""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

_HOME = Path(__file__).resolve().parents[2]
_PACKAGES = ("model", "schemas", "use_cases")  # beside beam_jobs


class Hidden(NamedTuple):
    """A package of ours, and what is found in its place."""

    name: str
    by: str


def hidden() -> Hidden | None:
    """The first of our packages that is hidden; nothing of what hides it is run."""
    for name in _PACKAGES:
        found = find_spec(name)
        places = (
            [] if found is None else [found.origin] if found.origin else list(found.submodule_search_locations or ())
        )
        if places and not any(place and Path(place).resolve().is_relative_to(_HOME / name) for place in places):
            return Hidden(name, str(places[0]))
    return None


def refuse_hidden() -> None:
    """Ends the process with one line where one of our packages is hidden: ``python -m`` looks where it is started."""
    found = hidden()
    if found is not None:
        print(_sentence(found), file=sys.stderr)
        sys.exit(2)
    sys.excepthook = _say_what_hides


def _sentence(found: Hidden, whose: str = "Highbeam's package") -> str:
    return (
        f"error: {found.by!r} hides {whose} {found.name}; start in another folder, or use the command "
        "highbeam, which does not look here"
    )


def _say_what_hides(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """One line in place of a stack trace where the imports have failed on a numpy.py of the folder: it has been run."""
    here = sys.path[0] or "."
    for name, module in list(sys.modules.items()):
        by = getattr(module, "__file__", None)
        if (
            "." in name
            or not by
            or Path(by).resolve() not in (Path(here, file).resolve() for file in (f"{name}.py", f"{name}/__init__.py"))
        ):
            continue
        if name in sys.stdlib_module_names or PathFinder.find_spec(name, sys.path[1:]) is not None:
            print(_sentence(Hidden(name, by), "the package"), file=sys.stderr)
            return
    sys.__excepthook__(kind, error, trace)


def look_here_first() -> None:
    """Finds our packages first where one is hidden, in this process and in those it starts by multiprocessing."""
    if hidden() is not None:
        sys.path.insert(0, str(_HOME))
