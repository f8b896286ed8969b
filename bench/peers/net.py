"""What every Python peer shares, in numpy and fastavro alone: the network by hand, events in, alerts out.

A peer runs in a virtual environment of its own, without Highbeam; ``bench.world.weights`` writes the file it reads.
"""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import fastavro
import numpy as np

SCHEMAS = Path(__file__).resolve().parent.parent.parent / "schemas"
EVENT = fastavro.parse_schema(json.loads((SCHEMAS / "car_sensor.avsc").read_text()))
ALERT = fastavro.parse_schema(json.loads((SCHEMAS / "alert.avsc").read_text()))


class Net:
    """The formula at the top of model/kinds/autoencoder/keras_network.py, float32."""

    def __init__(self, path: str) -> None:
        value = json.loads(Path(path).read_text())
        self.features: list[str] = value["features"]
        self.threshold: float = value["threshold"]
        self.model: str = value["model"]
        self.version: str = value["version"]
        self._clip, self._limit, self._bend = value["clip"], value["limit"], value["bend"]
        names = ("mean", "spread", "residual_spread", "cross", "deviation_spread")
        self._mean, self._spread, self._residual_spread, self._cross, self._deviation_spread = (
            np.array(value[name], np.float32) for name in names
        )
        self._layers = [
            (np.array(layer["kernel"], np.float32), np.array(layer["bias"], np.float32), layer["elu"])
            for layer in value["layers"]
        ]

    def vector(self, event: dict[str, Any]) -> list[float]:
        """The features of preprocess.sql, by hand."""
        ratio = event["engine_vibration_amplitude"] / (event["speed"] + 1)
        return [ratio if name == "vibration_per_speed" else event[name] for name in self.features]

    def score(self, rows: list[list[float]]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Scores of rows, float32 [n]."""
        x = np.array(rows, np.float32)
        z = self._bend * np.arcsinh((x - self._mean) / self._spread / self._bend)
        y = np.clip(z, -self._clip, self._clip)
        for kernel, bias, elu in self._layers:
            y = y @ kernel + bias
            if elu:
                y = np.where(y > 0, y, np.expm1(np.minimum(y, 0)))
        residual = (z - y) * self._spread / self._residual_spread
        correction = np.clip(residual, -self._clip, self._clip) @ self._cross
        deviation = np.clip((residual + correction) / self._deviation_spread, -self._limit, self._limit)
        return np.sqrt(np.mean(deviation**4, axis=1))

    def alert(self, event: dict[str, Any], score: float, topic: str, partition: int, offset: int) -> bytes:
        """A Confluent-framed alert."""
        return alert(event, score, self.threshold, (self.model, self.version), topic, partition, offset)


def alert(
    event: dict[str, Any],
    score: float,
    threshold: float,
    model: tuple[str, str],
    topic: str,
    partition: int,
    offset: int,
) -> bytes:
    """A Confluent-framed alert; ``model`` is its name and version."""
    out = io.BytesIO()
    out.write(struct.pack(">bI", 0, 1))
    value = {
        "id": f"{topic}-{partition}-{offset}",
        "key": event["car_id"],
        "event_time": event["event_time"],
        "score": score,
        "threshold": threshold,
        "percentile": 0.0,
        "model": model[0],
        "version": model[1],
        "source_topic": topic,
        "source_partition": partition,
        "source_offset": offset,
        "features": [],
    }
    fastavro.schemaless_writer(out, ALERT, value)
    return out.getvalue()


def decode(value: bytes) -> dict[str, Any]:
    """A Confluent-framed event."""
    event = fastavro.schemaless_reader(io.BytesIO(value[5:]), EVENT, None)
    assert isinstance(event, dict)
    return event


def result(records: int, alerts: int, first: float, start: float, end: float) -> None:
    """Prints a peer's last line: seconds from the first record, and from the start (imports done), to ``end``."""
    print(json.dumps({"records": records, "alerts": alerts, "first": end - first, "start": end - start}), flush=True)
