"""Blocks that are gathered: each comes out once, many in a bundle."""

from __future__ import annotations

import apache_beam as beam
from apache_beam.testing.test_pipeline import TestPipeline as Pipeline
from apache_beam.testing.util import assert_that, equal_to

from beam_jobs.archives.gather import KEYS, GatherBlocks
from beam_jobs.block import Block, raw_block

N = 100


class Bundles(beam.DoFn):
    """The offsets of a bundle's blocks, as one list."""

    def start_bundle(self) -> None:
        self._offsets: list[int] = []

    def process(self, block: Block) -> None:
        self._offsets += block.column("offset").to_pylist()

    def finish_bundle(self) -> list[beam.utils.windowed_value.WindowedValue]:
        window = beam.transforms.window.GlobalWindow()
        return [beam.utils.windowed_value.WindowedValue(self._offsets, 0, [window])]


def test_each_block_once_and_many_in_a_bundle() -> None:
    def check(bundles: list[list[int]]) -> None:
        assert sorted(offset for bundle in bundles for offset in bundle) == list(range(2 * N))
        assert len([bundle for bundle in bundles if bundle]) <= KEYS

    blocks = [raw_block("t", [0, 0], [2 * i, 2 * i + 1], [0, 0], [b"", b""], [b"", b""]) for i in range(N)]
    with Pipeline("FnApiRunner") as p:
        bundles = p | beam.Create(blocks) | GatherBlocks(60) | beam.ParDo(Bundles()).with_output_types(list)
        assert_that(
            bundles | beam.combiners.ToList() | beam.Map(lambda found: check(found) or "checked"), equal_to(["checked"])
        )
