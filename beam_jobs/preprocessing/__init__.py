"""From decoded events to features: one SQL query, one implementation for every job (no Beam here)."""

from beam_jobs.preprocessing.pii import PiiPolicy
from beam_jobs.preprocessing.preprocessor import Preprocessed, Preprocessor
from beam_jobs.preprocessing.query.compiler import WindowFeature
from beam_jobs.preprocessing.sql import compile_sql

__all__ = ["compile_sql", "Preprocessor", "Preprocessed", "PiiPolicy", "WindowFeature"]
