"""Reading a topic apart from any job: no group, no commit, no Beam. For commands that look at what is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa

from beam_jobs.block import MAX_BLOCK_ROWS, Block
from beam_jobs.errors import UserError
from beam_jobs.io.kafka.client import KafkaTransport
from beam_jobs.io.kafka.start import Range, patiently, resolve
from beam_jobs.io.position import LATEST, OffsetKind, OffsetSpec

_WAIT_S, _LINGER_S = 0.3, 0.02


def newest(transport: KafkaTransport, rows: int) -> OffsetSpec:
    """Where the newest ``rows`` records of the topic begin, as many of each partition as far as it has them.

    Raises:
      UserError: the topic does not exist, or access is denied.
    """
    with transport.control() as control:
        partitions = patiently(transport, control.topic).partitions
        bounds = patiently(transport, lambda timeout: control.bounds(partitions, timeout))
    shares = shared({p: high - low for p, (low, high) in bounds.items()}, rows)
    starts = tuple((p, high - shares[p]) for p, (_, high) in sorted(bounds.items()))
    return OffsetSpec(OffsetKind.OFFSETS, offsets=starts)


def shared(sizes: Mapping[int, int], rows: int) -> dict[int, int]:
    """How many of ``rows`` to take of each partition: as many of each, and more where others have less.

    >>> shared({0: 100, 1: 3, 2: 100}, 21)
    {1: 3, 0: 9, 2: 9}
    """
    shares: dict[int, int] = {}
    for p in sorted(sizes, key=lambda p: sizes[p]):
        shares[p] = min(sizes[p], -(-rows // (len(sizes) - len(shares))))
        rows -= shares[p]
    return shares


def read_topic(
    transport: KafkaTransport, start: OffsetSpec, until: OffsetSpec | None = LATEST
) -> Iterator[Block | None]:
    """Raw blocks of a topic; None wherever nothing has come for a moment.

    Args:
      until: the first record not read; None: it goes on.

    Raises:
      UserError: the topic does not exist, access is denied, or something there can't be read.
    """
    mark = resolve(transport, Range(start, until, "fail"), lambda partition: True)
    ends = mark.ends
    left = {p: at for p, at in mark.positions.items() if ends is None or at < ends[p]}
    fetcher = transport.fetcher()
    try:
        fetcher.assign(left)
        while left:
            found = fetcher.fetch(MAX_BLOCK_ROWS, _WAIT_S, _LINGER_S)
            if found.problems:
                raise UserError(f"{transport}: partition {found.problems[0].partition}: {found.problems[0].text}")
            yield found.block if found.block is None or ends is None else _before(found.block, ends)
            if ends is not None:
                reached = {**found.ends, **found.next_offsets}
                done = {p for p in left if reached.get(p, -1) >= ends[p]}
                left = {p: at for p, at in left.items() if p not in done}
                fetcher.stop(done)
    finally:
        fetcher.close()


def _before(block: Block, ends: Mapping[int, int]) -> Block | None:
    partitions = block.column("partition").to_numpy()
    ends_of = np.array([ends.get(p, 0) for p in range(int(partitions.max()) + 1)])
    inside = block.column("offset").to_numpy() < ends_of[partitions]
    return block if inside.all() else block.filter(pa.array(inside)) if inside.any() else None
