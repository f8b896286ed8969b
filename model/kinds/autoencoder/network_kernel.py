"""The network of ``keras_network.py`` as one compiled loop: physical units to scores, no intermediate matrix.

Rows go through all layers a tile at a time, feature by feature: a tile of every layer fits into the first-level cache,
and each inner loop is over neighbouring rows, which the compiler turns into vector instructions. A short last tile is
padded, so a row's score has the same bits wherever in a block it stands.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.jit import compiled_fused

Floats = NDArray[np.float32]

TILE = 256  # rows; 64 to 256 measured alike, 32 and 1,024 slower (docs/performance.md)
OUT_BLOCK, IN_BLOCK = 2, 4  # outputs and inputs of a layer that are worked on together

# Columns of a layer's row in ``plan``.
KERNEL, BIAS, INPUTS, OUTPUTS, ELU = range(5)

_FLOAT = np.float32
_ROUNDED = np.float32(3 * 2**22 + 127)
_LOG_2 = np.float32(0.69314718)
_HALF_ROOT = np.int32(0x3F3504F3)  # the bits of sqrt(1/2)


@compiled_fused
def _dense(weights: Floats, kernel: int, bias: int, inputs: int, outputs: int, x: Floats, y: Floats) -> None:
    """y[o] = bias[o] + sum of kernel[o, i] * x[i]; both sizes are padded to whole blocks."""
    for o in range(0, outputs, OUT_BLOCK):
        first, second = y[o], y[o + 1]
        bias_1, bias_2 = weights[bias + o], weights[bias + o + 1]
        for j in range(TILE):
            first[j] = bias_1
            second[j] = bias_2
        for i in range(0, inputs, IN_BLOCK):
            k = kernel + o * inputs + i
            a0, a1, a2, a3 = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
            k += inputs
            b0, b1, b2, b3 = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
            x0, x1, x2, x3 = x[i], x[i + 1], x[i + 2], x[i + 3]
            for j in range(TILE):
                first[j] = first[j] + a0 * x0[j] + a1 * x1[j] + a2 * x2[j] + a3 * x3[j]
                second[j] = second[j] + b0 * x0[j] + b1 * x1[j] + b2 * x2[j] + b3 * x3[j]


@compiled_fused
def _elu(x: Floats) -> None:
    """x where positive, else exp(x) - 1: 2 ulp of 1.

    exp(x) = 2^power exp(r) with |r| <= log(2) / 2. The polynomial of exp(r) is minimax (Lawson's iteration), 4e-9.
    """
    for j in range(TILE):
        value = x[j]
        low = _FLOAT(-87) if value < _FLOAT(-87) else value
        low = _FLOAT(0) if low > _FLOAT(0) else low
        # At this size a float's last bit is 1: the sum is rounded, and its lowest bits are the power plus 127.
        shifted = low * _FLOAT(1.44269504088896341) + _ROUNDED
        power = shifted - _ROUNDED
        r = low - power * _LOG_2
        p = _FLOAT(0.00139504901)
        p = p * r + _FLOAT(0.00836888947)
        p = p * r + _FLOAT(0.0416662058)
        p = p * r + _FLOAT(0.166665188)
        p = p * r + _FLOAT(0.50000001)
        p = p * r * r + r
        scale = np.int32(_FLOAT(shifted).view(np.int32) << np.int32(23)).view(_FLOAT)
        x[j] = value if value > _FLOAT(0) else scale * p + (scale - _FLOAT(1))


@compiled_fused
def _clip(value: Any, limit: Any) -> Any:
    """A NaN stays one: both comparisons are false."""
    return -limit if value < -limit else (limit if value > limit else value)


@compiled_fused
def _asinh(value: Any) -> Any:
    """asinh(value) as log(t + sqrt(t * t + 1)), absolute error 2e-7 up to 4, relative beyond.

    log(w) = exponent log(2) + log(1 + f) with w between sqrt(1/2) and sqrt(2) times a power of two. The polynomial of
    log(1 + f) is minimax (Lawson's iteration), 4e-8.
    """
    t = min(np.abs(value), _FLOAT(1e9))  # scaling.FARTHEST
    w = t + np.sqrt(t * t + _FLOAT(1))
    bits = np.int32(_FLOAT(w).view(np.int32) - _HALF_ROOT)
    exponent = _FLOAT(np.int32(bits >> np.int32(23)))
    f = np.int32(np.int32(bits & np.int32(0x7FFFFF)) + _HALF_ROOT).view(_FLOAT) - _FLOAT(1)
    p = _FLOAT(-0.100345193)
    p = p * f + _FLOAT(0.163356268)
    p = p * f - _FLOAT(0.173260176)
    p = p * f + _FLOAT(0.198882793)
    p = p * f - _FLOAT(0.249614634)
    p = p * f + _FLOAT(0.333352614)
    p = p * f - _FLOAT(0.500005844)
    log = p * (f * f) + (f + exponent * _LOG_2)
    return value if value != value else np.copysign(log, value)  # a NaN stays one


@compiled_fused
def score(
    x: Floats,
    mean: Floats,
    inverse_spread: Floats,
    gain: Floats,
    inverse_deviation: Floats,
    weights: Floats,
    plan: NDArray[np.int64],
    width: int,
    spread: Floats,
    per_gain: Floats,
    deviation_spread: Floats,
    least: Floats,
    clip: float,
    limit: float,
    bend: float,
    plain: bool,
    out: Floats,
    expected: Floats,
    errors: Floats,
) -> None:
    """Scores rows, and explains them where ``expected`` has room for it.

    Args:
      x: [F, n], C-contiguous, physical units.
      mean, inverse_spread: [F], standardise a feature.
      gain: [F], standard deviations to residual spreads.
      inverse_deviation: [F], residual spreads to deviations.
      weights: all kernels [outputs, inputs] and biases, padded with zeros to whole blocks.
      plan: a row a layer; the last one is the map of the other sensors.
      width: the largest padded layer.
      spread, per_gain, deviation_spread: [F], of the feature, physical units; of the residuals, standard deviations;
        of the deviations, residual spreads.
      clip, limit: bounds of standardised values and residuals, and of deviations.
      least: [F], deviations below it count as it.
      bend: where standardised values are compressed; 0: they are not.
      plain: the score is the root mean square of the deviations, not of their squares.
      out: [n], the scores.
      expected, errors: [F, n], what was expected, physical units, and squared deviations; or [F, 0]: not wanted.
    """
    features, n = x.shape
    z = np.zeros((width, TILE), np.float32)
    a = np.zeros((width, TILE), np.float32)
    b = np.zeros((width, TILE), np.float32)
    built = np.zeros((width, TILE), np.float32)
    total = np.empty(TILE, np.float32)
    explain = expected.shape[1] > 0
    share = _FLOAT(1.0 / features)
    bound, limit_, bend_ = _FLOAT(clip), _FLOAT(limit), _FLOAT(bend)
    per_bend = _FLOAT(1) / bend_ if bend_ > _FLOAT(0) else _FLOAT(0)
    last = len(plan) - 1
    for start in range(0, n, TILE):
        rows = min(TILE, n - start)
        for f in range(features):
            source, target, clipped = x[f], z[f], a[f]
            centre, factor = mean[f], inverse_spread[f]
            for j in range(rows):
                target[j] = (source[start + j] - centre) * factor
            for j in range(rows, TILE):
                target[j] = 0
            if bend_ > _FLOAT(0):  # scaling.compress
                for j in range(TILE):
                    target[j] = bend_ * _asinh(target[j] * per_bend)
            for j in range(TILE):
                clipped[j] = _clip(target[j], bound)
        for f in range(features, width):
            a[f, :] = 0
        here, there = a, b
        for layer in range(last):
            step = plan[layer]
            _dense(weights, step[KERNEL], step[BIAS], step[INPUTS], step[OUTPUTS], here, there)
            if step[ELU]:
                for o in range(step[OUTPUTS]):
                    _elu(there[o])
            here, there = there, here
        if explain:
            for f in range(features):
                built[f] = here[f]
        for f in range(features):
            residual, rebuilt, factor = z[f], here[f], gain[f]
            for j in range(TILE):
                value = residual[j] * factor - rebuilt[j]
                residual[j] = value
                rebuilt[j] = _clip(value, bound)
        for f in range(features, width):
            here[f, :] = 0
        step = plan[last]
        _dense(weights, step[KERNEL], step[BIAS], step[INPUTS], step[OUTPUTS], here, there)
        for j in range(TILE):
            total[j] = 0
        for f in range(features):
            residual, others, factor, low = z[f], there[f], inverse_deviation[f], least[f]
            for j in range(TILE):
                deviation = _clip(residual[j] * factor + others[j], limit_)
                deviation = low if deviation < low else deviation
                error = deviation * deviation
                total[j] += error if plain else error * error
        for j in range(rows):
            out[start + j] = np.sqrt(total[j] * share)
        if explain:
            for f in range(features):
                residual_of, deviation_of = per_gain[f], deviation_spread[f]
                for j in range(rows):
                    normal = (built[f, j] - there[f, j] * deviation_of) * residual_of
                    if bend_ > _FLOAT(0):
                        normal = bend_ * np.sinh(normal * per_bend)
                    expected[f, start + j] = mean[f] + spread[f] * normal
                    deviation = _clip(z[f, j] * inverse_deviation[f] + there[f, j], limit_)
                    deviation = least[f] if deviation < least[f] else deviation
                    errors[f, start + j] = deviation * deviation
