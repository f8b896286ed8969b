"""Fits a detector to rows that nobody has labelled: a few of them are what it is to find.

1. Scaling that a tenth of wrong values can't move, and a first network that leaves out the rows it rebuilds worst.
2. How residuals spread, the scores of all rows, and a cut in them: the rows beyond it, and those of keys that are
   strange as a whole, are outliers. A state that most keys show goes back in, and what a person has called normal.
3. Scaling, network and residuals fitted to the rows kept, and the cut found again.

docs/model.md says what each step is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.kinds.autoencoder import keras_network as autoencoder
from model.kinds.autoencoder.keras_network import CHUNK_ROWS, RESIDUAL_ROWS, ResidualModel
from model.kinds.autoencoder.network import Network
from model.kinds.autoencoder.scaling import Scaling
from model.kinds.autoencoder.settings import NetworkConfig
from model.kinds.kept import apply_normal
from model.kinds.protocol import Judged, signed_deviations
from model.outliers.cut import find_cut
from model.outliers.keys import Limits, common_states, deviating_keys, ranked, strange_keys
from model.rows import Bools, Floats, Matrix, Part, slices, take, take_first

Callbacks = Callable[[str, int], Sequence[Any]]

FIRST_NETWORK, LAST_NETWORK = "first network", "network"
TRIM = 0.1  # share of the rows that each epoch of the first network leaves out: as many may be outliers
MANY_STRANGE = 0.025  # of the rows: where so many are of strange keys, others like them are hard to tell
SAMPLE_ROWS = 1 << 18  # that centre and spread are taken from

# From where on a key is strange. The last network knows the rare but normal keys better than the first one does.
FIRST_KEYS, LAST_KEYS = Limits(median=10, upper=14), Limits(median=7, upper=9, deviation=3.7)


@dataclass(frozen=True)
class Fitted:
    """A detector, and its scores of the rows it was fitted to."""

    network: Any  # keras.Model: float32 [n, F] in physical units to {"score", "expected", "error"}
    compiled: Network  # the same numbers for the compiled loop
    loss: tuple[float, ...]  # of the last network, per epoch; see TrainedCore
    validation_loss: tuple[float, ...]
    train: Judged
    validation: Judged


def fit(
    train: Part,
    validation: Part,
    config: NetworkConfig,
    seed: int,
    callbacks: Callbacks = lambda name, epochs: (),
    normal: Callable[[Floats], Bools] | None = None,
    only_more: Bools | None = None,
) -> Fitted:
    """Fits a detector; results repeat for a seed on one machine and library version.

    Args:
      train, validation: rows in physical units, in random order; some of both may be outliers.
      config: of the network and its training.
      seed: of the order of the rows (``keras.utils.set_random_seed`` is of the weights).
      callbacks: name and epochs of a training to Keras callbacks.
      normal: rows, float32 [n, F], to those that a person calls normal: they are never left out.
      only_more: [F], features of which only more than expected is suspicious; None: none.
    """
    never = apply_normal(normal, train.x)
    kept, put_back = np.ones(len(train), np.bool_), np.zeros(len(train) + len(validation), np.bool_)
    first = replace(config, epochs=max(1, config.epochs // 2))
    rule = partial(ResidualModel.fit, only_more=only_more, variance=config.error == "variance")
    detector = _Detector.fit(
        train.x, validation.x, kept, Scaling.robust, first, callbacks, FIRST_NETWORK, seed, rule, TRIM
    )
    found = detector.cut_and_refit(train, never, FIRST_KEYS, rounds=2)
    kept = ~found.left_out
    put_back[: len(train)] = found.put_back
    detector = _Detector.fit(train.x, validation.x, kept, Scaling.fit, config, callbacks, LAST_NETWORK, seed, rule)
    put_back[: len(train)] |= detector.cut_and_refit(train, never, LAST_KEYS, rounds=3).put_back
    both = [train, validation]
    never = np.concatenate([never, apply_normal(normal, validation.x)])
    scores = detector.scores(both)
    found = detector.left_out(both, scores, never, LAST_KEYS)
    put_back = (put_back | found.put_back) & ~found.left_out
    at = len(train)
    trained = detector.trained
    return Fitted(
        network=autoencoder.assemble(trained.core, detector.scaling, detector.residuals),
        compiled=detector.compiled,
        loss=trained.loss,
        validation_loss=trained.validation_loss,
        train=Judged(scores[:at], found.left_out[:at], put_back[:at], found.cut),
        validation=Judged(scores[at:], found.left_out[at:], put_back[at:], found.cut),
    )


@dataclass
class _Detector:
    """A network, and how its residuals spread."""

    scaling: Scaling
    trained: autoencoder.TrainedCore
    sample: Floats  # [m, F], residuals of the first m rows
    rule: Callable[[NDArray[np.float64]], ResidualModel]
    residuals: ResidualModel
    compiled: Network

    @classmethod
    def fit(
        cls,
        rows: Matrix,
        validation_rows: Matrix,
        kept: Bools,
        scale: Callable[[Floats], Scaling],
        config: NetworkConfig,
        callbacks: Callbacks,
        name: str,
        seed: int,
        rule: Callable[[NDArray[np.float64]], ResidualModel],
        trim: float = 0.0,
    ) -> _Detector:
        """Learns from the rows kept; the residuals are those of the rows of the last epoch."""
        scaling = scale(take_first(rows, kept, SAMPLE_ROWS))
        trained = autoencoder.train_core(
            rows, validation_rows, scaling, config, callbacks(name, config.epochs), seed, kept, trim
        )
        sample = [
            autoencoder.residuals(trained.core, scaling, chunk)
            for chunk in slices(rows[: 2 * RESIDUAL_ROWS], CHUNK_ROWS)
        ]
        return cls._of(scaling, trained, np.concatenate(sample), rule, trained.learnt)

    @classmethod
    def _of(
        cls,
        scaling: Scaling,
        trained: autoencoder.TrainedCore,
        sample: Floats,
        rule: Callable[[NDArray[np.float64]], ResidualModel],
        kept: Bools,
    ) -> _Detector:
        residuals = rule(sample[kept[: len(sample)]][:RESIDUAL_ROWS].astype(np.float64))
        return cls(scaling, trained, sample, rule, residuals, autoencoder.compiled(trained.core, scaling, residuals))

    def cut_and_refit(self, rows: Part, never: Bools, limits: Limits, rounds: int) -> Judged:
        """Learns the residuals' spread anew from the rows that are not left out, and again.

        A state that was put back once lies below the next cut, since its spread has been learnt: it stays named.
        """
        put_back = np.zeros(len(rows), np.bool_)
        for _ in range(rounds):
            found = self.left_out([rows], self.scores([rows]), never, limits)
            put_back |= found.put_back
            again = self._of(self.scaling, self.trained, self.sample, self.rule, ~found.left_out)
            self.residuals, self.compiled = again.residuals, again.compiled
        return replace(found, put_back=put_back & ~found.left_out)

    def scores(self, parts: Sequence[Part]) -> Floats:
        """Of all rows, [n]."""
        return np.concatenate([self.compiled.score(chunk) for part in parts for chunk in slices(part.x, CHUNK_ROWS)])

    def deviations(self, parts: Sequence[Part], wanted: Bools) -> Floats:
        """Of some rows, [m, F]; ``wanted``, [n], says which."""
        ends = np.cumsum([len(part) for part in parts])[:-1]
        rows = [take(part.x, some) for part, some in zip(parts, np.split(wanted, ends), strict=True)]
        return signed_deviations(self.compiled, np.concatenate(rows))

    def left_out(self, parts: Sequence[Part], scores: Floats, never: Bools, limits: Limits) -> Judged:
        """Which rows, [n], are outliers."""
        keys = np.concatenate([part.keys for part in parts])
        cut = find_cut(scores)
        beyond = scores > cut.score
        strange = strange_keys(scores, keys, limits)
        if np.isfinite(limits.deviation):
            some = ranked(len(keys))
            strange |= np.isin(keys, deviating_keys(self.deviations(parts, some), keys[some], limits.deviation))
        share = float(strange.mean())
        if share > MANY_STRANGE and not cut.doubt:
            why = f"{share:.1%} of the rows are of keys that are strange as a whole: the network may have learnt others"
            cut = replace(cut, doubt=why)
        single, put_back = beyond & ~strange, np.zeros(len(scores), np.bool_)
        if single.any():
            deviations = self.deviations(parts, single)
            put_back = common_states(single, deviations, keys)
        return Judged(scores, (beyond & ~put_back | strange) & ~never, put_back, cut)
