"""Highbeam's Apache Beam jobs: one columnar code base from device events to alerts."""

__version__ = "0.1.0"
