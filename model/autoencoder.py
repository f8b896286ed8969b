"""The autoencoder: it learns what normal readings look like and says how far others are from it.

The exported network takes features in physical units and does everything else inside one graph::

    x [n, F] ─ standardise, clip ─ encoder ─ decoder ─ physical units ─► reconstruction
    (x - reconstruction) / residual spread ─► residual ─┬─ clip ─ M (other residuals) ─► correction
                                                        └─ + correction ─► deviation
    reconstruction - correction ─► expected [n, F], in physical units
    (deviation / its spread) squared ─► error [n, F] ─ root mean square over the features ─► score [n]

What makes it sensitive, measured in docs/model.md:

* The encoder sees values clipped to CLIP standard deviations and, in training, noise. So a reading is rebuilt from the
  others rather than copied, and one far from all normal ones can be neither copied nor spoil the rest.
* Residuals of sensors that belong together (vibration, speed, current) are correlated on normal rows. M predicts each
  residual from the others (the rows of their inverse correlation), which leaves what only this sensor says.
* A deviation counts in units of its spread on normal rows, and the spread is one that 99.9 % of them respect,
  as RMS and normal distribution would have it. A heavy-tailed feature would otherwise set the threshold for all.
* The root mean *square of the squared* deviations lets one sensor that is far off count more than many slightly so.

All layers are Keras' own, so ``keras.saving.load_model`` reads ``model.keras`` without this package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model import tf
from model.network import FILE_NAME as NETWORK_FILE
from model.network import from_keras
from model.rows import Floats, Matrix, slices

CLIP = 4.0  # standard deviations of an input, residual spreads of a residual
SPREAD_FLOOR = 0.01  # of a feature's largest magnitude: a constant one (firmware) must not divide by nothing
RESIDUAL_FLOOR = 0.03  # standard deviations: below it a residual is rounding, not knowledge
RESIDUAL_ROWS = 250_000  # rows at most to learn how residuals spread
CHUNK_ROWS = 1 << 18  # rows in memory at a time
ERROR_LIMIT = 1e6  # spreads; keeps the powers of absurd but finite inputs finite in float32
TAIL, TAIL_SPREADS = 0.999, 3.29  # of a normal distribution, this share lies within so many standard deviations


@dataclass(frozen=True)
class NetworkConfig:
    """What can be chosen about the network and its training; the section ``model`` of a use case overrides it."""

    hidden: tuple[int, ...] = (32, 12, 32)  # units of the hidden layers; the narrowest is the bottleneck
    noise: float = 0.5  # standard deviations of the noise added to inputs in training
    l1: float = 0.0  # activity regularisation of the first hidden layer
    epochs: int = 20  # at most
    batch_size: int = 512  # rows
    learning_rate: float = 3e-3  # at the start; falls to nothing over the epochs, as a cosine
    patience: int = 5  # epochs without a better validation loss before training stops

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> NetworkConfig:
        """The settings that have a name of this class; ``hidden`` may be a list."""
        known = {f.name: settings[f.name] for f in fields(cls) if settings.get(f.name) is not None}
        return cls(**{**known, "hidden": tuple(known.get("hidden", cls.hidden))})


@dataclass(frozen=True)
class Scaling:
    """Centre and spread of each feature on normal rows, float64 [F], in the feature's unit."""

    mean: NDArray[np.float64]
    spread: NDArray[np.float64]  # > 0

    @classmethod
    def fit(cls, rows: Matrix) -> Scaling:
        """Learns from rows, float32 [n, F], in two passes."""
        n = len(rows)
        mean = sum(chunk.sum(axis=0, dtype=np.float64) for chunk in slices(rows, CHUNK_ROWS)) / n
        squares, largest = np.zeros_like(mean), np.zeros_like(mean)
        for chunk in slices(rows, CHUNK_ROWS):
            squares += np.square(chunk - mean).sum(axis=0)
            largest = np.maximum(largest, np.abs(chunk).max(axis=0))
        return cls(mean, np.maximum(np.sqrt(squares / n), np.maximum(SPREAD_FLOOR * largest, 1e-6)))

    def scale(self, rows: Floats) -> Floats:
        """Rows in standard deviations, clipped to CLIP."""
        return np.clip((rows - self.mean) / self.spread, -CLIP, CLIP).astype(np.float32)


@dataclass(frozen=True)
class TrainedCore:
    """The autoencoder proper, and how its training went."""

    core: Any  # keras.Model: scaled rows to scaled rows, float32 [n, F]
    loss: tuple[float, ...]  # mean squared error in standard deviations, per epoch
    validation_loss: tuple[float, ...]


@dataclass(frozen=True)
class TrainedNetwork:
    """The network that is exported, and how its training went."""

    network: Any  # keras.Model: float32 [n, F] in physical units to {"score", "expected", "error"}
    loss: tuple[float, ...]  # as in TrainedCore
    validation_loss: tuple[float, ...]


def train(
    train_rows: Matrix, validation_rows: Matrix, config: NetworkConfig, callbacks: Sequence[Any], seed: int = 0
) -> TrainedNetwork:
    """Trains on normal rows, float32 [n, F] and [m, F], in random order; ``callbacks`` are Keras callbacks.

    Results repeat for a seed (``keras.utils.set_random_seed`` as well) on one machine and library version.
    """
    scaling = Scaling.fit(train_rows)
    trained = train_core(train_rows, validation_rows, scaling, config, callbacks, seed)
    # Of training rows: they are many, the network is too small to have learnt them by heart, and the validation rows,
    # which the threshold comes from, stay untouched.
    rows = train_rows[:RESIDUAL_ROWS]
    residuals = (rows - scaling.mean) / scaling.spread - apply_core(trained.core, scaling.scale(rows))
    network = _assemble(trained.core, scaling, ResidualModel.fit(residuals.astype(np.float64)))
    return TrainedNetwork(network, trained.loss, trained.validation_loss)


def train_core(
    train_rows: Matrix,
    validation_rows: Matrix,
    scaling: Scaling,
    config: NetworkConfig,
    callbacks: Sequence[Any],
    seed: int = 0,
) -> TrainedCore:
    """Trains the autoencoder proper on normal rows in physical units; ``seed`` is of their order in each epoch."""
    keras = tf.keras()
    core = _core(len(scaling.mean), config)
    steps = max(1, len(train_rows) // config.batch_size) * config.epochs
    core.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)),
        loss="mse",
        steps_per_execution=8,
        jit_compile=False,
    )
    stop = keras.callbacks.EarlyStopping(patience=config.patience, restore_best_weights=True)
    history = core.fit(
        batches(train_rows, scaling, config.batch_size, seed),
        validation_data=batches(validation_rows, scaling, 8192),
        epochs=config.epochs,
        shuffle=False,  # the batches are
        verbose=0,
        callbacks=[stop, *callbacks],
    ).history
    return TrainedCore(core, tuple(history["loss"]), tuple(history["val_loss"]))


def batches(rows: Matrix, scaling: Scaling, size: int, seed: int | None = None) -> Any:
    """A ``tf.data.Dataset`` of scaled rows as input and target, ``size`` at a time.

    With a seed each pass over it has another order: chunks of CHUNK_ROWS, and the rows within a chunk. Rows that come
    shuffled, as ``model.rows`` stores them, need no more than that.
    """
    tensorflow, passes = tf.tensorflow(), count()

    def chunks() -> Iterator[Floats]:
        order = None if seed is None else np.random.default_rng((seed, next(passes)))
        starts = np.arange(0, len(rows), CHUNK_ROWS)
        for start in starts if order is None else order.permutation(starts):
            chunk = scaling.scale(rows[start : start + CHUNK_ROWS])
            yield chunk if order is None else chunk[order.permutation(len(chunk))]

    shape = tensorflow.TensorSpec((None, len(scaling.mean)), tensorflow.float32)
    data = tensorflow.data.Dataset.from_generator(chunks, output_signature=shape).rebatch(size)
    known = tensorflow.data.experimental.assert_cardinality(-(-len(rows) // size))
    return data.map(lambda x: (x, x)).apply(known).prefetch(2)


@dataclass(frozen=True)
class ResidualModel:
    """How the residuals of normal rows spread and hang together."""

    spread: NDArray[np.float64]  # [F], root mean square, standard deviations of the feature
    cross: NDArray[np.float64]  # [F, F], column j predicts minus residual j from the other (clipped) residuals
    deviation_spread: NDArray[np.float64]  # [F], of residual j less what the others predict; residual spreads

    @classmethod
    def fit(cls, residuals: NDArray[np.float64]) -> ResidualModel:
        """Learns from residuals in standard deviations, [n, F]."""
        spread = np.maximum(np.sqrt(np.mean(residuals**2, axis=0)), RESIDUAL_FLOOR)
        scaled = np.clip(residuals / spread, -CLIP, CLIP)
        correlation = scaled.T @ scaled / len(scaled)
        # A tenth of a spread is taken as each sensor's own noise: nothing is trusted to be a copy of another.
        precision = np.linalg.inv(correlation + 0.01 * np.eye(len(spread)))
        cross = precision / np.diag(precision) - np.eye(len(spread))
        deviations = np.abs(residuals / spread + scaled @ cross)
        rms = np.sqrt(np.mean(deviations**2, axis=0))
        tail = np.quantile(deviations, TAIL, axis=0) / TAIL_SPREADS
        return cls(spread, cross, np.maximum(np.maximum(rms, tail), RESIDUAL_FLOOR))


def _core(features: int, config: NetworkConfig) -> Any:
    """Scaled rows to scaled rows."""
    keras = tf.keras()
    layers = keras.layers
    narrowest = config.hidden.index(min(config.hidden))
    core = keras.Sequential(name="autoencoder")
    core.add(keras.Input((features,)))
    core.add(layers.GaussianNoise(config.noise))
    for i, units in enumerate(config.hidden):
        core.add(
            layers.Dense(
                units,
                activation=None if i == narrowest else "elu",
                activity_regularizer=keras.regularizers.L1(config.l1) if i == 0 and config.l1 else None,
                name="code" if i == narrowest else f"hidden_{i}",
            )
        )
    core.add(layers.Dense(features, name="reconstruction"))
    return core


def apply_core(core: Any, rows: Floats, block: int = 8192) -> Floats:
    """Scaled rows rebuilt, float32 [n, F] to [n, F]."""
    outputs = [np.asarray(core(rows[i : i + block], training=False)) for i in range(0, len(rows), block)]
    return np.concatenate(outputs)


def _assemble(core: Any, scaling: Scaling, residuals: ResidualModel) -> Any:
    """The network in physical units: scaling, the core, and the score."""
    keras = tf.keras()
    ops, layers = keras.ops, keras.layers

    def divide(by: NDArray[np.float64], name: str, mean: Any = None, invert: bool = False) -> Any:
        mean = np.zeros_like(by) if mean is None else mean
        return layers.Normalization(mean=mean, variance=by**2, invert=invert, name=name)

    x = keras.Input((len(scaling.mean),), name="features")
    scaled = ops.clip(divide(scaling.spread, "standardise", scaling.mean)(x), -CLIP, CLIP)
    reconstruction = divide(scaling.spread, "physical_units", scaling.mean, invert=True)(core(scaled))
    unit = scaling.spread * residuals.spread
    residual = divide(unit, "residual")(ops.subtract(x, reconstruction))
    other_sensors = layers.Dense(len(unit), use_bias=False, name="other_sensors")
    correction = other_sensors(ops.clip(residual, -CLIP, CLIP))
    other_sensors.set_weights([residuals.cross])
    expected = ops.subtract(reconstruction, divide(unit, "correction", invert=True)(correction))
    deviation = divide(residuals.deviation_spread, "deviation")(ops.add(residual, correction))
    error = ops.square(ops.clip(deviation, -ERROR_LIMIT, ERROR_LIMIT))
    score = ops.sqrt(ops.mean(ops.square(error), axis=-1))
    return keras.Model(x, {"score": score, "expected": expected, "error": error}, name="highbeam")


def export(network: Any, folder: Path) -> None:
    """Writes ``model.keras``, ``saved_model/`` (signature ``serve``) and ``network.npz`` into an existing folder."""
    tensorflow, keras = tf.tensorflow(), tf.keras()
    network.save(folder / "model.keras")
    from_keras(network, CLIP, ERROR_LIMIT).save(folder / NETWORK_FILE)
    features = network.input_shape[-1]
    archive = keras.export.ExportArchive()
    archive.track(network)
    archive.add_endpoint(
        name="serve",
        fn=lambda features: network(features, training=False),
        input_signature=[tensorflow.TensorSpec((None, features), tensorflow.float32, name="features")],
    )
    archive.write_out(str(folder / "saved_model"), verbose=False)
