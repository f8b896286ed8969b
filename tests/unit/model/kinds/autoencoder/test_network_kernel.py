"""The kernel's own exp and asinh against numpy's in double precision, over everything a feature can show."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from beam_jobs.jit import compiled_fused
from model.kinds.autoencoder import network_kernel as kernel

EDGES = np.array([0, 1e-30, 1e-7, 0.347, 0.35, 0.5, 1, np.sqrt(2), 87, 88, 1e3, 1e9], np.float32)
VALUES = np.concatenate([EDGES, np.geomspace(1e-6, 86, 4084, dtype=np.float32)])
VALUES = np.concatenate([VALUES, -VALUES]).reshape(-1, kernel.TILE)


@compiled_fused
def _all_asinh(x: NDArray[np.float32], y: NDArray[np.float32]) -> None:
    for i in range(len(x)):
        y[i] = kernel._asinh(x[i])


def asinh(x: NDArray[np.float32]) -> NDArray[np.float32]:
    y = np.empty_like(x)
    _all_asinh(x, y)
    return y


def test_elu_is_exp_minus_one_below_zero() -> None:
    tiles = VALUES.copy()
    for tile in tiles:
        kernel._elu(tile)
    exact = np.where(VALUES > 0, VALUES, np.expm1(np.minimum(VALUES, 0).astype(np.float64)))
    np.testing.assert_allclose(tiles, exact, rtol=0, atol=2.4e-7)
    np.testing.assert_array_equal(tiles[VALUES > 0], VALUES[VALUES > 0])


def test_asinh_is_numpys() -> None:
    exact = np.arcsinh(VALUES.ravel().astype(np.float64))
    np.testing.assert_allclose(asinh(VALUES.ravel()), exact, rtol=2e-7, atol=2e-7)


def test_what_is_no_number_or_without_bounds() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 3e38], np.float32)
    far = np.arcsinh(1e9)
    np.testing.assert_allclose(asinh(x), [np.nan, far, -far, far], rtol=1e-6)
    tile = np.zeros(kernel.TILE, np.float32)
    tile[:3] = x[:3]
    kernel._elu(tile)
    np.testing.assert_array_equal(tile[:3], np.array([np.nan, np.inf, -1], np.float32))
