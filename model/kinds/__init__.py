"""Kinds of models: how one learns from rows, and how it scores them; all else is the same for all of them.

A kind is a folder with a ``kind.py``; ``protocol.py`` says what it has to be able to do. A use case names its kind
under ``model`` in use_case.yaml, and a version's manifest says which kind it is of.
"""

from __future__ import annotations

from typing import Any

from beam_jobs.plugins import Plugins
from model.kinds.protocol import ModelKind

KINDS = Plugins[ModelKind[Any]](
    "model kind",
    "highbeam.model_kinds",
    {
        "autoencoder": "model.kinds.autoencoder.kind:KIND",
        "average": "model.kinds.average.kind:KIND",
        "boosting": "model.kinds.boosting.kind:KIND",
        "car_baseline": "model.kinds.car_baseline.kind:KIND",
        "isolation_forest": "model.kinds.isolation_forest.kind:KIND",
        "logistic_regression": "model.kinds.logistic_regression.kind:KIND",
        "robust_distance": "model.kinds.robust_distance.kind:KIND",
        "tail_probability": "model.kinds.tail_probability.kind:KIND",
    },
)
"""All there are; those of other distributions are entry points (``beam_jobs.plugins``)."""
