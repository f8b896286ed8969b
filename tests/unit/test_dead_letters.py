import numpy as np

import schemas
from beam_jobs import dead_letters
from beam_jobs.block import Block, raw_block
from beam_jobs.codec.avro.decoder import AvroDecoder
from beam_jobs.codec.avro.encoder import AvroEncoder
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


def test_dead_letters_keep_position_reason_and_bytes() -> None:
    first, second = letters().to_pylist()
    assert (first["id"], first["topic"], first["partition"], first["offset"]) == ("events-1-20", "events", 1, 20)
    assert (first["key"], first["value"]) == (None, b"\xff\x00bytes")
    assert first["headers"] == [{"key": "trace", "value": b"7"}]
    assert (first["reason"], first["error"], first["stage"]) == ("bad_magic_byte", "first byte is 0xff", "decode")
    assert (second["key"], second["value"], second["headers"]) == (b"\xff", None, [])


def test_dead_letters_survive_the_topic() -> None:
    schema = schemas.load("dead_letter")
    written = letters()
    decoded = AvroDecoder(schema, lambda _: schema).decode(AvroEncoder(schema, 3).encode(written))
    assert len(decoded.errors) == 0
    assert decoded.rows.to_pylist() == written.to_pylist()
