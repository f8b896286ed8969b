"""Files, on this machine and in Cloud Storage."""
