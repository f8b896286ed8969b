"""Labels for windows, of events that were read again."""

from __future__ import annotations

import json
from argparse import Namespace
from collections import Counter
from pathlib import Path

from beam_jobs.feedback import Event, label_records
from beam_jobs.steps.alerting.verdicts import Verdict
from beam_jobs.use_case import load_use_case


def test_a_label_that_does_not_fit_and_what_is_no_event_are_counted(tmp_path: Path) -> None:
    time = {"type": "long", "logicalType": "timestamp-millis"}
    fields = [{"name": "card", "type": "string"}, {"name": "at", "type": time}, {"name": "euros", "type": "double"}]
    fields.append({"name": "fraud", "type": ["null", "int"], "default": None, "label": True})
    (tmp_path / "pay.avsc").write_text(json.dumps({"type": "record", "name": "Pay", "fields": fields}))
    (tmp_path / "preprocess.sql").write_text(
        "SELECT card, at, euros, SUM(fraud) OVER month AS frauds FROM events WINDOW month AS "
        "(PARTITION BY card ORDER BY at RANGE BETWEEN INTERVAL '37' DAY PRECEDING AND INTERVAL '7' DAY PRECEDING)"
    )
    about = {"schema": "pay.avsc", "key": "card", "event_time": "at", "label_delay": "7 days"}
    (tmp_path / "use_case.yaml").write_text(json.dumps(about))
    event = Event(None, json.dumps({"card": "c", "at": 5, "euros": 1.5, "fraud": None}).encode(), ())
    found = [
        (Verdict("pay-0-1", "card_testing", 5), event),
        (Verdict("pay-0-2", "1", 5), event),
        (Verdict("pay-0-3", "1", 5), Event(None, b"?", ())),
    ]
    bad: Counter[str] = Counter()
    made = label_records(found, load_use_case(str(tmp_path)), Namespace(schema_registry=None), {}, bad)
    assert [verdict.id for verdict, _, _ in made] == ["pay-0-2"]
    assert json.loads(made[0][2])["fraud"] == 1
    first, second = bad
    assert first.startswith("the label 'card_testing' of pay-0-1 does not fit its schema: ")
    assert second.startswith("pay-0-3 is no event: ")
