"""The SavedModel of a version that was not exported as ``network.npz``: TensorFlow scores it."""

from __future__ import annotations

from pathlib import Path

from beam_jobs.errors import UserError, one_line
from model.kinds import tf
from model.kinds.protocol import Scorer, Scores
from model.kinds.saved_model import check_saved_model
from model.rows import Floats

FOLDER = "saved_model"
SIGNATURE = "serve"


class SavedGraph(Scorer):
    """A SavedModel; UserError if it can't be loaded, or does more than calculate."""

    def __init__(self, path: Path) -> None:
        check_saved_model(path)
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
