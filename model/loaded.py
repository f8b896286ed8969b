"""A model version, checked and ready to score."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from beam_jobs.errors import RetryError, UserError, one_line
from model import manifest
from model.kinds import KINDS
from model.kinds.protocol import Scorer, Scores
from model.manifest import Manifest

Floats = NDArray[np.float32]

GOLDEN_FILE = "golden.parquet"

# Other processors round otherwise; errors are squares of small differences, so theirs may differ by more.
GOLDEN_TOLERANCE = (
    1e-3  # relative, and absolute in spreads (score, error) or relative to the feature's scale (expected)
)

_GOLDEN_VALUES = 10_000_000  # that a file may unpack to
_WARM_UP_ROWS = (1, 8192)  # whatever is prepared on the first calls is prepared now


class LoadedModel:
    """One version in memory; its methods may be called from several threads."""

    def __init__(self, path: Path, manifest: Manifest, scorer: Scorer) -> None:
        self.path = path
        self.manifest = manifest
        self._scorer = scorer

    @classmethod
    def load(cls, path: Path, digest: str | None = None) -> LoadedModel:
        """Loads the version in the folder ``path``.

        Args:
          digest: sha256 of its manifest, where that has been looked at (``ModelVersion``); None: any manifest will do.

        Raises:
          UserError: no manifest, a kind that is not installed, files that are missing, changed or added since it was
            written, a graph that does more than calculate, or golden vectors whose scores are not reproduced here.
        """
        described = manifest.read(path, digest)
        manifest.check_files(path, described)
        model = cls(path, described, KINDS.get(described.kind).load(path))
        model._check_golden()
        for rows in _WARM_UP_ROWS:
            model.score(np.zeros((rows, len(described.features)), np.float32))
        return model

    def score(self, x: Floats) -> Floats:
        """Scores rows, float32 [n, F], features in physical units in the manifest's order, to float32 [n]."""
        return self._scorer.score(x)

    def explain(self, x: Floats) -> Scores:
        """Scores rows and says why, as far as its kind can: what was expected of each feature, and its error."""
        return self._scorer.explain(x)

    def _check_golden(self) -> None:
        path = self.path / GOLDEN_FILE
        x, golden = read_golden(path)
        if x.shape[1] != len(self.manifest.features):
            raise UserError(
                f"{path}: {x.shape[1]} features, the manifest has {len(self.manifest.features)}; train again"
            )
        try:
            here = replace(self.explain(x), score=self.score(x))
        except (UserError, RetryError, MemoryError, OSError):
            raise
        except Exception as error:  # of whatever its kind does with weights that don't fit
            raise UserError(
                f"{self.path}: the model can't score its golden vectors ({type(error).__name__}: "
                f"{one_line(error, 200)}); restore the version or train again"
            ) from error
        scale = np.abs(x).max(axis=0) + 1e-6
        for name, unit in (("score", None), ("expected", scale), ("error", None)):
            difference = _difference(getattr(here, name), getattr(golden, name), unit)
            if not difference <= GOLDEN_TOLERANCE:
                raise UserError(
                    f"{path}: {name} differs by {difference:.3g} from when the model was trained "
                    f"(tolerance {GOLDEN_TOLERANCE}); use the library versions of its manifest or train again"
                )


def _difference(got: Floats | None, wanted: Floats | None, unit: Floats | None) -> float:
    """The largest there is, relative or, of small values, absolute; inf: one of both says nothing."""
    if got is None or wanted is None:
        return 0.0 if got is wanted else np.inf
    silent = np.isnan(wanted)
    if not np.array_equal(silent, np.isnan(got)):
        return np.inf
    got, wanted = (values if unit is None else values / unit for values in (got, wanted))
    return float(np.max((np.abs(got - wanted) / (1 + np.abs(wanted)))[~silent], initial=0.0))


def write_golden(path: Path, x: Floats, scores: Scores) -> None:
    """Rows and the model's outputs for them when it was trained."""
    matrices = {"x": x, "expected": scores.expected, "error": scores.error}
    rows = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        for name, values in matrices.items()
        if values is not None
    }
    pq.write_table(pa.table({"x": rows.pop("x"), "score": scores.score, **rows}), path)


def read_golden(path: Path) -> tuple[Floats, Scores]:
    """The counterpart of ``write_golden``; UserError if the file can't be read."""
    try:
        with pq.ParquetFile(path) as file:
            described = file.metadata
            columns = [
                described.row_group(i).column(j)
                for i in range(described.num_row_groups)
                for j in range(described.num_columns)
            ]
            if sum(column.num_values for column in columns) > _GOLDEN_VALUES:
                raise ValueError(f"more than {_GOLDEN_VALUES:,} values")
            table = file.read().combine_chunks()
        score = table["score"].to_numpy()
        rows = {
            name: table[name].combine_chunks().flatten().to_numpy().reshape(len(score), -1)
            for name in table.column_names
            if name != "score"
        }
        found = {name: np.asarray(values, np.float32) for name, values in {**rows, "score": score}.items()}
        return found["x"], Scores(found["score"], found.get("expected"), found.get("error"))
    except (OSError, KeyError, ValueError, TypeError, AttributeError, pa.ArrowException) as error_:
        raise UserError(f"{path} can't be read ({one_line(error_, 200)}); train again") from error_
