"""Instructions of the Avro machine (``vm.py``), and what it reports of a row."""

from __future__ import annotations

# An instruction is int64[WIDTH]: opcode, cell base, level, a, b, field (index of its name, for errors).
WIDTH = 6
OP, BASE, LEVEL, A, B, FIELD = range(WIDTH)

END = 0  # of a row
JUMP = 1  # to a
UNION = 2  # a branches; the next a instructions are BRANCH
BRANCH = 3  # go to a; validity cell `base` (if not -1) of `level` becomes b
VALID = 4  # validity cell becomes a
CONST = 5  # cell becomes a
DOUBLE = 6  # a doubles into columns b cells apart
FLOAT = 7
FLOAT_TO_DOUBLE = 8
INT = 9  # a ints into columns b cells apart
LONG = 10  # a longs into columns b cells apart
LONG_TIMES = 11  # value * a, overflow is an error
LONG_OVER = 12  # value // a
INTEGER_TO_DOUBLE = 13  # a: 1 when the writer's type is int
INTEGER_TO_FLOAT = 14
BOOLEAN = 15
STRING = 16
BYTES = 17
FIXED = 18  # a bytes
ENUM = 19  # a symbols; the next a instructions are SYMBOL
SYMBOL = 20  # reader's index a, or -1
DECIMAL = 21  # a: size of the fixed, or -1 for bytes; b: cells to the high half; next: LIMIT
LIMIT = 22  # high a, low b of 10**precision
SKIP = 23  # a bytes
SKIP_VARINT = 24
SKIP_BYTES = 25
LIST = 26  # announces an array or map
NEXT = 27  # next item, or to a at the end; level: the items' level, or -1 when skipped; b: 1 blocks may be jumped over
ITEM = 28  # item of `level` is complete; to a
LIST_END = 29  # cell becomes the count of level a
CALL = 30  # a
RETURN = 31
FAIL = 32  # a: index of the sentence
RANGE = 34  # a <= value <= b
ITEM_ROOM = 33  # a default's item needs room in `level`

OK = 0
NULL_VALUE = 1
EMPTY_VALUE = 2
BAD_MAGIC = 3
TRUNCATED_HEADER = 4
UNKNOWN_ID = 5
UNRESOLVABLE_SCHEMA = 6
SCHEMA_TOO_LARGE = 7
TRUNCATED = 10
VARINT_TOO_LONG = 11
NEGATIVE_LENGTH = 12
OUT_OF_RANGE = 13
NOT_BOOLEAN = 14
NO_SUCH_BRANCH = 15
NO_SUCH_SYMBOL = 16
SYMBOL_DROPPED = 17
UNRESOLVABLE_VALUE = 18
TOO_MANY_ITEMS = 19
TOO_DEEP = 20
NOT_UTF8 = 21
TRAILING = 22
DECIMAL_TOO_LARGE = 23

MAX_EMPTY_ITEMS = 100  # items of no bytes (nulls, empty records) a row may have beyond its own length
MAX_DEPTH = 200  # of lists and recursive records
INT32_LOW, INT32_HIGH = -(1 << 31), (1 << 31) - 1
INT64_LOW, INT64_HIGH = -(1 << 63), (1 << 63) - 1
POOL_BIT = 1 << 31  # in a position: the bytes are in the constants' pool, not in the data
