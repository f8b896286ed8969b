"""Codecs by the first byte of a value: Highbeam's own, and one from another distribution in a whole step."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from beam_jobs.codec import AvroEncoder, EventDecoder, JsonEncoder
from beam_jobs.codec.codecs import CODECS, by_first_byte
from beam_jobs.errors import UserError
from tests.distribution import install

SCHEMA = {
    "type": "record",
    "name": "Reading",
    "fields": [{"name": "speed", "type": "double"}, {"name": "gear", "type": "int"}],
}
# Values such as b"~12.5,3"; a row that can't be read is reported.
ACME = """
import numpy as np
import pyarrow as pa
from beam_jobs.codec import Decoded
from beam_jobs.errors import RowErrors

class Decoder:
    def __init__(self, schemas):
        self.schema = schemas.rows()

    def decode(self, values):
        rows, bad, why = [], [], []
        for place, value in enumerate(values.to_pylist()):
            try:
                speed, gear = value[1:].split(b",")
                row = {"speed": float(speed), "gear": int(gear)}
                rows.append({name: row[name] for name in self.schema.names})
            except ValueError as error:
                bad.append(place)
                why.append(str(error))
        errors = RowErrors(np.array(bad, np.int64), ["truncated"] * len(bad), why)
        return Decoded(pa.RecordBatch.from_pylist(rows, self.schema), errors)

class Codec:
    about = "~ (text of Acme)"
    first_bytes = b"~"

    def decoder(self, schemas):
        return Decoder(schemas)

CODEC = Codec()

class Greedy(Codec):
    about = "{ (of Acme)"
    first_bytes = b"{"

GREEDY = Greedy()
"""


def values() -> list[bytes]:
    rows = pa.record_batch({"speed": [1.0], "gear": pa.array([1], pa.int32())})
    (avro,) = AvroEncoder(SCHEMA, 7).encode(rows).to_pylist()
    (json,) = JsonEncoder(SCHEMA).encode(rows).to_pylist()
    return [b"~12.5,3", avro, b"~nothing", json, b"~0.5,4", b"!"]


def test_a_codec_of_another_distribution_stands_beside_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = install(tmp_path / "site", "acme_codec", ACME, {"highbeam.codecs": {"acme": "acme_codec:CODEC"}})
    monkeypatch.syspath_prepend(site)
    for columns in (None, ["gear"]):
        decoder = EventDecoder(SCHEMA, lambda _: SCHEMA, columns)
        found = decoder.decode(pa.array(values(), pa.binary()))
        assert found.rows.schema == decoder.schema
        assert found.rows["gear"].to_pylist() == [3, 1, 1, 4]
        assert dict(zip(found.errors.rows.tolist(), found.errors.reasons, strict=True)) == {
            2: "truncated",
            5: "bad_magic_byte",
        }
        assert found.errors.errors[1].endswith("0x00 (Confluent-framed Avro) or { (JSON) or ~ (text of Acme)")


def test_without_it_its_values_are_refused() -> None:
    assert CODECS.names() == ["avro", "json"]
    found = EventDecoder(SCHEMA, lambda _: SCHEMA).decode(pa.array(values(), pa.binary()))
    assert found.errors.rows.tolist() == [0, 2, 4, 5]
    assert set(found.errors.reasons) == {"bad_magic_byte"}


def test_two_codecs_of_one_byte_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = install(tmp_path / "site", "acme_greedy", ACME, {"highbeam.codecs": {"acme": "acme_greedy:GREEDY"}})
    monkeypatch.syspath_prepend(site)
    with pytest.raises(UserError, match=r"two codecs take values that begin with 0x7b: \{ \(JSON\) and"):
        EventDecoder(SCHEMA, lambda _: SCHEMA)
    assert by_first_byte([]).tolist() == [-1] * 256
