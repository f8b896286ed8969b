"""Events for a use case with windows; DuckDB says what row each has to become, of what came before it."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

import schemas
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.sandbox.fleet import Fleet
from chaos.events import BAD_RATE, CARS, Event, archived, read, schema
from chaos.ledger import digest

_T0_MS, _STEP_MS = 1_700_000_000_000, 1000  # an event a second, so that a rebuild reads a part of the topic
_LATE = 0.05  # share of the events that come up to five minutes late
_FRAME = "OVER (PARTITION BY car_id ORDER BY event_time RANGE BETWEEN INTERVAL '{}' MINUTE PRECEDING AND CURRENT ROW)"
_KEPT = ("car_id", "event_time", "failure_occurred")  # the last one is the label
_FEATURES = {"speeds": ("count", 5), "speed_sum": ("sum", 5), "speed_mean": ("avg", 30), "fastest": ("max", 30)}


def write_use_case(folder: Path) -> Path:
    """A use case with windows."""
    folder.mkdir()
    windows = [f"{function}(speed) {_FRAME.format(m)} AS {name}" for name, (function, m) in _FEATURES.items()]
    sql = f"SELECT car_id, event_time, speed, {', '.join(windows)} FROM events WHERE battery_voltage > 0"
    (folder / "preprocess.sql").write_text(sql)
    settings = "schema: car_sensor\nsql: preprocess.sql\nkey: car_id\nevent_time: event_time\n"
    (folder / "use_case.yaml").write_text(settings)
    return folder


def make(count: int, chance: Random) -> list[Event]:
    """Events of a fleet, and the row that each has to become: of the car's rows before it and itself."""
    rows = pa.Table.from_batches([Fleet(CARS, seed=chance.randrange(1 << 30), span=count / CARS).step(count // CARS)])
    recorded = _T0_MS + np.arange(len(rows)) * _STEP_MS
    late = [chance.randrange(300_000) if chance.random() < _LATE else 0 for _ in range(len(rows))]
    place = rows.schema.get_field_index("event_time")
    times = pa.array(recorded - np.array(late)).cast(rows.schema.field(place).type)
    (batch,) = rows.set_column(place, rows.schema.field(place), times).combine_chunks().to_batches()
    values = AvroEncoder(schemas.load("car_sensor"), 1).encode(batch).to_pylist()
    broken = np.array([chance.random() < BAD_RATE for _ in values])
    features = _by_duckdb(batch, broken)
    sensor = schema("car_sensor")
    found = []
    for i, value in enumerate(values):
        event = read(value, sensor)
        key, row = event["car_id"].encode(), None
        if broken[i]:
            value = value[: chance.randrange(30, 40)]  # behind car and time
        elif i in features:
            row = archived({**{name: event[name] for name in _KEPT}, **features[i]})
        found.append(Event(value, key, digest(value) if broken[i] else None, None, None, row, int(recorded[i])))
    return found


def _by_duckdb(events: pa.RecordBatch, broken: np.ndarray[Any, np.dtype[np.bool_]]) -> dict[int, dict[str, float]]:
    """Place -> features of the rows that have any, by what docs/windows.md says a row sees."""
    table = pa.table({name: events.column(name) for name in ("car_id", "event_time", "speed", "battery_voltage")})
    table = table.append_column("place", pa.array(np.arange(len(table)))).filter(pa.array(~broken))
    columns = ", ".join(
        f"CAST({function}(b.speed) FILTER (b.event_time >= a.event_time - INTERVAL '{m}' MINUTE) AS FLOAT) AS {name}"
        for name, (function, m) in _FEATURES.items()
    )
    longest = max(m for _, m in _FEATURES.values())
    with duckdb.connect() as connection:
        connection.register("events", table)
        connection.execute("CREATE TABLE seen AS SELECT * FROM events WHERE battery_voltage > 0")
        found = connection.execute(
            f"""SELECT a.place, CAST(any_value(a.speed) AS FLOAT) AS speed, {columns}
            FROM seen a JOIN seen b ON a.car_id = b.car_id AND b.place <= a.place
              AND b.event_time BETWEEN a.event_time - INTERVAL '{longest}' MINUTE AND a.event_time
            GROUP BY a.place"""
        )
        return {row[0]: dict(zip(("speed", *_FEATURES), row[1:], strict=True)) for row in found.fetchall()}
