"""The autoencoder as a kind of model: Keras trains it, one compiled loop scores."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import UserError
from model.kinds import tf
from model.kinds.autoencoder import keras_network
from model.kinds.autoencoder.fit import LAST_NETWORK, Fitted, fit
from model.kinds.autoencoder.graph import FOLDER, SavedGraph
from model.kinds.autoencoder.network import FILE_NAME, Network
from model.kinds.autoencoder.settings import NetworkConfig
from model.kinds.protocol import FittedModel, ModelKind, Scorer, Scores, Training
from model.rows import Floats


class Autoencoder:
    """Says how far readings are from what the others let expect; see docs/model.md."""

    settings = NetworkConfig
    modules = ("tensorflow", "keras", "tensorboard")

    def fit(self, training: Training[NetworkConfig]) -> FittedModel:
        """Fits two networks, the second to what the first took for normal (``fit.py``)."""
        keras, config = tf.keras(), training.settings
        keras.utils.set_random_seed(training.seed)
        tf.tensorflow().config.experimental.enable_op_determinism()
        callbacks = partial(_callbacks, training)
        only_more = np.isin(training.features, config.only_more)
        found = fit(training.train, training.validation, config, training.seed, callbacks, training.normal, only_more)
        check_scores(found.validation.scores, config.learning_rate)
        return FittedModel(
            scorer=KerasScorer(found.network),
            save=partial(_save, found),
            train=found.train,
            validation=found.validation,
            loss=found.loss,
            validation_loss=found.validation_loss,
        )

    def load(self, folder: Path) -> Scorer:
        """``network.npz``, or, of a version made before there was one, the SavedModel."""
        compiled = folder / FILE_NAME
        return Network.load(compiled) if compiled.exists() else SavedGraph(folder / FOLDER)


KIND: ModelKind[NetworkConfig] = Autoencoder()


class KerasScorer(Scorer):
    """The network as Keras calculates it: slow, and the proof of the compiled loop."""

    def __init__(self, network: Any) -> None:
        self._network = network

    def score(self, x: Floats) -> Floats:
        return self.explain(x).score

    def explain(self, x: Floats) -> Scores:
        found = self._network(x, training=False)
        return Scores(*(np.asarray(found[name]) for name in ("score", "expected", "error")))


def check_scores(scores: NDArray[Any], learning_rate: float) -> None:
    """UserError if training came to numbers that are none."""
    bad = int(np.count_nonzero(~np.isfinite(scores)))
    if bad:
        raise UserError(
            f"training diverged: {bad:,} of {len(scores):,} validation rows have no finite score; lower "
            f"model.learning_rate in use_case.yaml, which is {learning_rate:g}"
        )


def _save(found: Fitted, folder: Path) -> None:
    keras_network.export(found.network, folder)
    found.compiled.save(folder / FILE_NAME)


def _callbacks(training: Training[NetworkConfig], name: str, epochs: int) -> Sequence[Any]:
    """Keras callbacks of a network: its progress, and for the last one TensorBoard's logs."""
    keras, done = tf.keras(), 0

    def on_epoch_end(epoch: int, losses: dict[str, float]) -> None:
        nonlocal done
        done = epoch + 1
        training.progress(name, done, epochs, f"loss {losses['val_loss']:.4f}")

    def on_train_end(losses: dict[str, float] | None) -> None:
        training.progress(name, done, done, "")  # it may have stopped early

    found = [keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end, on_train_end=on_train_end)]
    if name != LAST_NETWORK:
        return found
    return [keras.callbacks.TensorBoard(str(training.logs), write_graph=False), *found]
