"""The autoencoder: it learns what normal readings look like and says how far others are from it.

The exported network takes features in physical units and does everything else inside one graph::

    x [n, F] ─ standardise, compress ─► z ─ clip ─ encoder ─ decoder ─► reconstruction
    (z - reconstruction) / residual spread ─► residual ─┬─ clip ─ M (other residuals) ─► correction
                                                        └─ + correction ─► deviation
    reconstruction - correction ─ stretch, physical units ─► expected [n, F]
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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.kinds import tf
from model.kinds.autoencoder.network import Dense, Network
from model.kinds.autoencoder.scaling import FARTHEST, Scaling
from model.kinds.autoencoder.settings import NetworkConfig
from model.rows import Floats, Matrix, slices

CLIP = 4.0  # standard deviations of an input, residual spreads of a residual
RESIDUAL_FLOOR = 0.03  # standard deviations: below it a residual is rounding, not knowledge
RESIDUAL_ROWS = 250_000  # rows at most to learn how residuals spread
CHUNK_ROWS = 1 << 18  # rows in memory at a time
ERROR_LIMIT = 1e6  # spreads; keeps the powers of absurd but finite inputs finite in float32
TAIL, TAIL_SPREADS = 0.999, 3.29  # of a normal distribution, this share lies within so many standard deviations
WILD, WILD_SPREADS = 0.99, 2.576  # the same, for a spread that one row in a hundred can't move
WILD_LIMIT = 10.0  # such spreads: a residual beyond counts as this much


@dataclass(frozen=True)
class TrainedCore:
    """The autoencoder proper, and how its training went."""

    core: Any  # keras.Model: scaled rows to scaled rows, float32 [n, F]
    loss: tuple[float, ...]  # mean squared error in standard deviations, per epoch
    validation_loss: tuple[float, ...]  # the same of the validation rows that were rebuilt best, 1 - the trimmed share
    learnt: NDArray[np.bool_]  # [n], training rows of the last epoch


def train_core(
    rows: Matrix,
    validation_rows: Matrix,
    scaling: Scaling,
    config: NetworkConfig,
    callbacks: Sequence[Any],
    seed: int = 0,
    kept: NDArray[np.bool_] | None = None,
    trim: float = 0.0,
) -> TrainedCore:
    """Trains the autoencoder proper; ``seed`` is of the rows' order in each epoch.

    Args:
      rows, validation_rows: float32 [n, F] and [m, F], physical units, in random order.
      scaling: of the rows.
      config: of the network and its training.
      callbacks: Keras'.
      kept: [n], rows to learn from; None: all.
      trim: share of them that each epoch but the first leaves out: those rebuilt worst in the one before.
    """
    keras = tf.keras()
    core = _core(len(scaling.mean), config)
    selected = Selected(np.ones(len(rows), np.bool_) if kept is None else kept, trim)
    steps = -(-selected.count // config.batch_size) * config.epochs
    core.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)),
        loss="mse",
        steps_per_execution=8,
        jit_compile=False,
    )
    core.optimizer.build(core.trainable_variables)  # or the first step makes them, and the graph is made twice

    def on_epoch_end(epoch: int, logs: dict[str, float]) -> None:
        logs["val_loss"] = _loss(core, validation_rows, scaling, trim)
        if trim:
            selected.learnt = _rebuilt_well(core, rows, selected, scaling)

    watch = keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end)
    stop = keras.callbacks.EarlyStopping(patience=config.patience, restore_best_weights=True)
    history = core.fit(
        batches(rows, scaling, config.batch_size, seed, selected),
        epochs=config.epochs,
        shuffle=False,  # the batches are
        verbose=0,
        callbacks=[watch, stop, *callbacks],
    ).history
    output = core.get_layer("reconstruction")
    # What never changes is not rebuilt from the others: a network that wavers would call its every value strange.
    output.set_weights([np.where(scaling.constant, 0, weights) for weights in output.get_weights()])
    return TrainedCore(core, tuple(history["loss"]), tuple(history["val_loss"]), selected.learnt)


class Selected:
    """Which rows the next epoch learns from: ``count`` of those kept."""

    def __init__(self, kept: NDArray[np.bool_], trim: float) -> None:
        self.kept = self.learnt = kept  # [n], of all epochs, of the next one
        self.count = max(1, round((1 - trim) * int(kept.sum())))


def _loss(core: Any, rows: Matrix, scaling: Scaling, trim: float) -> float:
    """Mean squared error of the rows rebuilt best, a share of 1 - ``trim``."""
    errors = []
    for chunk in slices(rows, CHUNK_ROWS):
        scaled = clipped(scaling.scale(chunk))
        errors.append(np.square(scaled - apply_core(core, scaled)).mean(axis=1))
    ordered = np.sort(np.concatenate(errors))
    return float(ordered[: max(1, round((1 - trim) * len(ordered)))].mean())


def _rebuilt_well(core: Any, rows: Matrix, selected: Selected, scaling: Scaling) -> NDArray[np.bool_]:
    """The rows kept but for the worst: by the residual before clipping, in robust spreads of each feature.

    By the clipped error outliers would become learnable: they look alike once they are clipped.
    """
    kept, spread, error = selected.kept, None, np.empty(len(rows), np.float32)
    for start in range(0, len(rows), CHUNK_ROWS):
        chunk = slice(start, start + CHUNK_ROWS)
        found = residuals(core, scaling, rows[chunk])
        if spread is None:  # rows are in random order: the first chunk stands for all
            some = np.abs(found[kept[chunk]] if kept[chunk].any() else found)
            spread = np.maximum(np.quantile(some, 0.9, axis=0) / 1.645, RESIDUAL_FLOOR).astype(np.float32)
        error[chunk] = np.square(found / spread).mean(axis=1)
    error[~kept] = np.inf
    learnt = np.zeros(len(rows), np.bool_)
    learnt[np.argpartition(error, selected.count - 1)[: selected.count]] = True
    return learnt


def residuals(core: Any, scaling: Scaling, rows: Floats) -> Floats:
    """What rows, [n, F] in physical units, differ from their reconstruction, in compressed spreads."""
    scaled = scaling.scale(rows)
    return scaled - apply_core(core, clipped(scaled))


def batches(rows: Matrix, scaling: Scaling, size: int, seed: int, selected: Selected) -> Any:
    """A ``tf.data.Dataset`` of scaled rows as input and target, ``size`` at a time.

    Each pass over it has another order: chunks of CHUNK_ROWS, and the rows within a chunk. Rows that come shuffled, as
    ``model.rows`` stores them, need no more than that. ``selected`` is asked at the start of each pass.
    """
    tensorflow, passes = tf.tensorflow(), count()

    def chunks() -> Iterator[Floats]:
        order, learnt = np.random.default_rng((seed, next(passes))), selected.learnt
        for start in order.permutation(np.arange(0, len(rows), CHUNK_ROWS)).tolist():
            chunk = rows[start : start + CHUNK_ROWS][learnt[start : start + CHUNK_ROWS]]
            yield clipped(scaling.scale(chunk))[order.permutation(len(chunk))]

    shape = tensorflow.TensorSpec((None, len(scaling.mean)), tensorflow.float32)
    data = tensorflow.data.Dataset.from_generator(chunks, output_signature=shape)
    data = data.rebatch(size).take(-(-selected.count // size)).map(lambda x: (x, x))
    return data.apply(tensorflow.data.experimental.assert_cardinality(-(-selected.count // size))).prefetch(2)


def clipped(scaled: Floats) -> Floats:
    """What the encoder sees of scaled rows."""
    return np.clip(scaled, -CLIP, CLIP)


@dataclass(frozen=True)
class ResidualModel:
    """How the residuals of normal rows spread and hang together."""

    spread: NDArray[np.float64]  # [F], root mean square, standard deviations of the feature
    cross: NDArray[np.float64]  # [F, F], column j predicts minus residual j from the other (clipped) residuals
    deviation_spread: NDArray[np.float64]  # [F], of residual j less what the others predict; residual spreads
    least: NDArray[np.float64]  # [F], deviations below it count as it: 0 where only more than expected is suspicious
    plain: bool = False  # the score is the root mean square of the deviations, not of their squares

    @classmethod
    def fit(
        cls, residuals: NDArray[np.float64], only_more: NDArray[np.bool_] | None = None, variance: bool = False
    ) -> ResidualModel:
        """Learns from residuals in (compressed) standard deviations, [n, F]; single ones may be wild.

        Args:
          only_more: [F], features of which only more than expected is suspicious; None: none.
          variance: each deviation counts by its own variance alone.
        """
        features = residuals.shape[1]
        least = np.where(np.zeros(features, np.bool_) if only_more is None else only_more, 0.0, -ERROR_LIMIT)
        usual = np.maximum(np.quantile(np.abs(residuals), WILD, axis=0) / WILD_SPREADS, RESIDUAL_FLOOR)
        residuals = np.clip(residuals, -WILD_LIMIT * usual, WILD_LIMIT * usual)
        spread = np.maximum(np.sqrt(np.mean(residuals**2, axis=0)), RESIDUAL_FLOOR)
        if variance:
            return cls(spread, np.zeros((features, features)), np.ones(features), least, plain=True)
        scaled = np.clip(residuals / spread, -CLIP, CLIP)
        correlation = scaled.T @ scaled / len(scaled)
        # A tenth of a spread is taken as each sensor's own noise: nothing is trusted to be a copy of another.
        precision = np.linalg.inv(correlation + 0.01 * np.eye(len(spread)))
        cross = precision / np.diag(precision) - np.eye(len(spread))
        deviations = np.abs(residuals / spread + scaled @ cross)
        rms = np.sqrt(np.mean(deviations**2, axis=0))
        tail = np.quantile(deviations, TAIL, axis=0) / TAIL_SPREADS
        return cls(spread, cross, np.maximum(np.maximum(rms, tail), RESIDUAL_FLOOR), least)


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


def assemble(core: Any, scaling: Scaling, residuals: ResidualModel) -> Any:
    """The network in physical units: scaling, the core, and the score."""
    keras = tf.keras()
    ops, layers = keras.ops, keras.layers

    def divide(by: NDArray[np.float64], name: str, invert: bool = False) -> Any:
        return layers.Normalization(mean=np.zeros_like(by), variance=by**2, invert=invert, name=name)

    # Normalization knows variances of 1e-14 to 1e38 only; units may be smaller than 1e-7.
    mean, spread = scaling.mean.tolist(), scaling.spread.tolist()
    x = keras.Input((len(mean),), name="features")
    centred = layers.Rescaling(1.0, [-centre for centre in mean], name="centre")(x)
    standardised = layers.Rescaling([1 / width for width in spread], name="standardise")(centred)
    bends = ops.clip(ops.multiply(standardised, 1 / scaling.bend), -FARTHEST, FARTHEST)
    scaled = ops.multiply(ops.arcsinh(bends), scaling.bend)
    reconstruction = core(ops.clip(scaled, -CLIP, CLIP))
    residual = divide(residuals.spread, "residual")(ops.subtract(scaled, reconstruction))
    other_sensors = layers.Dense(len(mean), use_bias=False, name="other_sensors")
    correction = other_sensors(ops.clip(residual, -CLIP, CLIP))
    other_sensors.set_weights([residuals.cross])
    normal = ops.subtract(reconstruction, divide(residuals.spread, "correction", invert=True)(correction))
    stretched = ops.multiply(ops.sinh(ops.multiply(normal, 1 / scaling.bend)), scaling.bend)
    expected = layers.Rescaling(spread, mean, name="physical_units")(stretched)
    deviation = divide(residuals.deviation_spread, "deviation")(ops.add(residual, correction))
    error = ops.square(ops.maximum(ops.clip(deviation, -ERROR_LIMIT, ERROR_LIMIT), residuals.least.astype(np.float32)))
    score = ops.sqrt(ops.mean(error if residuals.plain else ops.square(error), axis=-1))
    return keras.Model(x, {"score": score, "expected": expected, "error": error}, name="highbeam")


def compiled(core: Any, scaling: Scaling, residuals: ResidualModel) -> Network:
    """The same formula and numbers for the compiled loop."""

    def array(values: Any) -> Floats:
        return np.ascontiguousarray(values, np.float32)

    return Network(
        mean=array(scaling.mean),
        spread=array(scaling.spread),
        layers=tuple(
            Dense(array(layer.weights[0]), array(layer.weights[1]), layer.activation.__name__ == "elu")
            for layer in core.layers
            if layer.weights
        ),
        residual_spread=array(residuals.spread * scaling.spread),
        cross=array(residuals.cross),
        deviation_spread=array(residuals.deviation_spread),
        clip=CLIP,
        limit=ERROR_LIMIT,
        bend=scaling.bend,
        least=array(residuals.least),
        plain=residuals.plain,
    )


def export(network: Any, folder: Path) -> None:
    """Writes ``model.keras`` and ``saved_model/`` (signature ``serve``) of ``assemble``'s network into a folder."""
    tensorflow, keras = tf.tensorflow(), tf.keras()
    network.save(folder / "model.keras")
    features = network.input_shape[-1]
    archive = keras.export.ExportArchive()
    archive.track(network)
    archive.add_endpoint(
        name="serve",
        fn=lambda features: network(features, training=False),
        input_signature=[tensorflow.TensorSpec((None, features), tensorflow.float32, name="features")],
    )
    archive.write_out(str(folder / "saved_model"), verbose=False)
