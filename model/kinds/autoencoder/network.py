"""The exported network without TensorFlow: its weights in one file, its formula compiled.

``network.npz`` lies beside ``saved_model/`` in a version's folder and holds the same numbers; the golden vectors of the
version are the proof that both give the same scores. A job that scores imports no TensorFlow, starts in a quarter of
the time and scores about four times as fast (docs/performance.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import UserError
from model.arrays import read_arrays
from model.kinds.autoencoder import network_kernel as kernel
from model.kinds.protocol import Scores

Floats = NDArray[np.float32]

FILE_NAME = "network.npz"


@dataclass(frozen=True)
class Dense:
    """One layer of the autoencoder."""

    kernel: Floats  # [inputs, outputs]
    bias: Floats  # [outputs]
    elu: bool  # the activation; otherwise none


@dataclass(frozen=True)
class Network:
    """The formula at the top of ``keras_network.py``, float32."""

    mean: Floats  # [F], physical units
    spread: Floats  # [F], of the feature, physical units
    layers: tuple[Dense, ...]  # F to F
    residual_spread: Floats  # [F], spreads of the feature times that spread
    cross: Floats  # [F, F], the other sensors' residuals to a correction
    deviation_spread: Floats  # [F], residual spreads
    clip: float
    limit: float
    bend: float = 0.0  # of ``scaling.compress``; 0: values are not compressed (earlier models)
    least: Floats | None = None  # [F], deviations below it count as it; None: there is none (earlier models)
    plain: bool = False  # the root mean square of the deviations, not of their squares

    def score(self, x: Floats) -> Floats:
        """Scores rows, float32 [n, F] in physical units, to float32 [n]; quickest for Fortran order (columns).

        A row's score has the same bits in every block. Several threads may call it.
        """
        return self._run(x, explain=False).score

    def explain(self, x: Floats) -> Scores:
        """Score, expected values and errors of rows, float32 [n, F]; for the few rows that need explaining."""
        return self._run(x, explain=True)

    def _run(self, x: Floats, explain: bool) -> Scores:
        n, features = x.shape
        score = np.empty(n, np.float32)
        expected, error = np.empty((2, features, n if explain else 0), np.float32)
        run: Any = kernel.score  # compiled: takes the prepared arrays
        run(
            np.ascontiguousarray(x.T),
            *self._prepared,
            self.clip,
            self.limit,
            self.bend,
            self.plain,
            score,
            expected,
            error,
        )
        return Scores(score, np.ascontiguousarray(expected.T), np.ascontiguousarray(error.T))

    @cached_property
    def _prepared(self) -> tuple[Any, ...]:
        """What the kernel takes: divisions turned into products, one factor moved into each neighbouring layer."""
        gain = self.spread / self.residual_spread
        layers = list(self.layers)
        layers[-1] = Dense(layers[-1].kernel * gain, layers[-1].bias * gain, layers[-1].elu)
        layers.append(Dense(self.cross / self.deviation_spread, np.zeros_like(gain), False))
        plan, weights, at = np.zeros((len(layers), 5), np.int64), [], 0
        for row, layer in zip(plan, layers, strict=True):
            inputs, outputs = layer.kernel.shape
            padded = np.zeros((_whole(outputs, kernel.OUT_BLOCK), _whole(inputs, kernel.IN_BLOCK)), np.float32)
            padded[:outputs, :inputs] = layer.kernel.T
            bias = np.zeros(len(padded), np.float32)
            bias[:outputs] = layer.bias
            row[:] = at, at + padded.size, padded.shape[1], padded.shape[0], layer.elu
            weights += [padded.ravel(), bias]
            at += padded.size + bias.size
        width = int(plan[:, [kernel.INPUTS, kernel.OUTPUTS]].max())
        ones = np.float32(1)
        scales = (self.mean, ones / self.spread, gain, ones / self.deviation_spread)
        least = np.full_like(gain, -self.limit) if self.least is None else self.least
        return (*scales, np.concatenate(weights), plan, width, self.spread, ones / gain, self.deviation_spread, least)

    def save(self, path: Path) -> None:
        """Writes ``network.npz``."""
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _ARRAYS}
        for i, layer in enumerate(self.layers):
            arrays |= {f"kernel_{i}": layer.kernel, f"bias_{i}": layer.bias}
        arrays |= {"elu": [layer.elu for layer in self.layers], "limits": [self.clip, self.limit, self.bend]}
        if self.least is not None:
            arrays |= {"least": self.least, "plain": self.plain}
        np.savez(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> Network:
        """The counterpart of ``save``; UserError if the file can't be read."""
        try:
            file = read_arrays(path)
            elus = file["elu"].ravel().tolist()
            layers = tuple(Dense(file[f"kernel_{i}"], file[f"bias_{i}"], bool(elu)) for i, elu in enumerate(elus))
            limits = [float(limit) for limit in file["limits"].ravel()]
            mean, spread, residual_spread, cross, deviation_spread = (file[name] for name in _ARRAYS)
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise UserError(f"{path} can't be read ({error}); train again") from error
        if len(limits) not in (2, 3):
            raise UserError(f"{path}: {len(limits)} limits where 3 are expected; train again")
        least, plain = file.get("least"), bool(file.get("plain", np.False_).any())
        clip, limit, bend = (*limits, 0.0)[:3]
        network = cls(
            mean, spread, layers, residual_spread, cross, deviation_spread, clip, limit, bend, least=least, plain=plain
        )
        network._check(path)
        return network

    def _check(self, path: Path) -> None:
        """The kernel indexes without bounds checks: no file may make it read beside its arrays."""
        sizes = [self.mean.size, *(layer.kernel.shape[-1] if layer.kernel.ndim else 0 for layer in self.layers)]
        fits = (
            all(getattr(self, name).shape == (sizes[0],) for name in _ARRAYS if name != "cross")
            and self.cross.shape == (sizes[0], sizes[0])
            and sizes[-1] == sizes[0]
            and (self.least is None or (self.least.shape, self.least.dtype) == ((sizes[0],), np.dtype(np.float32)))
            and all(
                layer.kernel.shape == (inputs, outputs) and layer.bias.shape == (outputs,)
                for layer, inputs, outputs in zip(self.layers, sizes, sizes[1:], strict=False)
            )
            and {a.dtype for layer in self.layers for a in (layer.kernel, layer.bias)} == {np.dtype(np.float32)}
            and {getattr(self, name).dtype for name in _ARRAYS} == {np.dtype(np.float32)}
        )
        if not (self.layers and fits):
            raise UserError(f"{path}: the layers don't fit together; train again")


_ARRAYS = ("mean", "spread", "residual_spread", "cross", "deviation_spread")


def _whole(size: int, block: int) -> int:
    return -(-size // block) * block
