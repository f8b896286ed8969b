"""Highbeam's Apache Beam jobs: one columnar code base from device events to alerts."""

import os

# Before Polars is imported anywhere: a block is one thread's work, more cores take more blocks (docs/operations.md).
os.environ.setdefault("POLARS_MAX_THREADS", "1")

__version__ = "0.1.0"
