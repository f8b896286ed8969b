"""Three records, two of which are dead letters."""

import numpy as np

from beam_jobs import dead_letters
from beam_jobs.block import Block, raw_block
from beam_jobs.errors import RowErrors


def raw() -> Block:
    return raw_block(
        "events",
        [0, 1, 1],
        [10, 20, 21],
        [1_700_000_000_000] * 3,
        [b"car-1", None, b"\xff"],
        [b"good", b"\xff\x00bytes", None],
        [None, [("trace", b"7")], []],
    )


def letters() -> Block:
    errors = RowErrors(np.array([1, 2]), ("bad_magic_byte", "null_value"), ("first byte is 0xff", "a tombstone"))
    return dead_letters.dead_letter_block(raw(), errors, "decode", "score/test")
