"""Numbers and positions cut down to the edge of the cell of a grid that they lie in.

For all of them: the result is at most the value, and the value is less than the next edge; cut again, the result is
itself; NaN and infinities stay.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

METRES_NORTH = 110_574.0  # in a degree of latitude, where it is shortest: at the equator
METRES_EAST = 111_319.0  # in a degree of longitude at the equator; elsewhere this by the cosine of the latitude
_WHOLE = 2.0**52  # doubles from here on have no digits behind the point


def to_decimals(x: Doubles, decimals: int) -> Doubles:
    """Down to so many decimals, [n]; negative ones are digits before the point."""
    step = 10.0 ** abs(decimals)
    if decimals > 0:
        return _down(x, x * step, lambda number: number / step)
    return _down(x, x / step, lambda number: number * step)


def latitude(degrees: Doubles, metres: float) -> Doubles:
    """The southern edges of cells that are at least ``metres`` high, degrees [n]."""
    step = metres / METRES_NORTH
    return _down(degrees, (degrees + 90.0) / step, lambda number: number * step - 90.0)


def longitude(degrees: Doubles, metres: float, at: Doubles) -> Doubles:
    """The western edges of cells that are at least ``metres`` wide, degrees [n]; at the poles that of all, -180.

    Args:
      at: latitudes, [n]; all longitudes of one cell of latitude are cut alike.
    """
    south = latitude(at, metres)
    north = south + metres / METRES_NORTH
    farthest = np.clip(np.maximum(np.abs(south), np.abs(north)), 0.0, 90.0)
    width = metres / (METRES_EAST * np.maximum(np.cos(np.radians(farthest)), 1e-9))
    width = np.where(width >= 360.0, 720.0, width)  # one cell, with 180° east in it
    cut = _down(degrees, (degrees + 180.0) / width, lambda number: number * width - 180.0)
    return np.where(np.isfinite(width), cut, np.nan)


def _down(x: Doubles, about: Doubles, edge: Callable[[Doubles], Doubles]) -> Doubles:
    """The largest edge that is not above ``x``.

    Args:
      about: the number of the edge, with its fraction; rounding may have made it a little more or less.
      edge: where the edge of a number is.
    """
    number = np.floor(about)
    number = np.where(edge(number) > x, number - 1, number)
    number = np.where(edge(number + 1) <= x, number + 1, number)
    return np.where(np.abs(number) < _WHOLE, edge(number), x)
