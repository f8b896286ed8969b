"""What the campaign expects of windows is what a job makes of them, late rows too."""

from __future__ import annotations

import io
from pathlib import Path
from random import Random

import fastavro

import schemas
from beam_jobs.archives.rows import archive_rows, archive_schema
from beam_jobs.block import raw_block
from beam_jobs.steps.decode import DecodeEvents
from beam_jobs.steps.preprocess import traced
from beam_jobs.use_case import load_use_case
from chaos.events import archived
from chaos.ledger import digest
from chaos.windows import make, write_use_case


def test_duckdb_and_a_job_make_the_same_rows(tmp_path: Path) -> None:
    events = make(1000, Random(3))
    case = load_use_case(str(write_use_case(tmp_path / "car_memory")))
    query, sensor = case.preprocessor(), schemas.load("car_sensor")
    decode = DecodeEvents(sensor, [*query.input_columns, "failure_occurred"], lambda _: sensor, "test")
    decode.setup()
    times, n = [event.time_ms for event in events], len(events)
    values, keys = [event.value for event in events], [event.key for event in events]
    found, refused = decode.decode(raw_block("t", [0] * n, range(n), times, keys, values))
    assert found is not None
    letters = [value for block, errors in refused for value in block.column("value").take(errors.rows).to_pylist()]
    assert letters
    assert [digest(value) for value in letters] == [event.letter for event in events if event.letter]
    history = query.history()
    done = query.apply(found, history)
    assert history is not None
    assert history.late
    assert not history.alone
    rows = archive_rows(traced(done.rows, found, done.kept, ["failure_occurred"]), archive_schema(case, "features"))
    file = io.BytesIO()
    fastavro.writer(file, archive_schema(case, "features"), rows.to_pylist())
    file.seek(0)
    out = {row["source_offset"]: archived(dict(row)) for row in fastavro.reader(file)}
    assert out == {i: event.row for i, event in enumerate(events) if event.row}
