"""A query over all rows at once: what training, ``highbeam preview`` and Python see of windows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from beam_jobs.errors import RowErrors
from beam_jobs.preprocessing.preprocessor import Preprocessed, Preprocessor
from beam_jobs.preprocessing.stages import Unordered
from beam_jobs.preprocessing.windows.order import OFFSET, ORDER, PARTITION, RECORD_TIME

_BLOCK_ROWS = 32_768


def over_all(
    preprocessor: Preprocessor, logs: Iterable[Iterable[pa.RecordBatch]], unordered: Unordered
) -> Iterator[tuple[pa.RecordBatch, Preprocessed]]:
    """Events and what comes of them, block by block.

    With windows by two keys rows come in the order in which the second key's windows see them: that of the clock of
    their log by then; of one clock log by log. A first part of the blocks then has those that are refused or filtered
    before. Each event comes once.

    Args:
      logs: as ``by_log`` gives them: the events of each log, in its order.
      unordered: what windows did not see in order is added to it.
    """
    if preprocessor.second_key is not None:
        yield from _by_two_keys(preprocessor, logs, unordered)
        return
    for blocks in logs:
        history = preprocessor.history()
        for events in blocks:
            yield events, preprocessor.apply(events, history)
        if history is not None:
            unordered.add(history)


def _by_two_keys(
    preprocessor: Preprocessor, logs: Iterable[Iterable[pa.RecordBatch]], unordered: Unordered
) -> Iterator[tuple[pa.RecordBatch, Preprocessed]]:
    legs = preprocessor.legs()
    behind = preprocessor.behind(legs)
    every: list[pa.RecordBatch] = []  # the events of the rows that reach the second key
    keys, shipped, number = [], [], []  # and of which log
    for log, blocks in enumerate(logs):
        before, start = legs.before(), 0
        for events in blocks:
            prepared = preprocessor.prepare(_placed(events, start, preprocessor.event_time))
            start += events.num_rows
            found = before.advance(prepared.rows)
            kept = prepared.kept[found.kept]
            left_out = np.setdiff1d(np.arange(events.num_rows), kept, assume_unique=True)
            errors = prepared.errors
            errors = RowErrors(np.searchsorted(left_out, errors.rows), errors.reasons, errors.errors)
            nothing = behind.finish(found.rows.slice(0, 0)).rows
            filtered = len(left_out) - len(errors)
            yield events.take(pa.array(left_out)), Preprocessed(nothing, kept[:0], filtered, errors)
            key, rows = legs.ship(found.rows)
            keys.append(key)
            shipped.append(rows)
            every.append(events.take(pa.array(kept)))
            number.append(np.full(len(kept), log))
        unordered.add(before)
    if not shipped:
        return
    rows = legs.received(pa.chunked_array(keys).combine_chunks(), pa.concat_batches(shipped))
    events = pa.Table.from_batches(every).combine_chunks()
    offsets, clocks = rows.column(OFFSET).to_numpy(), rows.column(ORDER).to_numpy()
    order = np.lexsort([offsets, np.concatenate(number), clocks])
    history = behind.history()
    assert history is not None
    for start in range(0, len(order), _BLOCK_ROWS):
        at = pa.array(order[start : start + _BLOCK_ROWS])
        found = history.advance(rows.take(at))
        done = behind.finish(found.rows)
        errors = done.errors
        if len(errors):
            errors = RowErrors(found.kept[errors.rows], errors.reasons, errors.errors)
        kept = found.kept[done.kept]
        (block,) = events.take(at).combine_chunks().to_batches()
        yield block, Preprocessed(done.rows, kept, len(at) - len(errors) - len(kept), errors)
    unordered.add(history)


def _placed(events: pa.RecordBatch, start: int, event_time: str) -> pa.RecordBatch:
    """The events with a place each; those of files stand where they come, from ``start`` on, at their own times."""
    names = events.schema.names
    if OFFSET in names:
        return events
    n = events.num_rows
    times = events.column(event_time).cast(pa.timestamp("ms", "UTC"), safe=False).fill_null(0)
    columns = {
        PARTITION: pa.array(np.zeros(n, np.int32)),
        OFFSET: pa.array(np.arange(start, start + n)),
        RECORD_TIME: times,
    }
    return pa.RecordBatch.from_arrays([*events.columns, *columns.values()], names=[*names, *columns])
