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

from beam_jobs.block import HEADERS_TYPE, SOURCE_PREFIX, Block

ORIGIN_HEADER = "highbeam.origin"

# The largest numbers fit int32 and int64.
_FORM = r"^(?P<topic>[!-~]{1,255})-(?P<partition>[0-9]{1,9})-(?P<offset>[0-9]{1,18}|[0-8][0-9]{18})$"


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
    found = pc.extract_regex(values, _FORM)
    good = found.is_valid()
    rows, found = rows[good.to_numpy(zero_copy_only=False)], found.drop_null()
    replaced = np.zeros(len(headers), np.bool_)
    replaced[rows] = True
    mask = pa.array(replaced)

    def put(column: pa.Array, name: str) -> pa.Array:
        texts = found.field(found.type.get_field_index(name)).cast(pa.string())
        return pc.replace_with_mask(column, mask, texts.cast(column.type))

    topic = put(own.topic.cast(pa.string()), "topic").dictionary_encode()
    return Origin(topic, put(own.partition, "partition"), put(own.offset, "offset"))


def _named(headers: pa.Array) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], pa.Array]:
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
