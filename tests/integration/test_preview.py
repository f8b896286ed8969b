"""``highbeam preview`` of a topic: windows know the records before the sample, and nothing is left on the broker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from confluent_kafka import OFFSET_INVALID, Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.control import consumer_properties
from beam_jobs.io.kafka.topic import KafkaLog
from beam_jobs.preview import watch
from beam_jobs.samples import records
from beam_jobs.samples.preview import Preview, preview_of
from beam_jobs.terminal.commands import BEGIN
from tests.integration.test_windows_job import send, with_features
from tests.integration.topics import Topics

pytestmark = pytest.mark.integration

ROWS = 6000
OVER = "OVER (PARTITION BY car_id ORDER BY event_time RANGE BETWEEN INTERVAL '30' SECOND PRECEDING AND CURRENT ROW)"
FEATURES = {"speeds": f"count(speed) {OVER}", "speed_mean": f"avg(speed) {OVER}"}


@pytest.fixture
def use_case(tmp_path: Path) -> str:
    """car_sensors with windows, which reach back less far than the topic does."""
    folder = with_features(tmp_path / "car_memory", FEATURES)
    with Path(folder, "use_case.yaml").open("a") as settings:
        settings.write("\nwindow_lateness: 1s\nwindow_delay: 1s\nwindow_clock_skew: 1s\n")
    return folder


@pytest.fixture
def events(topics: Topics) -> pa.Table:
    """Events on the topic, whose records have their times."""
    return pa.Table.from_batches([send(topics, ROWS)])


def shown(preview: Preview) -> dict[tuple[str, Any], tuple[Any, ...]]:
    """(car, time) -> features of the rows that are shown."""
    columns = {column.name: column.first for column in preview.checked.columns}
    names = ["car_id", "event_time", *FEATURES]
    return {row[:2]: row[2:] for row in zip(*(columns[name] for name in names), strict=True)}


def said_by_duckdb(events: pa.Table) -> dict[tuple[str, Any], tuple[Any, ...]]:
    columns = ", ".join(f"CAST({expression} AS FLOAT)" for expression in FEATURES.values())
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("events", events)
        found = connection.execute(f"SELECT car_id, event_time, {columns} FROM events WHERE battery_voltage > 0")
        return {row[:2]: row[2:] for row in found.fetchall()}


def test_the_newest_records_have_the_features_of_the_whole_topic(
    topics: Topics,
    use_case: str,
    events: pa.Table,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    preview = preview_of(use_case, topics.uri("events"), rows=1000)
    assert preview.checked.rows == 1000
    said, found = said_by_duckdb(events), shown(preview)
    assert len(found) == 10
    assert found == {row: said[row] for row in found}
    assert all(count > 20 for count, _ in found.values())  # most of them are of records before the sample
    assert preview.checked.unordered == []

    short = preview_of(use_case, topics.uri("events"), rows=1000, history=400)
    assert shown(short) != {row: said[row] for row in shown(short)}
    assert len(short.checked.unordered) == 4
    assert "before the sample 100 were read (--history), and windows reach back" in short.checked.unordered[0]

    admin = AdminClient({"bootstrap.servers": topics.servers})
    compacted = ConfigEntry("cleanup.policy", "compact", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topics.name("events"), incremental_configs=[compacted])
    admin.incremental_alter_configs([resource])[resource].result(30)
    (said_of_it,) = preview_of(use_case, topics.uri("events"), rows=10).checked.unordered
    assert "the topic is compacted (cleanup.policy=compact)" in said_of_it

    read: list[Any] = []
    newest, before = records.read_topic, KafkaLog.read
    monkeypatch.setattr(records, "read_topic", lambda *given: read.append("newest") or newest(*given))
    monkeypatch.setattr(KafkaLog, "read", lambda log, spans: read.append("before") or before(log, spans))
    page, sql = tmp_path / "page.html", Path(use_case) / "preprocess.sql"
    given = BEGIN["preview"].parser().parse_args(["--use_case", use_case, "--input", "x", "--html", str(page)])
    kept = records.records_of(topics.uri("events"), 1000, 100_000, None, None, tmp_path)
    saves = iter([sql.read_text() + "-- the same", sql.read_text().replace("'30'", "'60'")])
    with pytest.raises(StopIteration):  # nothing is saved any more
        watch(given, kept, Path(use_case), lambda: sql.write_text(next(saves)))
    assert read == ["newest", "before", "before"]  # longer windows need what was not read
    assert capsys.readouterr().out.count("looked at   1,000 rows") == 3
    assert "speed_mean" in page.read_text()

    group = consumer_properties(KafkaAddress.parse(topics.uri("events")), KafkaConfig(), None)["group.id"]
    consumer = Consumer({"bootstrap.servers": topics.servers, "group.id": group})
    committed = consumer.committed([TopicPartition(topics.name("events"), p) for p in range(4)], 10)
    consumer.close()
    assert {one.offset for one in committed} == {OFFSET_INVALID}
