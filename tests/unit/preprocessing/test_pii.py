"""Personal data: pseudonyms, generalisation, and keys that stay out of everything."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from beam_jobs.errors import UserError
from beam_jobs.preprocessing import PiiPolicy, compile_sql
from beam_jobs.preprocessing.pii import Protected, decrypt, encrypt, pseudonymize
from tests.services.google import SecretManager

KEY = b"0123456789abcdef0123456789abcdef"
FIELDS: list[dict[str, Any]] = [
    {"name": "id", "type": "string"},
    {"name": "name", "type": "string", "pii": "direct"},
    {"name": "born", "type": {"type": "long", "logicalType": "timestamp-millis"}, "pii": "direct"},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}, "pii": "quasi"},
    {"name": "zip", "type": "string", "pii": "quasi"},
    {"name": "latitude", "type": "double", "unit": "°", "pii": "quasi"},
    {"name": "height", "type": "double", "unit": "m", "pii": "quasi"},
    {"name": "shop", "type": "string"},
]
PLACES = {"type": "record", "name": "E", "fields": FIELDS}


def test_a_pseudonym_is_the_hmac_of_the_text() -> None:
    values = pa.array(["Müller", None, "Meier", "Müller"])
    digest = hmac.new(KEY, "Müller".encode(), hashlib.sha256).hexdigest()
    result = pseudonymize(values, KEY).to_pylist()
    assert result[0] == result[3] == digest
    assert result[1] is None
    assert result[2] not in (None, digest)
    assert pseudonymize(values.slice(1, 2), KEY).to_pylist() == result[1:3]
    assert pseudonymize(values.dictionary_encode(), KEY).to_pylist() == result


def test_keys_by_reference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(KEY + b"\n")
    assert PiiPolicy(f"file:{path}").secret() == KEY
    monkeypatch.setenv("HIGHBEAM_TEST_PII", KEY.decode())
    assert PiiPolicy("env:HIGHBEAM_TEST_PII").secret() == KEY


def test_keys_that_do_not_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a reference") as caught:
        PiiPolicy("s3cret")
    assert "s3cret" not in str(caught.value)
    with pytest.raises(UserError, match="HIGHBEAM_TEST_UNSET is not set"):
        PiiPolicy("env:HIGHBEAM_TEST_UNSET").secret()
    with pytest.raises(UserError, match="cannot read"):
        PiiPolicy(f"file:{tmp_path}/nothing").secret()
    monkeypatch.setenv("HIGHBEAM_TEST_SHORT", "abc")
    with pytest.raises(UserError, match="16 or more"):
        PiiPolicy("env:HIGHBEAM_TEST_SHORT").secret()
    with pytest.raises(UserError, match=r"pii\.key is missing"):
        PiiPolicy().secret()


def test_in_a_query(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGHBEAM_TEST_PII2", KEY.decode())
    schema = {
        "type": "record",
        "name": "E",
        "fields": [
            {"name": "card", "type": "string", "pii": "direct"},
            {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            {"name": "zip", "type": "string", "pii": "quasi"},
            {"name": "latitude", "type": "double", "pii": "quasi", "min": -90, "max": 90},
            {"name": "amount", "type": "double"},
        ],
    }
    query = compile_sql(
        "SELECT pseudonymize(card) AS card, at, amount, generalize(zip, 2) AS region, generalize(latitude, 1) AS lat "
        "FROM events WHERE zip LIKE '8%' AND pseudonymize(card) <> 'x'",
        schema,
        PiiPolicy("env:HIGHBEAM_TEST_PII2"),
        key="card",
        event_time="at",
    )
    query.check_secrets()
    result = query.apply(
        pa.record_batch(
            {
                "card": ["1234", "1234", "9"],
                "at": pa.array([0, 1, 2], pa.timestamp("ms", "UTC")),
                "zip": ["80331", "10115", "85748"],
                "latitude": [48.1374, 52.5, 1234.5],
                "amount": [1.0, 2.0, 3.0],
            }
        )
    )
    (row,) = result.rows.to_pylist()
    assert row["card"] == hmac.new(KEY, b"1234", hashlib.sha256).hexdigest()
    assert row["region"] == "80"
    assert row["lat"] == pytest.approx(48.1)
    assert query.attributes == ("region",)
    assert query.features == ("amount", "lat")
    assert result.filtered == 1
    # A dead letter's sentence is logged: it must not carry what is protected.
    assert result.errors.reasons == ["out_of_range"]
    assert "1234.5" not in result.errors.errors[0]
    assert "expected -90 to 90" in result.errors.errors[0]


def test_the_key_column_must_be_handled_too() -> None:
    schema = {
        "type": "record",
        "name": "E",
        "fields": [
            {"name": "card", "type": {"type": "string", "pii": "direct"}},
            {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            {"name": "amount", "type": "double"},
        ],
    }
    with pytest.raises(UserError, match="card shows card, personal data"):
        compile_sql("SELECT card, at, amount FROM events", schema, key="card", event_time="at")


def test_a_key_in_secret_manager_has_a_fixed_version(secret_server: SecretManager) -> None:
    name = "projects/my-project/secrets/pii/versions/"
    secret_server.secrets[f"{name}4"] = KEY
    assert PiiPolicy(f"secret://{name}4").secret() == KEY
    with pytest.raises(UserError, match="no fixed version of its secret"):
        PiiPolicy(f"secret://{name}latest")


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> PiiPolicy:
    """Two keys at once, and one from before keys had ids."""
    for name in ("NEW", "OLD", "FIRST"):
        monkeypatch.setenv(f"HIGHBEAM_TEST_{name}", f"{name:0<32}")
    new, old = ("2026-11", "env:HIGHBEAM_TEST_NEW"), ("2026-05", "env:HIGHBEAM_TEST_OLD")
    return PiiPolicy("env:HIGHBEAM_TEST_FIRST", (new, old))


def test_what_is_encrypted_comes_back_with_its_key_and_field_alone(keys: PiiPolicy) -> None:
    values = pa.array(["Müller", None, "", "Müller", "x" * 1000])
    sealed = encrypt(values, keys.secret(), "name", "2026-11").to_pylist()
    assert sealed[0] == sealed[3]
    assert sealed[1] is None
    assert all(text.startswith("2026-11:") for text in sealed if text is not None)
    assert [text and decrypt(text, keys, "name") for text in sealed] == values.to_pylist()
    assert encrypt(values.dictionary_encode(), keys.secret(), "name", "2026-11").to_pylist() == sealed
    assert sealed[0] != encrypt(values, keys.secret(), "other", "2026-11").to_pylist()[0]
    assert decrypt(sealed[0], keys, "other") is None  # of another field
    assert decrypt(sealed[0].replace("2026-11", "2026-05"), keys, "name") is None  # under another key
    for damaged in (sealed[0][:-1], sealed[0] + "A", "2026-11:", "2026-11:é", "2026-11", "", "2025:" + sealed[0]):
        assert decrypt(damaged, keys, "name") is None


def test_the_first_key_is_used_and_the_others_count(keys: PiiPolicy) -> None:
    values = pa.array(["a", "b", "a"])
    older = Protected("name", key_id="2026-05")
    before = PiiPolicy(None, keys.keys[1:])
    assert Protected("name").of(values, keys)[0].as_py().startswith("2026-11:")
    # What was made before the change is what is made of the older key now.
    assert older.of(values, keys) == Protected("name").of(values, before)
    first = Protected("name", key_id="").of(values, keys)
    assert first == Protected("name").of(values, PiiPolicy(keys.key)) == pseudonymize(values, keys.secret(""))
    sealed = Protected("name", "encrypt").of(values, before)
    assert [decrypt(text, keys, "name") for text in sealed.to_pylist()] == values.to_pylist()
    with pytest.raises(UserError, match=r"pii.keys has no '2024'; it has 2026-11, 2026-05"):
        keys.secret("2024")


def test_a_change_of_keys_in_a_query(keys: PiiPolicy) -> None:
    sql = (
        "SELECT encrypt(name) AS name, at, pseudonymize(name) AS person, pseudonymize(name, '2026-05') AS before, "
        "count(*) OVER (PARTITION BY name ORDER BY at RANGE BETWEEN INTERVAL '1' DAY PRECEDING AND CURRENT ROW) AS n "
        "FROM events"
    )
    schema = {"type": "record", "name": "E", "fields": [FIELDS[1], {**FIELDS[3], "pii": None}]}
    old_sql = "SELECT pseudonymize(name) AS name, at, EXTRACT(hour FROM at) AS h FROM events"
    query = compile_sql(sql, schema, keys, key="name", event_time="at")
    old = compile_sql(old_sql, schema, PiiPolicy(None, keys.keys[1:]), key="name", event_time="at")
    assert query.secret_references == ["env:HIGHBEAM_TEST_NEW", "env:HIGHBEAM_TEST_OLD"]
    query.check_secrets()
    times = pa.array([0, 1, 2], pa.timestamp("ms", "UTC"))
    block = pa.record_batch({"name": ["a", "b", "a"], "at": times})
    rows = query.apply(block, query.history()).rows
    assert [decrypt(text, keys, "name") for text in rows.column("name").to_pylist()] == ["a", "b", "a"]
    assert rows.column("n").to_pylist() == [1, 1, 2]
    # Rows from before and rows from now are joined by the pseudonym that both have.
    assert rows.column("before") == old.apply(block).rows.column("name")
    assert rows.column("person") != rows.column("before")


@pytest.mark.parametrize(
    ("column", "policy", "says"),
    [
        ("encrypt(name)", PiiPolicy("env:X"), r"encrypt\(name\) needs a key with an id"),
        ("pseudonymize(name)", PiiPolicy(), r"pseudonymize\(name\) needs a key; add"),
        ("pseudonymize(name, 'b')", PiiPolicy(None, (("a", "env:X"),)), "names the key 'b'; pii.keys .* has 'a'"),
        ("pseudonymize(name, 1)", PiiPolicy("env:X"), "the id of the key is a text in quotes"),
        ("encrypt(latitude)", PiiPolicy("env:X"), "latitude is a number; encrypt needs a text"),
        ("encrypt(name, 'a')", PiiPolicy("env:X"), r"write it as encrypt\(column\)"),
    ],
)
def test_keys_that_a_query_lacks(column: str, policy: PiiPolicy, says: str) -> None:
    schema = {**PLACES, "fields": [{**field, "pii": None} if field["name"] == "at" else field for field in FIELDS]}
    with pytest.raises(UserError, match=says):
        compile_sql(
            f"SELECT id, at, length(shop) AS n, {column} AS x FROM events", schema, policy, key="id", event_time="at"
        )


def test_ids_that_are_none() -> None:
    with pytest.raises(UserError, match="'a:b' is no id of a key"):
        PiiPolicy(None, (("a:b", "env:X"),))
    with pytest.raises(UserError, match=r"pii.keys.a is not a reference") as caught:
        PiiPolicy(None, (("a", "s3cret"),))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("column", "says"),
    [
        ("at AS at", r"at shows at, personal data \(pii: quasi\); use truncate\(at, 'hour'\)"),
        ("truncate(born, 'day') AS at", "born identifies a person directly"),
        ("truncate(at, 'second') AS at", "unit is one of minute, hour, day, week, month, year"),
        ("truncate(at, 1) AS at", "unit is one of minute"),
        ("truncate(at, 'hour', latitude) AS at", "only the cell of a longitude"),
        ("truncate(zip, 2) AS at", "zip is a string; truncate needs a time or a number"),
        ("generalize(at, 2) AS at", "truncate cuts times"),
        ("truncate(at) AS at", r"write it as truncate\(column, 'hour'\)"),
        ("truncate(at, 'hour') + INTERVAL '1' HOUR AS at", "at is the event time"),
        ("truncate(latitude, 3) AS x", "whole number from -9 to 2"),
        ("truncate(latitude, '100 m') AS x", "cells of 1 km or more"),
        ("truncate(height, '5 km') AS x", "height is in m; cells in km are of degrees"),
        ("truncate(latitude, '5 km', zip) AS x", "zip is a string; the cell of a longitude needs its latitude"),
        ("latitude - truncate(latitude, 1) AS x", "x shows latitude, personal data"),
    ],
)
def test_what_truncate_refuses(column: str, says: str) -> None:
    sql = (
        f"SELECT id, {column}, {'' if column.endswith(' at') else chr(39).join(['truncate(at, ', 'hour', ') AS at,'])}"
    )
    with pytest.raises(UserError, match=says):
        compile_sql(f"{sql.rstrip(',')}, 1 + height AS y FROM events", PLACES, key="id", event_time="at")


def test_a_personal_time_leaves_cut() -> None:
    query = compile_sql(
        "SELECT id, truncate(at, 'hour') AS at, EXTRACT(hour FROM truncate(at, 'hour')) AS hour, "
        "count(*) OVER (PARTITION BY id ORDER BY at RANGE BETWEEN INTERVAL '1' MINUTE PRECEDING AND CURRENT ROW) AS n "
        "FROM events",
        PLACES,
        key="id",
        event_time="at",
    )
    times = pa.array([7_199_999, 7_200_000, 7_201_000], pa.timestamp("ms", "UTC"))
    block = pa.record_batch({"id": ["a"] * 3, "at": times})
    rows = query.apply(block, query.history()).rows.to_pylist()
    assert [row["at"].isoformat() for row in rows] == ["1970-01-01T01:00:00+00:00"] + ["1970-01-01T02:00:00+00:00"] * 2
    assert [row["hour"] for row in rows] == [1, 2, 2]
    assert [row["n"] for row in rows] == [1, 2, 3]  # windows go by the times as they came
    assert query.time_unit == "hour"
    by_shop = "count(*) OVER (PARTITION BY shop ORDER BY at RANGE BETWEEN INTERVAL '1' DAY PRECEDING AND CURRENT ROW)"
    sql = f"SELECT id, truncate(at, 'day') AS at, {by_shop} AS n, {by_shop.replace('shop', 'id')} AS m FROM events"
    with pytest.raises(UserError, match="windows by shop see rows by their at, personal data"):
        compile_sql(sql, PLACES, key="id", event_time="at")
