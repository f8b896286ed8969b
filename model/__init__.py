"""The anomaly model: training, thresholds, the registry of versions, and a loaded version that scores."""

import beam_jobs  # noqa: F401 - first: how a command is interrupted while it is imported
