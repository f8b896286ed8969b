"""A use case with windows, personal data and texts that would like to be obeyed, and events of it."""

from __future__ import annotations

import json
from pathlib import Path

HOSTILE = "<b onload=x>&'\"\x1b[31m\u202e\x00 日本石油"
HOUR = "PARTITION BY card ORDER BY ts RANGE BETWEEN INTERVAL '1' HOUR PRECEDING AND CURRENT ROW"
SQL = f"""SELECT card, ts, COALESCE(amount, 0) AS amount, amount / NULLIF(avg(amount) OVER hour, 0) AS against_usual,
       count(*) OVER hour AS payments, online, generalize(age, 0) AS age_about, merchant
FROM events WHERE amount > 1 AND age < 90
WINDOW hour AS ({HOUR})
"""
SCHEMA = {
    "type": "record",
    "name": "Payment",
    "fields": [
        {"name": "card", "type": "string"},
        {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "amount", "type": ["null", "double"], "default": None, "min": 0, "unit": "EUR"},
        {"name": "merchant", "type": "string"},
        {"name": "age", "type": "int", "pii": "quasi"},
        {"name": "online", "type": "boolean"},
    ],
}


def write_use_case(folder: Path, sql: str = SQL) -> str:
    """Writes it; returns what --use_case takes."""
    folder.mkdir(exist_ok=True)
    (folder / "payment.avsc").write_text(json.dumps(SCHEMA))
    (folder / "use_case.yaml").write_text("schema: payment.avsc\nkey: card\nevent_time: ts\n")
    (folder / "preprocess.sql").write_text(sql)
    return str(folder)


def write_events(file: Path, rows: int = 200, merchant: str = "esso") -> str:
    """Payments of 7 cards, one a minute: each 20th is null and filtered, each 50th out of range; returns the path."""
    events = [
        {
            "card": f"card-{i % 7}",
            "ts": 1_700_000_000_000 + i * 60_000,
            "amount": -5 if i % 50 == 49 else None if i % 20 == 0 else 2 + i % 13,
            "merchant": merchant if i % 3 else "aral",
            "age": 47 + i % 5,
            "online": i % 2 == 0,
        }
        for i in range(rows)
    ]
    file.write_text("\n".join(map(json.dumps, events)))
    return str(file)
