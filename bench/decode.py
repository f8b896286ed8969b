"""The codec against fastavro on the car sensor schema: ratios measured turn by turn in one run.

    python bench/decode.py [--rows 8192] [--rounds 15]

A round runs every contender once, so that a slow moment of the machine hits all of them; the median of the rounds'
ratios is printed. One core; values are Confluent-framed Avro, or JSON, of 24 fields.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa

import schemas
from beam_jobs.codec import AvroDecoder, AvroEncoder, EventDecoder, JsonDecoder, JsonEncoder, arrow_schema

PERSONAL = ("vin", "driver_name", "latitude", "longitude", "failure_occurred")


def sample_rows(schema: dict[str, Any], n: int) -> pa.RecordBatch:
    rng = np.random.default_rng(7)
    columns = []
    for field in arrow_schema(schema):
        if pa.types.is_string(field.type):
            columns.append(pa.array([f"{field.name}-{i % 977}" for i in range(n)], field.type))
        elif pa.types.is_timestamp(field.type):
            columns.append(pa.array(1_700_000_000_000 + rng.integers(0, 10**7, n)).cast(field.type))
        elif pa.types.is_integer(field.type):
            columns.append(pa.array(rng.integers(20, 2001, n).astype(np.int32)).cast(field.type))
        else:
            columns.append(pa.array(rng.normal(50, 20, n)).cast(field.type))
    return pa.RecordBatch.from_arrays(columns, schema=arrow_schema(schema))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    pa.set_cpu_count(1)

    schema = schemas.load("car_sensor")
    parsed = fastavro.parse_schema(schema)
    features = [f["name"] for f in schema["fields"] if f["name"] not in PERSONAL]
    rows = sample_rows(schema, options.rows)
    encoder, json_encoder = AvroEncoder(schema, 1), JsonEncoder(schema)
    values, texts = encoder.encode(rows), json_encoder.encode(rows)
    bodies = [value[5:] for value in values.to_pylist()]
    lines = texts.to_pylist()
    objects = rows.to_pylist()

    def writer_schema(_: int) -> dict[str, Any]:
        return schema

    some, every = AvroDecoder(schema, writer_schema, features), AvroDecoder(schema, writer_schema)
    either, from_json = EventDecoder(schema, writer_schema, features), JsonDecoder(schema, features)

    def fastavro_encode() -> None:
        for row in objects:
            fastavro.schemaless_writer(io.BytesIO(), parsed, row)

    contenders: dict[str, tuple[Callable[[], object], str]] = {
        "fastavro decode": (lambda: [fastavro.schemaless_reader(io.BytesIO(b), parsed) for b in bodies], ""),
        "decode key and numbers": (lambda: some.decode(values), "fastavro decode"),
        "decode all fields": (lambda: every.decode(values), "fastavro decode"),
        "decode either encoding": (lambda: either.decode(values), "fastavro decode"),
        "fastavro encode": (fastavro_encode, ""),
        "encode": (lambda: encoder.encode(rows), "fastavro encode"),
        "json.loads": (lambda: [json.loads(line) for line in lines], ""),
        "decode JSON": (lambda: from_json.decode(texts), "json.loads"),
        "encode JSON": (lambda: json_encoder.encode(rows), ""),
    }
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(options.rounds + 1):
        for name, (work, _) in contenders.items():
            spent = seconds(work)
            if turn:  # the first round warms up
                taken[name].append(spent)
    print(f"{options.rows} rows of {len(schema['fields'])} fields, {options.rounds} rounds")
    for name, (_, against) in contenders.items():
        rate = options.rows / statistics.median(taken[name])
        ratio = ""
        if against:
            ratios = [a / b for a, b in zip(taken[against], taken[name], strict=True)]
            ratio = f"{statistics.median(ratios):6.1f} x {against}"
        print(f"{name:24s} {rate:12,.0f} rows/s {ratio}")


if __name__ == "__main__":
    main()
