"""The anomaly model: training, thresholds, the registry of versions, and a loaded version that scores."""
