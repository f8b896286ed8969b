"""The anomaly model: training, thresholds, the registry of versions, and a loaded version that scores.

In a notebook: ``model.load("models@champion").score(events)``, a dataframe (docs/api.md).
"""

from typing import TYPE_CHECKING

from beam_jobs.lazy import lazily

if TYPE_CHECKING:
    from model.detector import Detector as Detector
    from model.detector import load as load

PUBLIC = {"Detector": "model.detector", "load": "model.detector"}
"""Exported name to the module that has it."""

if not TYPE_CHECKING:
    __getattr__ = lazily(__name__, PUBLIC)
