"""The net to beat as a kind of model: named as ``baseline`` by the use case of the cars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from beam_jobs.errors import UserError
from model.arrays import read_arrays
from model.kinds import tf
from model.kinds.car_baseline import network
from model.kinds.protocol import FittedModel, Judged, ModelKind, Scorer, Training
from model.rows import Floats

FILE_NAME = "baseline.npz"
_TANH = (True, False, True, False)  # activation of each layer: tanh, else relu


@dataclass(frozen=True)
class NoSettings:
    """Nothing about it can be chosen: it is as its author made it."""


class CarBaseline:
    """Scores without saying why; outliers among its training rows are learnt like the others."""

    settings = NoSettings
    modules = ("tensorflow", "keras")

    def fit(self, training: Training[NoSettings]) -> FittedModel:
        """Trains it; UserError if a feature it needs is missing."""
        missing = sorted(network.RANGES.keys() - set(training.features))
        if missing:
            raise UserError(
                f"the kind car_baseline needs the feature {missing[0]}; leave it out of use_case.yaml, or train with "
                "--no-baseline"
            )
        tf.keras().utils.set_random_seed(training.seed)
        scorer = _KerasScorer(network.train(training.train.x, training.features), training.features)
        return FittedModel(
            scorer=scorer,
            save=scorer.save,
            train=Judged.kept(scorer, training.train),
            validation=Judged.kept(scorer, training.validation),
        )

    def load(self, folder: Path) -> Scorer:
        """What ``save`` wrote."""
        return _Layers.load(folder / FILE_NAME)


KIND: ModelKind[NoSettings] = CarBaseline()


class _KerasScorer(Scorer):
    """The net as Keras calculates it."""

    def __init__(self, net: Any, features: Sequence[str]) -> None:
        self._net = net
        self._features = list(features)

    def score(self, x: Floats) -> Floats:
        return network.keras_score(self._net, x, self._features)

    def save(self, folder: Path) -> None:
        arrays: dict[str, Any] = {"features": self._features}
        for i, layer in enumerate(self._net.layers):
            arrays[f"kernel_{i}"], arrays[f"bias_{i}"] = layer.get_weights()
        np.savez(folder / FILE_NAME, **arrays)


@dataclass(frozen=True)
class _Layers(Scorer):
    """The same without Keras."""

    features: Sequence[str]
    layers: Sequence[tuple[Floats, Floats]]  # kernels [inputs, outputs] and biases [outputs]

    @classmethod
    def load(cls, path: Path) -> _Layers:
        try:
            file = read_arrays(path)
            layers = [(file[f"kernel_{i}"], file[f"bias_{i}"]) for i in range(len(_TANH))]
            return cls(file["features"].tolist(), layers)
        except (OSError, KeyError, ValueError) as error:
            raise UserError(f"{path} can't be read ({error}); train again") from error

    def score(self, x: Floats) -> Floats:
        inputs = hidden = network.scale(x, self.features)
        for (kernel, bias), tanh in zip(self.layers, _TANH, strict=True):
            # einsum adds up each row alike in every block; a product of matrices does not.
            sums = np.einsum("ni,io->no", hidden, kernel) + bias
            hidden = np.tanh(sums) if tanh else np.maximum(sums, 0)
        score: Floats = np.mean((inputs - hidden) ** 2, axis=1)
        return score
