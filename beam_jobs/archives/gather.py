"""Blocks of many small bundles brought together, for a sink that makes a file of a bundle."""

from __future__ import annotations

import random
from collections.abc import Iterable

import apache_beam as beam
import pyarrow as pa

from beam_jobs.block import Block

KEYS = 8  # as many bundles gather at once, and as many files are written; each writes a million rows/s and more
MAX_BLOCKS = 200  # of a key, held as state; a bundle of Pub/Sub messages has about a thousand


class GatherBlocks(beam.PTransform):
    """Hands blocks on together that came within ``seconds``. They go through state: what is behind it is a new stage.

    For runners whose own source has accepted the records already: elsewhere this would part commit and output.

    Args:
      seconds: how long a block waits for others at most.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def expand(self, blocks: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[pa.RecordBatch]:
        return (
            blocks
            | "Key" >> beam.Map(_keyed).with_output_types(tuple[int, Block])
            | "Group" >> beam.GroupIntoBatches(MAX_BLOCKS, self._seconds)
            | "Blocks" >> beam.FlatMap(_blocks).with_output_types(Block)
        )


def _keyed(block: Block) -> tuple[int, Block]:
    return random.randrange(KEYS), block  # noqa: S311


def _blocks(gathered: tuple[int, Iterable[Block]]) -> Iterable[Block]:
    return gathered[1]
