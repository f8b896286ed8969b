"""The net to beat: the autoencoder of the reference architecture's author, defects included.

18 inputs scaled to [-1, 1] by fixed ranges, four of them set to 0; Dense 18-14 tanh (L1 1e-7)-7 relu-7 tanh-18 relu;
mean squared error; Adam; 20 epochs of 10,000 rows in batches of 100. Its relu output cannot rebuild the negative half
of its own inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from model.kinds import tf
from model.rows import Floats, Matrix, slices

_TIRE, _ACCELEROMETER = (20.0, 35.0), (0.0, 7.0)

RANGES: Mapping[str, tuple[float, float] | None] = MappingProxyType(
    {
        "coolant_temp": None,
        "intake_air_temp": (15.0, 40.0),
        "intake_air_flow_speed": None,
        "battery_percentage": (0.0, 100.0),
        "battery_voltage": None,
        "current_draw": None,
        "speed": (0.0, 50.0),
        "engine_vibration_amplitude": (0.0, 7500.0),
        "throttle_pos": (0.0, 1.0),
        **{f"tire_pressure_{wheel}": _TIRE for wheel in ("1_1", "1_2", "2_1", "2_2")},
        **{f"accelerometer_{wheel}_value": _ACCELEROMETER for wheel in ("1_1", "1_2", "2_1", "2_2")},
        "control_unit_firmware": (1000.0, 2000.0),
    }
)
"""Input to the (min, max) that becomes (-1, 1); None: the input is set to 0."""

ROWS, EPOCHS, BATCH_SIZE = 10_000, 20, 100


def scale(rows: Floats, features: Sequence[str]) -> Floats:
    """Features in physical units, float32 [n, F], to its inputs, float32 [n, 18]."""
    columns = []
    for name, limits in RANGES.items():
        values = rows[:, features.index(name)]
        if limits is None:
            columns.append(np.zeros_like(values))
        else:
            low, high = limits
            columns.append((values - low) / (high - low) * 2 - 1)
    return np.stack(columns, axis=1).astype(np.float32)


def train(rows: Matrix, features: Sequence[str]) -> Any:
    """Trains it on the first ROWS of the normal rows, float32 [n, F]; a keras.Model on scaled inputs."""
    keras = tf.keras()
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((len(RANGES),)),
            layers.Dense(14, "tanh", activity_regularizer=keras.regularizers.L1(1e-7)),
            layers.Dense(7, "relu"),
            layers.Dense(7, "tanh"),
            layers.Dense(len(RANGES), "relu"),
        ]
    )
    network.compile(optimizer="adam", loss="mse", steps_per_execution=10, jit_compile=False)
    x = scale(rows[:ROWS], features)
    network.fit(x, x, epochs=EPOCHS, batch_size=BATCH_SIZE, verbose=0)
    return network


def keras_score(network: Any, rows: Floats, features: Sequence[str], block: int = 8192) -> Floats:
    """Its score, float32 [n]: the mean squared error of the scaled inputs."""
    scores = [np.empty(0, np.float32)]
    for some in slices(rows, block):
        x = scale(some, features)
        scores.append(np.mean((x - np.asarray(network(x, training=False))) ** 2, axis=1))
    return np.concatenate(scores)
