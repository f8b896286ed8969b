"""Highbeam's Apache Beam jobs: one columnar code base from device events to alerts."""

import os
import signal
import sys

# Before Polars is imported anywhere: a block is one thread's work, more cores take more blocks (docs/operations.md).
os.environ.setdefault("POLARS_MAX_THREADS", "1")

if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # ``python -m`` of a package that imports this one first: Ctrl-C within the seconds of its imports ends it without a
    # stack trace. ``cli.run`` takes the signal from there.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

__version__ = "0.1.0"
