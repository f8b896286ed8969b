"""Where an event was first recorded: its own position, or the one a replay has put into the header ``highbeam.origin``.

The header holds "topic-partition-offset", which is the alert's id as well: an event that was archived and put on
another topic is scored under the id it had at first. Whoever writes to a topic can set the header, as all else in a
record; so it names events, and does not decide what was read, committed or archived already.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from beam_jobs.block import HEADERS_TYPE, SOURCE_PREFIX, Block

ORIGIN_HEADER = "highbeam.origin"

_TOPIC = "^[!-~]{1,255}$"
_TEXT = "^[!-~]{1,300}$"
_LARGEST_PARTITION, _LARGEST_OFFSET = "2147483647", "9223372036854775807"  # of int32 and int64


class Origin(NamedTuple):
    """For each row the topic (dictionary of string), partition (int32) and offset (int64) it was first recorded at."""

    topic: pa.Array
    partition: pa.Array
    offset: pa.Array

    def ids(self) -> pa.Array:
        """ "topic-partition-offset", string [n]."""
        return pc.binary_join_element_wise(*(column.cast(pa.string()) for column in self), "-")


def origin(block: Block) -> Origin:
    """The origins of the rows of a features, events or scored block; a header that names none is passed over."""
    own = Origin(*(block.column(SOURCE_PREFIX + name) for name in Origin._fields))
    headers = block.column(SOURCE_PREFIX + "headers")
    if headers.null_count == len(headers):
        return own
    rows, values = _named(headers)
    if not len(rows):
        return own
    good, named = _parsed(values)
    replaced = np.zeros(len(headers), np.bool_)
    replaced[rows[good]] = True
    mask = pa.array(replaced)
    topic, partition, offset = (
        pc.replace_with_mask(column.cast(kind), mask, new.cast(kind))
        for column, new, kind in zip(own, named, (pa.string(), pa.int32(), pa.int64()), strict=True)
    )
    return Origin(topic.dictionary_encode(), partition, offset)


def _parsed(values: pa.Array) -> tuple[NDArray[np.bool_], tuple[pa.Array, pa.Array, pa.Array]]:
    """Which values are topic-partition-offset, bool [n], and the three parts of those that are, as text."""
    good = values.is_valid().to_numpy(zero_copy_only=False)
    try:
        texts = values.cast(pa.string())
    except pa.ArrowInvalid:  # somebody else's bytes
        good &= pc.fill_null(pc.match_substring_regex(values, _TEXT), False).to_numpy(zero_copy_only=False)
        texts = pc.if_else(pa.array(good), values, None).cast(pa.string())
    parts = pc.split_pattern(texts, "-", max_splits=2, reverse=True)
    good &= pc.fill_null(pc.equal(pc.list_value_length(parts), 3), False).to_numpy(zero_copy_only=False)
    flat = parts.filter(pa.array(good)).flatten()
    places = np.arange(0, len(flat), 3)
    topic, partition, offset = (flat.take(pa.array(places + i)) for i in range(3))
    topic = topic.dictionary_encode()  # few: each is looked at once
    fits = pc.match_substring_regex(topic.dictionary, _TOPIC).take(topic.indices)
    for digits, largest in ((partition, _LARGEST_PARTITION), (offset, _LARGEST_OFFSET)):
        size = pc.binary_length(digits)
        as_long = pc.and_(pc.equal(size, len(largest)), pc.less_equal(digits, largest))
        small = pc.or_(pc.less(size, len(largest)), as_long)
        fits = pc.and_(fits, pc.and_(pc.string_is_ascii(digits), pc.and_(pc.utf8_is_decimal(digits), small)))
    good[np.flatnonzero(good)[~fits.to_numpy(zero_copy_only=False)]] = False
    return good, (topic.cast(pa.string()).filter(fits), partition.filter(fits), offset.filter(fits))


def _named(headers: pa.Array) -> tuple[NDArray[np.int64], pa.Array]:
    """Rows that have the header, ascending, and its first value in each, binary."""
    flat = headers.flatten()
    wanted = pc.equal(flat.field("key"), ORIGIN_HEADER)
    rows = pc.list_parent_indices(headers).filter(wanted).to_numpy()
    rows, first = np.unique(rows, return_index=True)
    return rows, flat.field("value").filter(wanted).take(pa.array(first))


def origin_headers(origins: Origin) -> pa.Array:
    """The headers of records that say their origin and nothing else, HEADERS_TYPE [n]."""
    n = len(origins.offset)
    names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([ORIGIN_HEADER])).cast(pa.string())
    pairs = pa.StructArray.from_arrays([names, origins.ids().cast(pa.binary())], fields=list(HEADERS_TYPE.value_type))
    return pa.ListArray.from_arrays(pa.array(np.arange(n + 1, dtype=np.int32)), pairs, type=HEADERS_TYPE)
