"""Bytes ⇄ blocks of rows: Confluent-framed Avro, Avro files and JSON, whole blocks at a time. No Beam here.

>>> import pyarrow as pa
>>> schema = {"type": "record", "name": "Reading", "fields": [{"name": "speed", "type": "double"}]}
>>> rows = pa.record_batch({"speed": [12.5, 13.0]})
>>> values = AvroEncoder(schema, schema_id=7).encode(rows)
>>> values[0].as_py()[:5]
b'\\x00\\x00\\x00\\x00\\x07'
>>> EventDecoder(schema, {7: schema}.__getitem__).decode(values).rows.to_pydict()
{'speed': [12.5, 13.0]}
"""

from beam_jobs.codec.avro.decoder import AvroDecoder
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.codec.avro.file import read_avro, write_avro
from beam_jobs.codec.decoded import Decoded
from beam_jobs.codec.events import EventDecoder, warm_up
from beam_jobs.codec.fingerprint import fingerprint
from beam_jobs.codec.json.decoder import JsonDecoder, JsonEncoder
from beam_jobs.codec.schema import arrow_schema, parse_schema

__all__ = [
    "AvroDecoder",
    "AvroEncoder",
    "Decoded",
    "EventDecoder",
    "JsonDecoder",
    "JsonEncoder",
    "arrow_schema",
    "fingerprint",
    "parse_schema",
    "read_avro",
    "warm_up",
    "write_avro",
]
