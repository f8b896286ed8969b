"""Which cars there are, whose they are and where they are at home: the same for the fleet and for its payments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

# One letter per digit or letter a VIN may hold (no I, O, Q).
_VIN_ALPHABET = np.array(list("0123456789ABCDEFGHJKLMNPRSTUVWXYZ"))
_FIRST_NAMES = ("Ada", "Björn", "Chloé", "Deniz", "Emil", "Fatou", "Giulia", "Hana", "Ivo", "Jun", "Kaya", "Liv")
_LAST_NAMES = ("Abe", "Bauer", "Costa", "Diallo", "Eriksen", "Fischer", "García", "Huang", "Ito", "Jansen", "Kaur")
LATITUDES, LONGITUDES = (47.5, 54.5), (7.0, 14.0)  # where cars are at home, degrees


@dataclass(frozen=True)
class Cars:
    """Made-up cars, owners and homes, one of each by the number of the car."""

    ids: pa.StringArray
    vins: pa.StringArray
    drivers: pa.StringArray
    latitude: NDArray[np.float64]  # [cars], degrees
    longitude: NDArray[np.float64]  # [cars], degrees

    @classmethod
    def drawn(cls, count: int, rng: np.random.Generator) -> Self:
        """``count`` cars."""
        letters = _VIN_ALPHABET[rng.integers(0, len(_VIN_ALPHABET), (count, 17))]
        first = rng.integers(0, len(_FIRST_NAMES), count).tolist()
        last = rng.integers(0, len(_LAST_NAMES), count).tolist()
        names = [f"{_FIRST_NAMES[f]} {_LAST_NAMES[n]}" for f, n in zip(first, last, strict=True)]
        return cls(
            pa.array([f"car-{i:06d}" for i in range(count)], pa.string()),
            pa.array(["".join(row) for row in letters], pa.string()),
            pa.array(names, pa.string()),
            rng.uniform(*LATITUDES, count),
            rng.uniform(*LONGITUDES, count),
        )


def seeds(seed: int) -> list[np.random.SeedSequence]:
    """The seeds of a world: of its failures, its cars, their motion, their noise, and its payments."""
    return np.random.SeedSequence(seed).spawn(5)


def cars_of(count: int, seed: int) -> Cars:
    """The cars of ``Fleet(count, seed)``."""
    return Cars.drawn(count, np.random.default_rng(seeds(seed)[1]))
