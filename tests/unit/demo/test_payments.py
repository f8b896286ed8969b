"""``demo.payments``: the payments and their labels, in files and on topics, as preview and any consumer find them."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Consumer, TopicPartition

from beam_jobs import preview
from beam_jobs.codec.avro.decoder import AvroDecoder
from beam_jobs.errors import UserError
from beam_jobs.sandbox.process import Tansu
from beam_jobs.use_case import load_use_case
from demo.payments import main

FEW = ("--cards", "60", "--days", "4", "--prevalence", "0.1")
END = np.datetime64("2026-01-05", "ms")


def test_files_that_preview_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIGHBEAM_PII_KEY", "0123456789abcdef")
    output, late = tmp_path / "new" / "payments.parquet", tmp_path / "labels.parquet"
    assert main([*FEW, "--output", str(output), "--labels", str(late)]) == 0
    assert "card_testing" in capsys.readouterr().out
    payments, labels = pq.read_table(output), pq.read_table(late)
    assert payments.num_rows == labels.num_rows
    known = labels["label_time"].to_numpy() <= END
    assert payments["fraud"].null_count == np.count_nonzero(~known)
    assert labels["fraud"].null_count == 0
    assert preview.main(["--use_case", "payment_fraud", "--input", str(output), "--rows", "10000"]) == 0
    said = capsys.readouterr().out
    assert f"{payments.num_rows:,} rows" in said
    assert "kmh" in said
    assert payments["customer"][0].as_py() not in said


def test_without_a_place_for_labels_the_payments_bear_them(tmp_path: Path) -> None:
    assert main([*FEW, "--output", str(tmp_path / "payments.parquet")]) == 0
    assert pq.read_table(tmp_path / "payments.parquet")["fraud"].null_count == 0


def test_topics_whose_records_have_the_times_of_payments_and_labels(embedded: Tansu) -> None:
    names = [f"{name}-{uuid.uuid4()}" for name in ("payments", "labels", "again")]
    first, late, once_more = (f"kafka://{embedded.bootstrap_servers}/{name}" for name in names)
    assert main([*FEW, "--output", first, "--labels", late]) == 0
    assert main([*FEW, "--output", once_more]) == 0
    payments, labels, again = (records(embedded.bootstrap_servers, name) for name in names)
    assert payments["fraud"].null_count == payments.num_rows
    assert labels["fraud"].null_count == 0
    assert payments["record_time"].equals(payments["event_time"])
    assert again["fraud"].equals(labels.sort_by("payment_id")["fraud"])
    delay = (labels["record_time"].to_numpy() - labels["event_time"].to_numpy()) / np.timedelta64(1, "D")
    assert 0 < delay.min() < delay.max() <= 7


def records(servers: str, topic: str) -> pa.Table:
    """What is on the topic, by payment, and the time of each record."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "test", "enable.partition.eof": "true"})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(4)])
    values: list[bytes] = []
    times: list[int] = []
    ends = 0
    while ends < 4:
        for message in consumer.consume(1000, 5):
            if message.error() is not None:
                ends += 1
                continue
            values.append(message.value() or b"")
            times.append(message.timestamp()[1])
    consumer.close()
    schema = load_use_case("payment_fraud").schema
    rows = AvroDecoder(schema, lambda _: schema).decode(pa.array(values, pa.binary())).rows
    found = pa.Table.from_batches([rows])
    assert found.num_rows == len(values) > 200
    time = pa.array(times).cast(pa.timestamp("ms", "UTC"))
    return found.append_column("record_time", time).sort_by("payment_id")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--cards", "0"), "--cards 0: expected a number above 0"),
        (("--label_days", "0"), "--label_days 0.0: expected a number above 0"),
        (("--prevalence", "1"), "--prevalence 1.0: expected a share"),
        (("--start", "yesterday"), "--start yesterday: expected a day such as 2026-01-01"),
        (("--benchmark", "--labels", "labels.parquet"), "--benchmark: its payments bear their labels"),
    ],
)
def test_what_no_payments_can_be_made_of(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        main([*words, "--output", str(tmp_path / "payments.parquet")])
