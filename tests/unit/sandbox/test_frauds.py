"""Simulated payments of cards: what is common is common, each fraud is as its pattern says, and labels come late."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_jobs.codec.schema import arrow_schema
from beam_jobs.sandbox.cards import DAY_MS, EUROS
from beam_jobs.sandbox.fleet import Fleet
from beam_jobs.sandbox.frauds import GENUINE, PATTERNS, Payments, simulate
from beam_jobs.use_case import load_use_case

START = 1_767_225_600_000
CARDS, DAYS = 1_500, 40


@pytest.fixture(scope="module")
def payments() -> Payments:
    return simulate(CARDS, DAYS, seed=3, prevalence=0.01, start_ms=START)


@pytest.fixture(scope="module")
def events(payments: Payments) -> pl.DataFrame:
    """With the number of the incident, what was paid in euros, and the time in minutes."""
    paid = payments.paid
    more = {"incident": paid.incident, "euros": paid.euros, "minutes": paid.time_ms / 60_000}
    return pl.DataFrame(pl.from_arrow(payments.table())).with_columns(**{k: pl.Series(v) for k, v in more.items()})


@given(
    cards=st.integers(300, 1_500),
    days=st.integers(10, 60),
    prevalence=st.sampled_from([0.0017, 0.005, 0.02]),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=15)
def test_any_prevalence_is_held_and_each_pattern_is_there(cards: int, days: int, prevalence: float, seed: int) -> None:
    payments = simulate(cards, days, seed, prevalence)
    of_incident = np.bincount(payments.paid.incident[payments.paid.incident >= 0])
    frauds = int(of_incident.sum())
    assert set(payments.pattern.to_pylist()) == set(PATTERNS)
    assert len(of_incident) == len(payments.pattern)
    assert of_incident.min() >= 1
    of_pattern = prevalence * len(payments) / len(PATTERNS)
    assert abs(frauds - prevalence * len(payments)) <= len(PATTERNS) * max(9, 0.02 * of_pattern)


def test_no_fraud_where_none_is_asked_for() -> None:
    payments = simulate(50, 10, prevalence=0)
    assert set(payments.fraud().to_pylist()) == {GENUINE}


def test_the_same_for_the_same_seed(payments: Payments) -> None:
    assert simulate(CARDS, DAYS, seed=3, prevalence=0.01, start_ms=START).table().equals(payments.table())
    other = simulate(CARDS, DAYS, seed=4, prevalence=0.01, start_ms=START)
    assert len(other) != len(payments)


def test_rows_have_the_schema_of_the_use_case_and_its_limits(payments: Payments) -> None:
    schema = load_use_case("payment_fraud").schema
    table = payments.table()
    assert table.schema.names == arrow_schema(schema).names
    cast = table.cast(arrow_schema(schema))
    cast.validate(full=True)
    assert cast.num_rows == len(payments)
    for field in schema["fields"]:
        if "min" in field:
            values = table[field["name"]].to_numpy()
            assert field["min"] <= values.min() <= values.max() <= field["max"], field["name"]


def test_in_the_order_of_time_and_each_with_a_name_of_its_own(events: pl.DataFrame) -> None:
    assert events["event_time"].is_sorted()
    assert events["payment_id"].n_unique() == len(events)
    assert events["payment_id"].is_sorted()


def test_cars_owners_and_homes_are_those_of_the_fleet(events: pl.DataFrame) -> None:
    fleet = pl.DataFrame(pl.from_arrow(Fleet(CARDS, seed=3).step(1)))
    near = (
        pl.col("latitude").sub(pl.col("latitude_right")).abs()
        + pl.col("longitude").sub(pl.col("longitude_right")).abs()
    )
    joined = events.join(fleet.select("car_id", "driver_name", "latitude", "longitude"), on="car_id")
    assert len(joined) == len(events)
    assert (joined["customer"] == joined["driver_name"]).all()
    assert joined.select(near.median()).item() < 0.8  # degrees: homes are spread over seven by seven


def test_genuine_payments_have_seasons_favourites_and_log_normal_amounts(events: pl.DataFrame) -> None:
    genuine = events.filter(pl.col("fraud") == GENUINE)
    of_day = genuine.group_by(pl.col("event_time").dt.weekday()).len().sort("event_time")["len"].to_numpy()
    assert of_day.argmax() == 4  # Friday
    assert of_day.argmin() == 6  # Sunday
    hours = genuine["event_time"].dt.hour()
    assert hours.is_between(1, 5).mean() < 0.05 < hours.is_between(17, 19).mean()
    merchants = (
        genuine.group_by("card", "merchant").len().group_by("card").agg(pl.col("len").max() / pl.col("len").sum())
    )
    assert 0.2 < merchants["len"].median() < 0.6  # random ones in town would be an eighth each
    fuel = np.log(genuine.filter(pl.col("category") == "fuel")["euros"].to_numpy())
    assert fuel.mean() == pytest.approx(np.log(55), abs=0.05)
    assert fuel.std() == pytest.approx(np.hypot(0.35, 0.3), abs=0.05)


def test_amounts_are_in_the_currency_of_the_country_and_the_sql_knows_each(events: pl.DataFrame) -> None:
    assert set(events["currency"]) == set(EUROS)
    assert (events.filter(pl.col("country") == "DE")["currency"] == "EUR").all()
    back = events["amount"] * events["currency"].replace_strict(EUROS, return_dtype=pl.Float64)
    assert ((back - events["euros"]).abs() <= 0.01).all()
    for currency, euros in EUROS.items():
        assert f"WHEN '{currency}' THEN {euros:g}" in load_use_case("payment_fraud").sql


def incidents(events: pl.DataFrame, pattern: str) -> pl.DataFrame:
    """Of each incident its payments, how long it took, its amounts, devices and merchants."""
    minutes = pl.col("minutes")
    return (
        events.filter(pl.col("fraud") == pattern)
        .group_by("incident")
        .agg(
            n=pl.len(),
            minutes=minutes.max() - minutes.min(),
            least=pl.col("euros").min(),
            most=pl.col("euros").max(),
            cards=pl.col("card").n_unique(),
            devices=pl.col("device").n_unique(),
            merchants=pl.col("merchant").n_unique(),
        )
    )


def test_an_incident_is_of_one_card(events: pl.DataFrame) -> None:
    for pattern in PATTERNS:
        assert (incidents(events, pattern)["cards"] == 1).all(), pattern


def test_cards_are_tested_with_cents_by_one_device(events: pl.DataFrame) -> None:
    found = incidents(events, "card_testing")
    assert found["n"].is_between(4, 9).all()
    assert (found["most"] <= 2.5).all()
    assert (found["minutes"] <= 8 * 40 / 60).all()
    assert (found["devices"] == 1).all()
    tested = events.filter(pl.col("fraud") == "card_testing")
    assert tested.group_by("device").agg(pl.col("card").n_unique())["card"].max() > 1


def test_an_account_that_was_taken_over_pays_from_a_new_device(events: pl.DataFrame) -> None:
    assert incidents(events, "account_takeover")["n"].is_between(3, 7).all()
    taken = events.filter(pl.col("fraud") == "account_takeover")
    genuine = events.filter(pl.col("fraud") == GENUINE)
    assert not set(taken["device"]) & set(genuine["device"])
    assert taken["euros"].median() > 2 * genuine["euros"].median()


def test_a_burst_is_minutes_long_at_one_merchant(events: pl.DataFrame) -> None:
    found = incidents(events, "velocity_burst")
    assert found["n"].is_between(8, 16).all()
    assert (found["minutes"] <= 15 * 45 / 60).all()
    assert (found["merchants"] == 1).all()


def test_impossible_travel_is_faster_than_any_plane(events: pl.DataFrame) -> None:
    half = (pl.col("latitude", "longitude").diff().over("card").radians() / 2).sin() ** 2
    events = events.with_columns(half.name.suffix("_half"), hours=pl.col("minutes").diff().over("card") / 60)
    cosine = pl.col("latitude").radians().cos() * pl.col("latitude").shift(1).over("card").radians().cos()
    km = 2 * 6371 * (pl.col("latitude_half") + cosine * pl.col("longitude_half")).sqrt().arcsin()
    events = events.with_columns(kmh=km / pl.max_horizontal("hours", 0.25))
    first = events.filter(pl.col("fraud") == "impossible_travel").group_by("incident", maintain_order=True).first()
    assert (first["kmh"] > 240).mean() > 0.97  # where the owner pays meanwhile it is slower
    assert (events.filter(pl.col("fraud") == GENUINE)["kmh"] > 240).mean() < 0.005


def test_who_colludes_charges_again_and_more(events: pl.DataFrame) -> None:
    charged = events.filter(pl.col("fraud") == "merchant_collusion")
    genuine = events.filter(pl.col("fraud") == GENUINE)
    before = charged.sort("minutes").join_asof(
        genuine.sort("minutes").select("minutes", "card", "merchant", first=pl.col("euros"), at=pl.col("minutes")),
        on="minutes",
        by=["card", "merchant"],
    )
    assert ((before["minutes"] - before["at"]) <= 180).all()
    assert (before["euros"] == before["euros"].ceil()).all()
    assert (before["euros"] > before["first"]).mean() > 0.95


def test_a_small_payment_is_followed_by_a_large_one(events: pl.DataFrame) -> None:
    found = incidents(events, "small_then_large")
    assert found["n"].is_between(2, 3).all()
    assert (found["least"] <= 2).all()
    assert (found["most"] > 20 * found["least"]).all()
    assert (found["minutes"] <= 50).all()


def test_labels_come_late_and_once(payments: Payments) -> None:
    labels = payments.labels()
    assert labels.schema.names == [*payments.table().schema.names, "label_time"]
    assert labels.drop_columns("label_time").sort_by("payment_id").equals(payments.table())
    assert sorted(labels["payment_id"].to_pylist()) == payments.ids().to_pylist()
    times = labels["label_time"].cast(pa.int64()).to_numpy()
    assert (np.diff(times) >= 0).all()
    days = (payments.label_ms - payments.paid.time_ms) / DAY_MS
    fraud = payments.paid.incident >= 0
    assert (days[~fraud] == 7).all()
    assert days[fraud].min() >= 0.15 * 7
    assert days[fraud].max() <= 7
    assert 3 < days[fraud].mean() < 5


def test_what_is_not_known_yet_is_null(payments: Payments) -> None:
    end = START + DAYS * DAY_MS
    known = payments.label_ms <= end
    labels = payments.table(known_ms=end)["fraud"]
    assert labels.null_count == np.count_nonzero(~known) > 0
    assert labels.is_valid().to_numpy().tolist() == known.tolist()


@pytest.mark.parametrize(
    "wrong", [{"cards": 0}, {"days": 0}, {"prevalence": 1.0}, {"prevalence": -0.1}, {"label_days": 0.0}]
)
def test_arguments_that_make_no_payments(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"simulate\("):
        simulate(**wrong)  # type: ignore[arg-type]
