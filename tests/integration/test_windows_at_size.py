"""Windows of a million events of 100,000 keys, in whole jobs: each feature is what DuckDB makes of the definition."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka import Producer

from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.codec.schema import arrow_schema
from tests.integration.archives import report
from tests.integration.topics import Topics, run

pytestmark = [pytest.mark.integration, pytest.mark.nightly, pytest.mark.timeout(900)]

COUNT, CARDS, PARTITIONS = 1_000_000, 100_000, 4
MINUTE_MS = 60_000
T0 = 1_700_000_000_000
SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Payment",
    "fields": [
        {"name": "card", "type": "string"},
        {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "amount", "type": ["null", "double"]},
        {"name": "merchant", "type": "int"},
    ],
}
FRAMES = {
    "minutes": "INTERVAL '10' MINUTE PRECEDING AND CURRENT ROW",
    "hour": "INTERVAL '1' HOUR PRECEDING AND CURRENT ROW",
    "before": "INTERVAL '1' HOUR PRECEDING AND CURRENT ROW EXCLUDE CURRENT ROW",
    "past": "INTERVAL '1' HOUR PRECEDING AND INTERVAL '10' MINUTE PRECEDING",
}
# Which rows b of the key a row a finds in a frame, of those that are there and have no later time.
FOUND = {
    "minutes": "b.ts >= a.ts - 600000",
    "hour": "TRUE",
    "before": "b.place < a.place",
    "past": "b.ts <= a.ts - 600000",
}
FEATURES = {  # function, frame
    "n": ("count(*)", "minutes"),
    "largest": ("max(amount)", "minutes"),
    "amounts": ("count(amount)", "hour"),
    "total": ("sum(amount)", "hour"),
    "mean": ("avg(amount)", "hour"),
    "least": ("min(amount)", "hour"),
    "deviation": ("stddev_samp(amount)", "hour"),
    "merchants": ("count(DISTINCT merchant)", "hour"),
    "previous": ("last_value(amount)", "before"),
    "total_before": ("sum(amount)", "past"),
}


def use_case(folder: Path) -> str:
    folder.mkdir()
    features = ", ".join(f"COALESCE({call} OVER {frame}, -1) AS {name}" for name, (call, frame) in FEATURES.items())
    frames = ", ".join(
        f"{name} AS (PARTITION BY card ORDER BY ts RANGE BETWEEN {rows})" for name, rows in FRAMES.items()
    )
    sql = f"SELECT card, ts, {features} FROM events WHERE merchant < 48 WINDOW {frames}"
    (folder / "preprocess.sql").write_text(sql)
    (folder / "payment.avsc").write_text(json.dumps(SCHEMA))
    settings = "schema: payment.avsc\nsql: preprocess.sql\nkey: card\nevent_time: ts\n"
    (folder / "use_case.yaml").write_text(settings)
    return str(folder)


def events() -> pa.Table:
    """In the order of the log: 5 % of the rows late, a fifth of them too late, some of the future, a tenth without an
    amount. Amounts are quarters, so that DuckDB's sums of doubles are exact, too."""
    rng = np.random.default_rng(7)
    recorded = T0 + np.cumsum(rng.integers(0, 15, COUNT))
    recorded -= np.where(rng.random(COUNT) < 0.01, rng.integers(0, 40_000, COUNT), 0)
    kind = rng.choice(4, COUNT, p=[0.948, 0.04, 0.01, 0.002])
    late = [rng.integers(0, 2000, COUNT), rng.integers(0, 9 * MINUTE_MS, COUNT)]
    late += [rng.integers(75 * MINUTE_MS, 200 * MINUTE_MS, COUNT), -rng.integers(6 * MINUTE_MS, 60 * MINUTE_MS, COUNT)]
    card = (CARDS * rng.random(COUNT) ** 2).astype(np.int64)  # few pay often
    return pa.table(
        {
            "card": pa.array(np.char.add("card-", card.astype(str))),
            "ts": recorded - np.choose(kind, late),
            "amount": pa.array(rng.integers(0, 40_000, COUNT) / 4, mask=rng.random(COUNT) < 0.1),
            "merchant": pa.array(rng.integers(0, 50, COUNT), pa.int32()),
            "recorded": recorded,
            "part": card % PARTITIONS,
        }
    )


def send(topics: Topics, table: pa.Table) -> None:
    schema = arrow_schema(SCHEMA)
    columns = [table[field.name].cast(field.type) for field in schema]
    (block,) = pa.table(columns, schema=schema).combine_chunks().to_batches()
    values = AvroEncoder(SCHEMA, 1).encode(block).to_pylist()
    settings = {"linger.ms": 20, "enable.idempotence": True, "queue.buffering.max.messages": COUNT}
    producer = Producer({"bootstrap.servers": topics.servers, **settings})
    keys, parts, times = (table[name].to_pylist() for name in ("card", "part", "recorded"))
    for key, value, part, time_ms in zip(keys, values, parts, times, strict=True):
        producer.produce(topics.name("events"), value, key, part, timestamp=time_ms)
    assert producer.flush(120) == 0


def by_definition(connection: duckdb.DuckDBPyConnection, table: pa.Table) -> None:
    """Makes the table ``expected`` of docs/windows.md: what a row sees."""
    reach, lateness, delay, skew = (minutes * MINUTE_MS for minutes in (60, 10, 60, 5))
    connection.register("sent", table)
    connection.execute(
        f"""CREATE TABLE seen AS
        WITH numbered AS (
            SELECT *, row_number() OVER () AS place, ts > recorded + {skew} AS future FROM sent),
        placed AS (
            SELECT *, row_number() OVER (PARTITION BY part ORDER BY place) - 1 AS source_offset FROM numbered),
        clocks AS (
            SELECT *, max(recorded) OVER (PARTITION BY part ORDER BY place ROWS UNBOUNDED PRECEDING) AS clock,
                max(ts) FILTER (NOT future) OVER (PARTITION BY card ORDER BY place ROWS UNBOUNDED PRECEDING) AS newest
            FROM placed WHERE merchant < 48),
        bounds AS (
            SELECT *, greatest(clock - {reach + lateness + delay}, newest - {reach + lateness}) AS bound FROM clocks)
        SELECT *, future OR ts < bound AS alone FROM bounds"""
    )
    last = "max({{'ts': b.ts, 'place': b.place, 'amount': b.amount}}) FILTER ({found})"
    columns = []
    for name, (call, frame) in FEATURES.items():
        value = call.replace("amount", "b.amount").replace("merchant", "b.merchant") + f" FILTER ({FOUND[frame]})"
        if call.startswith("last_value"):
            value = f"({last.format(found=FOUND[frame])}).amount"
        columns.append(f"CAST(COALESCE({value}, -1) AS FLOAT) AS {name}")
    connection.execute(
        f"""CREATE TABLE expected AS
        SELECT a.part AS source_partition, a.source_offset, {", ".join(columns)}
        FROM seen a JOIN seen b ON a.card = b.card AND b.place <= a.place AND CASE WHEN a.alone THEN b.place = a.place
            ELSE NOT b.alone AND b.ts BETWEEN greatest(a.ts - {reach}, a.bound) AND a.ts END
        GROUP BY ALL"""
    )


def test_a_million_events_of_100_000_keys(topics: Topics, tmp_path: Path) -> None:
    table = events()
    send(topics, table)
    case = use_case(tmp_path / "payments")
    with duckdb.connect() as connection:
        by_definition(connection, table)
        (right,) = connection.execute("SELECT count(*) FROM expected").fetchone() or (0,)
        assert right > 0.9 * COUNT
        (kinds,) = connection.execute("SELECT count(*) FILTER (alone AND NOT future) FROM seen").fetchone() or (0,)
        assert kinds > 1000  # too late ones are there
        for number, more in enumerate((["--block_rows", "7001"], ["--direct_num_workers=2"])):
            folder = tmp_path / f"archive-{number}"
            command = [sys.executable, "-m", "beam_jobs.archive", "--use_case", case, "--input", topics.uri("events")]
            command += ["--from", "earliest", "--until", "latest", "--file_format", "parquet", "--output", str(folder)]
            run([*command, "--dead_letters", topics.uri("dead"), "--report", str(tmp_path / "report.json"), *more])
            counted = report(tmp_path)
            assert (counted["unaccounted"], counted["dead_letters"]) == (0, 0)
            names = ", ".join(["source_partition", "source_offset", *FEATURES])
            rows = f"SELECT {names} FROM read_parquet('{folder}/**/*.parquet', hive_partitioning = false)"
            differ = [
                connection.execute(f"SELECT * FROM ({one}) EXCEPT ALL SELECT * FROM ({other})").fetchall()
                for one, other in ((rows, "FROM expected"), ("FROM expected", rows))
            ]
            assert differ == [[], []]
