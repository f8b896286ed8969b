import schemas
from beam_jobs.codec.avro.decoder import AvroDecoder
from beam_jobs.codec.avro.encoder import AvroEncoder
from tests.letters import letters


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
