import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import schemas
from beam_jobs.block import Block, raw_block, with_source
from beam_jobs.codec.avro.decoder import AvroDecoder
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.preprocessing.told import Told
from beam_jobs.steps import alerts
from beam_jobs.steps.score_records import ToRecords

FEATURES = ("speed", "temp", "ratio")
UNITS = {"speed": "m/s", "temp": "°C", "ratio": None}


def scored(scores: list[float]) -> Block:
    n = len(scores)
    rows = pa.record_batch(
        {
            "car_id": pa.array([f"car-{i}" for i in range(n)]),
            "event_time": pa.array(range(n), pa.timestamp("ms", "UTC")),
            **{name: pa.array(np.full(n, i + 1, np.float32)) for i, name in enumerate(FEATURES)},
            "score": pa.array(np.array(scores, np.float32)),
            "threshold": pa.array(np.full(n, 5, np.float32)),
            "alert": pa.array(np.array(scores) > 5),
            "told": pa.array(np.array(scores) > 5),
            "severity": pa.array([None] * n, pa.string()),
            "recent_percentile": pa.array([None] * n, pa.float64()),
            "percentile": pa.array(np.full(n, 99.9, np.float32)),
            "model": pa.array(["m"] * n).dictionary_encode(),
            "version": pa.array(["v1"] * n).dictionary_encode(),
            "expected": pa.array([[10.0, 20.0, 30.0]] * n, pa.list_(pa.float32(), 3)),
            "feature_error": pa.array([[1.0, 6.0, 3.0]] * n, pa.list_(pa.float32(), 3)),
        }
    )
    raw = raw_block("events", [2] * n, [100 + i for i in range(n)], [0] * n, [None] * n, [b""] * n)
    return with_source(rows, raw)


def make(block: Block) -> Block:
    return alerts.alert_rows(block, "car_id", "event_time", FEATURES, UNITS)


def test_only_scores_above_the_threshold_are_alerts() -> None:
    rows = make(scored([1.0, 9.0, 5.0, 6.0])).to_pylist()
    assert [row["id"] for row in rows] == ["events-2-101", "events-2-103"]
    assert [row["key"] for row in rows] == ["car-1", "car-3"]
    assert rows[0]["source_topic"] == "events"
    assert (rows[0]["source_partition"], rows[0]["source_offset"]) == (2, 101)


def test_an_alert_names_its_features_by_share() -> None:
    features = make(scored([9.0])).to_pylist()[0]["features"]
    assert [f["name"] for f in features] == ["temp", "ratio", "speed"]
    assert features[0]["observed"] == 2.0
    assert features[0]["expected"] == 20.0
    assert features[0]["unit"] == "°C"
    assert [round(f["share"], 3) for f in features] == [0.6, 0.3, 0.1]
    assert features[1]["unit"] is None


def rewritten(block: Block, **columns: pa.Array) -> Block:
    for name, values in columns.items():
        block = block.set_column(block.schema.get_field_index(name), name, values)
    return block


def test_a_model_without_reasons_makes_alerts_without_features() -> None:
    none = pa.nulls(3, pa.list_(pa.float32()))
    rows = make(rewritten(scored([9.0, 1.0, 8.0]), expected=none, feature_error=none))
    assert rows.column("features").to_pylist() == [[], []]
    assert decoded("alert", rows) == rows.to_pylist()


def test_a_feature_without_an_expected_value_is_not_a_number() -> None:
    expected = pa.array([[10.0, np.nan, 30.0]], pa.list_(pa.float32()))
    rows = make(rewritten(scored([9.0]), expected=expected))
    for features in (rows.to_pylist()[0]["features"], decoded("alert", rows)[0]["features"]):
        assert [f["name"] for f in features] == ["temp", "ratio", "speed"]
        assert np.isnan(features[0]["expected"])
        assert [f["expected"] for f in features[1:]] == [30.0, 10.0]


def decoded(name: str, rows: Block) -> list[dict[str, Any]]:
    """As a reader of the topic finds them."""
    schema = schemas.load(name)
    return AvroDecoder(schema, lambda _: schema).decode(AvroEncoder(schema, 1).encode(rows)).rows.to_pylist()


ATTRIBUTES = {"plant": ["Köln", None, ""], "route": ["A 4", "B 51", None]}


def with_attributes(scores: list[float]) -> Block:
    block = scored(scores)
    for name, values in ATTRIBUTES.items():
        block = block.append_column(name, pa.array(values[: len(scores)], pa.string()))
    return block


def test_attributes_reach_scores_and_alerts() -> None:
    block, names = with_attributes([9.0, 1.0, 8.0]), tuple(ATTRIBUTES)
    scores = alerts.score_rows(block, "car_id", "event_time", names)
    made = alerts.alert_rows(block, "car_id", "event_time", FEATURES, UNITS, names)
    each = [list({"plant": p, "route": r}.items()) for p, r in zip(*ATTRIBUTES.values(), strict=True)]
    for name, rows, wanted in (("score", scores, each), ("alert", made, [each[0], each[2]])):
        assert [row["attributes"] for row in decoded(name, rows)] == wanted
        assert decoded(name, rows) == rows.to_pylist()


def test_without_attributes_there_are_none() -> None:
    rows = alerts.score_rows(scored([9.0, 1.0]), "car_id", "event_time")
    assert [row["attributes"] for row in decoded("score", rows)] == [None, None]
    assert make(scored([9.0])).to_pylist()[0]["attributes"] is None


@given(
    st.lists(st.lists(st.one_of(st.none(), st.text(max_size=5)), min_size=3, max_size=3), min_size=0, max_size=6),
    st.integers(0, 3),
)
def test_each_row_has_its_own_attributes(rows: list[list[str | None]], first: int) -> None:
    names = ("a", "b", "c")
    columns = {name: pa.array([row[i] for row in rows], pa.string()) for i, name in enumerate(names)}
    block = pa.record_batch({"score": pa.array(np.zeros(len(rows), np.float32)), **columns}).slice(first)
    made = alerts._attributes(block, names).to_pylist()
    assert made == [list(zip(names, row, strict=True)) for row in rows[first:]]


def test_an_alert_as_json_is_what_its_avro_says_with_null_for_what_is_not_a_number() -> None:
    block = rewritten(with_attributes([9.0, 8.0]), expected=pa.array([[10.0, np.nan, np.inf]] * 2))
    block = rewritten(block, expected=block.column("expected").cast(pa.list_(pa.float32())))
    rows = alerts.alert_rows(block, "car_id", "event_time", FEATURES, UNITS, tuple(ATTRIBUTES))
    step = ToRecords(lambda block: rows, schemas.load("alert"), None)
    step.setup()
    (records,) = step.process(block)
    texts = [value.decode() for value in records.column("value").to_pylist()]
    shown = [json.loads(text, parse_constant=pytest.fail) for text in texts]
    fields = [field["name"] for field in schemas.load("alert")["fields"]]
    assert [list(alert) for alert in shown] == [fields, fields]
    assert [f["expected"] for f in shown[0]["features"]] == [None, None, 10.0]
    assert shown[1]["attributes"] == {"plant": None, "route": "B 51"}
    assert (shown[1]["event_time"], shown[1]["key"], shown[1]["score"]) == (1, "car-1", 8.0)
    assert records.column("key").to_pylist() == [b"car-0", b"car-1"]


def test_no_anomaly_of_a_kind_that_says_how_rare_values_are_is_no_row() -> None:
    rarity = pa.array([[0.5] * len(FEATURES)], pa.list_(pa.float32()))
    assert make(scored([1.0]).append_column("rarity", rarity)).num_rows == 0


def test_no_anomaly_is_no_row() -> None:
    assert make(scored([1.0])).num_rows == 0


def test_alerts_and_scores_fit_their_schemas() -> None:
    for name, rows in (
        ("alert", make(scored([9.0, 1.0]))),
        ("score", alerts.score_rows(scored([9.0, 1.0]), "car_id", "event_time")),
    ):
        schema = schemas.load(name)
        decoded = AvroDecoder(schema, lambda _, s=schema: s).decode(AvroEncoder(schema, 1).encode(rows))
        assert decoded.rows.to_pylist() == rows.to_pylist()


def test_score_rows_say_what_is_an_anomaly() -> None:
    rows = alerts.score_rows(scored([9.0, 1.0]), "car_id", "event_time")
    assert rows.column("is_anomaly").to_pylist() == [True, False]
    assert rows.column("version").to_pylist() == ["v1", "v1"]


def test_scores_that_are_no_numbers_and_keys_that_no_topic_takes_are_errors() -> None:
    block = scored([1.0, float("nan"), float("inf"), 2.0, 3.0, float("nan")])
    most = alerts.MAX_KEY_BYTES
    keys = ["a" * most, "b", "c", "\u00e9" * (most // 2) + "d", "e", "f" * 5_000_000]
    for kind in (pa.string(), pa.dictionary(pa.int32(), pa.string())):
        bad = alerts.unwritable(block.set_column(0, "car_id", pa.array(keys).cast(kind)), "car_id")
        assert bad.rows.tolist() == [1, 2, 3, 5]
        assert bad.reasons == ("score_not_finite", "score_not_finite", "key_too_large", "score_not_finite")
        assert "nan" in bad.errors[0]
        assert bad.errors[2] == "car_id has 100,001 bytes, expected 100,000 at most"


def test_texts_that_together_no_topic_takes_are_errors() -> None:
    block, most = scored([1.0, 2.0, 3.0, float("nan")]), alerts.MAX_TEXT_BYTES
    texts = ["a" * (most - 5), "b" * (most - 4), None, "c" * most]
    block = block.append_column("note", pa.array(texts))
    bad = alerts.unwritable(block, "car_id", ("note",))
    assert bad.rows.tolist() == [1, 3]
    assert bad.reasons == ("attributes_too_large", "score_not_finite")
    assert bad.errors[0] == "car_id, note have 100,001 bytes, expected 100,000 at most"
    assert not len(alerts.unwritable(block.slice(0, 3), "car_id"))


@pytest.mark.parametrize("schema_id", [1, None])
def test_the_largest_attributes_fit_a_topic_as_avro_and_as_json(schema_id: int | None) -> None:
    """JSON makes six bytes of a control character."""
    half = alerts.MAX_TEXT_BYTES // 2
    block = rewritten(scored([9.0]), car_id=pa.array(["\1" * half])).append_column("note", pa.array(["\1" * half]))
    rows = alerts.alert_rows(block, "car_id", "event_time", FEATURES, UNITS, ("note",))
    step = ToRecords(lambda block: rows, schemas.load("alert"), schema_id)
    step.setup()
    (records,) = step.process(block)
    assert len(records.column("value")[0].as_py()) + half < 1_000_000


@pytest.mark.parametrize("name", ["alert", "score"])
def test_the_largest_key_fits_a_topic_as_it_comes(name: str) -> None:
    block = scored([9.0])
    block = block.set_column(0, "car_id", pa.array(["k" * alerts.MAX_KEY_BYTES]))
    rows = make(block) if name == "alert" else alerts.score_rows(block, "car_id", "event_time")
    (value,) = AvroEncoder(schemas.load(name), 1).encode(rows).to_pylist()
    assert len(value) + alerts.MAX_KEY_BYTES < 1_000_000  # Kafka's message.max.bytes is 1,048,588, Pub/Sub's 10 MB


def test_the_largest_shares_are_picked_in_order() -> None:
    rng = np.random.default_rng(2)
    error = rng.integers(0, 4, (500, 9)).astype(np.float32)  # many ties
    observed, expected = rng.normal(size=(2, 500, 9)).astype(np.float32)
    order, found = np.empty((500, 4), np.int32), np.empty((3, 500, 4), np.float32)
    alerts.largest(observed, expected, error, order, *found)
    wanted = np.argsort(-error, axis=1, kind="stable")[:, :4]
    np.testing.assert_array_equal(order, wanted)
    np.testing.assert_array_equal(found[0], np.take_along_axis(observed, wanted, 1))
    np.testing.assert_array_equal(found[1], np.take_along_axis(expected, wanted, 1))
    share = np.take_along_axis(error, wanted, 1) / np.maximum(error.sum(1, keepdims=True), 1e-30)
    np.testing.assert_allclose(found[2], share, rtol=1e-6)


def test_a_row_without_any_error_has_no_shares() -> None:
    zeros, found = np.zeros((1, 3), np.float32), np.full((3, 1, 2), np.nan, np.float32)
    order = np.empty((1, 2), np.int32)
    alerts.largest(zeros, zeros, zeros, order, *found)
    assert order.tolist() == [[0, 1]]
    assert found[2].tolist() == [[0.0, 0.0]]


def test_alerts_say_how_rare_the_values_they_name_are() -> None:
    block = scored([9.0, 1.0, 9.0])
    rows = make(block)
    names = [[feature["name"] for feature in row] for row in rows.column("features").to_pylist()]
    assert {feature["rarity"] for row in rows.column("features").to_pylist() for feature in row} == {None}
    rarity = [[(i + 1) / 1024 for i in range(len(FEATURES))], None, [float("nan")] * len(FEATURES)]
    block = block.append_column("rarity", pa.array(rarity, pa.list_(pa.float32())))
    found = [[feature["rarity"] for feature in row] for row in make(block).column("features").to_pylist()]
    assert found[0] == [(FEATURES.index(name) + 1) / 1024 for name in names[0]]
    assert set(found[1]) == {None}


def test_an_alert_tells_what_was_seen_and_what_is_usual_for_its_key() -> None:
    temp = Told("temp", "{} degrees at the tap", "ratio * speed / 12", "this machine's mean is {}")
    told = (temp, Told("ratio", "no load"))
    row = alerts.alert_rows(scored([9.0]), "car_id", "event_time", FEATURES, UNITS, told=told)
    assert decoded("alert", row) == row.to_pylist()
    (alert,) = row.to_pylist()
    assert [feature["usual"] for feature in alert["features"]] == [0.25, None, None]
    assert alert["story"] == (
        "2 degrees at the tap, expected 20; this machine's mean is 0.25. no load. speed 1 m/s, expected 10"
    )


def test_without_words_there_is_no_story() -> None:
    (alert,) = make(scored([9.0])).to_pylist()
    assert alert["story"] is None
    assert {feature["usual"] for feature in alert["features"]} == {None}


def test_small_parts_are_not_told_and_what_is_unknown_is_left_out() -> None:
    expected = pa.array([[10.0, np.nan, 30.0]], pa.list_(pa.float32()))
    error = pa.array([[0.1, 96.0, 4.0]], pa.list_(pa.float32()))
    block = rewritten(scored([9.0]), expected=expected, feature_error=error)
    told = (Told("temp", "{} degrees", "speed / NULLIF(speed - 1, 0)"),)
    (alert,) = alerts.alert_rows(block, "car_id", "event_time", FEATURES, UNITS, told=told).to_pylist()
    assert alert["story"] == "2 degrees"


def test_a_model_without_reasons_has_no_story() -> None:
    none = pa.nulls(1, pa.list_(pa.float32()))
    block = rewritten(scored([9.0]), expected=none, feature_error=none)
    told = (Told("temp", "{} degrees"),)
    (alert,) = alerts.alert_rows(block, "car_id", "event_time", FEATURES, UNITS, told=told).to_pylist()
    assert alert["story"] is None
