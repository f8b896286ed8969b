"""The trained network as plain numbers, for peers that compute it by hand: weights.json and the formula in numpy.

    python -m bench.weights MODEL_REGISTRY weights.json
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.autoencoder import CLIP, ERROR_LIMIT

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Weights:
    """The exported network (model/autoencoder.py explains the formula), float32."""

    features: tuple[str, ...]
    threshold: float
    model: str
    version: str
    mean: Floats  # [F]
    spread: Floats  # [F]
    dense: tuple[tuple[Floats, Floats, bool], ...]  # kernel [in, out], bias [out], whether elu follows
    unit: Floats  # [F], divides the residual
    cross: Floats  # [F, F]
    deviation_spread: Floats  # [F]

    @classmethod
    def load(cls, path: str | Path) -> Weights:
        """Reads ``weights.json``."""
        value = json.loads(Path(path).read_text())

        def array(name: str) -> Floats:
            return np.array(value[name], np.float32)

        dense = tuple(
            (np.array(layer["kernel"], np.float32), np.array(layer["bias"], np.float32), layer["elu"])
            for layer in value["dense"]
        )
        named = (tuple(value["features"]), value["threshold"], value["model"], value["version"])
        return cls(
            *named, array("mean"), array("spread"), dense, array("unit"), array("cross"), array("deviation_spread")
        )

    def score(self, x: Floats) -> Floats:
        """Float32 [n, F] in physical units to float32 [n]."""
        rows = np.clip((x - self.mean) / self.spread, -CLIP, CLIP)
        for kernel, bias, elu in self.dense:
            rows = rows @ kernel + bias
            if elu:
                rows = np.where(rows > 0, rows, np.expm1(np.minimum(rows, 0)))
        residual = (x - (rows * self.spread + self.mean)) / self.unit
        deviation = (residual + np.clip(residual, -CLIP, CLIP) @ self.cross) / self.deviation_spread
        error = np.square(np.clip(deviation, -ERROR_LIMIT, ERROR_LIMIT))
        score: Floats = np.sqrt(np.mean(np.square(error), axis=-1))
        return score


def main(registry: str, output: str) -> None:
    from model import manifest, tf
    from model.registry import resolve

    version = resolve(registry, "car_sensors")
    described = manifest.read(version.path)
    network = tf.keras().saving.load_model(version.path / "model.keras")

    def spread(layer: str) -> list[float]:
        return list(np.sqrt(np.asarray(network.get_layer(layer).variance, np.float64))[0].tolist())

    dense: list[dict[str, Any]] = []
    for layer in network.get_layer("autoencoder").layers:
        if layer.weights:
            kernel, bias = (np.asarray(w).tolist() for w in layer.weights)
            dense.append({"kernel": kernel, "bias": bias, "elu": layer.activation.__name__ == "elu"})
    value = {
        "features": described.features,
        "threshold": described.threshold,
        "model": described.name,
        "version": described.version,
        "clip": CLIP,
        "error_limit": ERROR_LIMIT,
        "mean": np.asarray(network.get_layer("standardise").mean)[0].tolist(),
        "spread": spread("standardise"),
        "dense": dense,
        "unit": spread("residual"),
        "cross": np.asarray(network.get_layer("other_sensors").weights[0]).tolist(),
        "deviation_spread": spread("deviation"),
    }
    Path(output).write_text(json.dumps(value))


if __name__ == "__main__":
    main(*sys.argv[1:3])
