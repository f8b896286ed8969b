"""What every decoder returns."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from beam_jobs.errors import RowErrors


@dataclass(frozen=True)
class Decoded:
    """A decoded block. Each input row is in exactly one of the two."""

    rows: pa.RecordBatch  # the good rows, in input order
    errors: RowErrors  # the others; indexes are those of the input
