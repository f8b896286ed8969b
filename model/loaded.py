"""A model version, checked and ready to score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from beam_jobs.errors import UserError, one_line
from model import manifest, tf
from model.manifest import Manifest
from model.network import FILE_NAME as NETWORK_FILE
from model.network import Network, Scores

Floats = NDArray[np.float32]

GOLDEN_FILE = "golden.parquet"
SIGNATURE = "serve"

# Other processors round otherwise; errors are squares of small differences, so theirs may differ by more.
GOLDEN_TOLERANCE = (
    1e-3  # relative, and absolute in spreads (score, error) or relative to the feature's scale (expected)
)

_WARM_UP_ROWS = (1, 8192)  # TensorFlow prepares a graph on its first calls


class _Graph:
    """The SavedModel of a version that was not exported as ``network.npz``: TensorFlow scores it."""

    def __init__(self, path: Path) -> None:
        tensorflow = tf.tensorflow(threads=1)
        try:
            self._module = tensorflow.saved_model.load(str(path))  # a signature doesn't keep its variables alive
            self._serve = self._module.signatures[SIGNATURE]
        except Exception as error:  # TensorFlow raises whatever its parsers do
            reason = one_line(error, 200)
            raise UserError(f"{path} can't be loaded ({reason}); train the model again") from error
        self._tensor = tensorflow.constant

    def score(self, x: Floats) -> Floats:
        return self.explain(x).score

    def explain(self, x: Floats) -> Scores:
        result = self._serve(features=self._tensor(x))
        return Scores(result["score"].numpy(), result["expected"].numpy(), result["error"].numpy())


class LoadedModel:
    """One version in memory; its methods may be called from several threads."""

    def __init__(self, path: Path, manifest: Manifest, network: Network | _Graph) -> None:
        self.path = path
        self.manifest = manifest
        self._network = network

    @classmethod
    def load(cls, path: Path) -> LoadedModel:
        """Loads the version in the folder ``path``.

        Raises:
          UserError: no manifest, files that are missing, changed or added since it was written, or golden vectors
            whose scores are not reproduced here.
        """
        described = manifest.read(path)
        _check_files(path, described)
        compiled = path / NETWORK_FILE
        model = cls(path, described, Network.load(compiled) if compiled.exists() else _Graph(path / "saved_model"))
        model._check_golden()
        for rows in _WARM_UP_ROWS:
            model.score(np.zeros((rows, len(described.features)), np.float32))
        return model

    def score(self, x: Floats) -> Floats:
        """Scores rows, float32 [n, F], features in physical units in the manifest's order, to float32 [n]."""
        return self._network.score(x)

    def explain(self, x: Floats) -> Scores:
        """Scores rows and says why: also what was expected of each feature, and its error."""
        return self._network.explain(x)

    def _check_golden(self) -> None:
        path = self.path / GOLDEN_FILE
        x, golden = read_golden(path)
        if x.shape[1] != len(self.manifest.features):
            raise UserError(
                f"{path}: {x.shape[1]} features, the manifest has {len(self.manifest.features)}; train again"
            )
        here = self.explain(x)
        here = Scores(self.score(x), here.expected, here.error)
        scale = np.abs(x).max(axis=0) + 1e-6
        for name, got, wanted in (
            ("score", here.score, golden.score),
            ("expected", here.expected / scale, golden.expected / scale),
            ("error", here.error, golden.error),
        ):
            difference = np.abs(got - wanted) / (1 + np.abs(wanted))
            if not np.all(difference <= GOLDEN_TOLERANCE):  # also catches NaN
                raise UserError(
                    f"{path}: {name} differs by {float(np.max(difference)):.3g} from when the model was trained "
                    f"(tolerance {GOLDEN_TOLERANCE}); use the library versions of its manifest or train again"
                )


def write_golden(path: Path, x: Floats, scores: Scores) -> None:
    """Rows and what the model said of them when it was trained."""

    def rows(values: Floats) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])

    columns = {"x": rows(x), "score": scores.score, "expected": rows(scores.expected), "error": rows(scores.error)}
    pq.write_table(pa.table(columns), path)


def read_golden(path: Path) -> tuple[Floats, Scores]:
    """The counterpart of ``write_golden``; UserError if the file can't be read."""
    try:
        table = pq.read_table(path).combine_chunks()
        score = table["score"].to_numpy()
        x, expected, error = (
            table[name].combine_chunks().flatten().to_numpy().reshape(len(score), -1)
            for name in ("x", "expected", "error")
        )
    except (OSError, KeyError, ValueError, pa.ArrowException) as error_:
        raise UserError(f"{path} can't be read ({one_line(error_, 200)}); train again") from error_
    return x, Scores(score, expected, error)


def _check_files(path: Path, described: Manifest) -> None:
    found = manifest.file_hashes(path)
    for name, wanted in described.files.items():
        if name not in found:
            raise UserError(f"{path / name} is missing; copy the version again or train a new one")
        if found[name] != wanted:
            raise UserError(
                f"{path / name} has changed since it was trained (sha256); versions are immutable: restore it"
            )
    added = sorted(set(found) - set(described.files))
    if added:
        raise UserError(f"{path / added[0]} is not in the manifest; remove it, or train a new version")
