"""Cards of the fleet's owners, and what they pay for: fuel, charging, parking, entertainment, and things on the way.

Each card is of the owner of one car of ``Fleet`` and is used near the car's home, mostly at a few favourite merchants.
How often is its own (a gamma distribution, 1.5 payments a day), when is the day's and the week's: commuters at eight
and at six, less on Sundays, more in summer. Amounts are log-normal by kind of purchase, times a level of the card.
Now and then its owner is away for days, a few hours' travel from home, and now and then there is a new phone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from beam_jobs.sandbox.owners import LATITUDES, LONGITUDES, Cars, cars_of

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

DAY_MS = 86_400_000
CATEGORIES = ("fuel", "charging", "parking", "entertainment", "shop")
CHANNELS = IN_CAR, APP, WEB = range(3)
CHANNEL_NAMES = ("in_car", "app", "web")
EUROS = {"EUR": 1.0, "GBP": 1.15, "CHF": 1.05, "PLN": 0.23, "CZK": 0.04, "DKK": 0.134}
"""Of one unit of each currency; the SQL of payment_fraud has the same."""

_USUAL_EUROS = np.array([55.0, 18.0, 4.0, 9.0, 12.0])  # median, by category
_SPREAD = np.array([0.35, 0.5, 0.6, 0.5, 0.6])  # of the logarithm, by category
_IN_TOWN = np.array([0, 0, 1, 1, 2, 2, 3, 4])  # categories of the merchants of a town
_ABROAD = (  # towns that owners only travel to: degrees north and east, country, currency
    (51.51, -0.13, "GB", "GBP"),
    (48.86, 2.35, "FR", "EUR"),
    (45.46, 9.19, "IT", "EUR"),
    (52.23, 21.01, "PL", "PLN"),
    (46.95, 7.45, "CH", "CHF"),
    (50.08, 18.44, "CZ", "CZK"),
    (55.68, 12.57, "DK", "DKK"),
    (40.42, -3.70, "ES", "EUR"),
)
COUNTRIES = ("DE", *(country for _, _, country, _ in _ABROAD))
CURRENCIES = ("EUR", *(currency for *_, currency in _ABROAD))  # of each country
_FAVOURITES = np.array([0.5, 0.25, 0.15, 0.1])  # how often each of them
_ONLINE, _FAVOURITE, _TRIPS_A_DAY, _NEW_PHONES_A_DAY = 0.15, 0.8, 1 / 60, 1 / 500
_HOURS = np.array([7.75, 12.8, 18.2, 23.0])  # when payments are made
_WIDTHS = np.array([0.8, 2.0, 1.8, 1.5])  # h
_WEEKDAY, _WEEKEND = np.array([0.3, 0.28, 0.38, 0.04]), np.array([0.08, 0.47, 0.37, 0.08])
_OF_WEEK = np.array([1.0, 0.97, 1.0, 1.04, 1.22, 1.1, 0.67])  # Monday first
_TRAVEL_HOURS = 8  # of a day on which somebody leaves or comes back
DEVICES = 3  # of a card: the car itself, a phone, the phone after that


@dataclass(frozen=True)
class Paid:
    """Payments, a column each: [n]."""

    time_ms: Ints  # since the epoch
    card: Ints
    merchant: Ints
    euros: Floats
    device: Ints
    latitude: Floats  # degrees
    longitude: Floats
    channel: Ints  # one of CHANNELS
    incident: Ints  # number of the fraud it belongs to, -1: genuine

    def __len__(self) -> int:
        return len(self.time_ms)

    def take(self, rows: NDArray[np.generic]) -> Self:
        """The rows of that mask, or with those numbers."""
        return type(self)(*(getattr(self, f.name)[rows] for f in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """One after the other."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))


class World:
    """Towns with their merchants, and cards that are at home in one of them.

    Attributes:
      cars: whose owners have the cards, one each.
      level: float64 [cards], how much more than others a card pays.
      often: float64 [cards], payments a day.
      home: int64 [cards], the town.
      town_at: float64 [towns, 2], degrees north and east; the last ones are abroad.
      category, online, merchant_at, country: of each merchant; those of a town one after the other, online ones last.
    """

    def __init__(self, cards: int, seed: int, rng: np.random.Generator) -> None:
        self.cars: Cars = cars_of(cards, seed)
        self.cards = cards
        self.level = rng.lognormal(0.0, 0.3, cards)
        self.often = rng.gamma(2.0, 0.75, cards)
        self._lay_out(rng, towns=min(400, max(100, cards // 50)))
        self.favourites = self.in_town(np.repeat(self.home, len(_FAVOURITES)), rng).reshape(cards, -1)
        self.favourite_online = self.online_merchants(cards, rng)
        self.new_phone = rng.exponential(1 / _NEW_PHONES_A_DAY, cards)  # days from the start

    def _lay_out(self, rng: np.random.Generator, towns: int) -> None:
        self.home_towns = towns
        here = np.column_stack([rng.uniform(*LATITUDES, towns), rng.uniform(*LONGITUDES, towns)])
        self.town_at = np.concatenate([here, np.array([place[:2] for place in _ABROAD])])
        self.home = np.empty(self.cards, np.int64)
        homes = np.column_stack([self.cars.latitude, self.cars.longitude])
        for first in range(0, self.cards, 10_000):  # cards x towns at once would be gigabytes
            part = slice(first, first + 10_000)
            self.home[part] = distance_km(homes[part, None], here[None]).argmin(axis=1)
        size, online = len(_IN_TOWN), max(8, self.cards // 400)
        town = np.repeat(np.arange(len(self.town_at)), size)
        self.category = np.concatenate([np.tile(_IN_TOWN, len(self.town_at)), rng.integers(2, 5, online)])
        self.online = np.arange(len(self.category)) >= len(town)
        self.merchant_at = np.full((len(self.category), 2), np.nan)
        self.merchant_at[: len(town)] = self.town_at[town] + rng.normal(0, 0.04, (len(town), 2))
        self.country = np.zeros(len(self.category), np.int64)
        self.country[: len(town)] = np.maximum(town - towns + 1, 0)

    def in_town(self, town: Ints, rng: np.random.Generator) -> Ints:
        """A merchant in each of the towns."""
        return town * len(_IN_TOWN) + rng.integers(0, len(_IN_TOWN), len(town))

    def online_merchants(self, count: int, rng: np.random.Generator) -> Ints:
        """Merchants without a place."""
        return rng.choice(np.flatnonzero(self.online), count)

    def usual_euros(self, card: Ints, merchant: Ints, rng: np.random.Generator) -> Floats:
        """What the card may pay there."""
        category = self.category[merchant]
        wide = np.where(rng.random(len(card)) < 0.02, 2.0, 1.0)  # a purchase out of the ordinary
        noise = rng.normal(0, _SPREAD[category] * wide)
        return np.maximum(_USUAL_EUROS[category] * self.level[card] * np.exp(noise), 0.5)

    def genuine(self, start_ms: int, days: int, rng: np.random.Generator) -> Paid:
        """What the owners pay in so many days, in no order."""
        first = start_ms // DAY_MS
        weekday = (np.arange(days) + first + 3) % 7  # the epoch was a Thursday
        summer = 1 + 0.1 * np.sin(2 * np.pi * ((np.arange(days) + first) % 365.25 - 80) / 365.25)
        away = self._trips(days, rng)
        counts = rng.poisson(self.often[:, None] * (_OF_WEEK[weekday] * summer)[None, :])
        card = np.repeat(np.arange(self.cards), counts.sum(axis=1))
        day = np.repeat(np.tile(np.arange(days), self.cards), counts.ravel())
        hours = _hours(weekday[day] >= 5, rng)
        travels = (away[card, day] != away[card, np.maximum(day - 1, 0)]) & (hours < _TRAVEL_HOURS)
        card, day, hours = card[~travels], day[~travels], hours[~travels]
        town, n = away[card, day].astype(np.int64), len(card)
        u = rng.random(n)
        merchant = self.in_town(np.where(town < 0, self.home[card], town), rng)
        favourite = (town < 0) & (u < _FAVOURITE)
        which = rng.choice(len(_FAVOURITES), n, p=_FAVOURITES)
        merchant[favourite] = self.favourites[card[favourite], which[favourite]]
        online = u > 1 - _ONLINE
        merchant[online] = np.where(rng.random(n) < 0.8, self.favourite_online[card], self.online_merchants(n, rng))[
            online
        ]
        time_ms = start_ms + day * DAY_MS + (hours * 3_600_000).astype(np.int64)
        by_app = rng.random(n)
        channel = np.where(online, np.where(by_app < 0.6, APP, WEB), np.where(by_app < 0.35, APP, IN_CAR))
        phone = np.where(day < self.new_phone[card], 1, 2)
        return self.paid(
            time_ms,
            card,
            merchant,
            self.usual_euros(card, merchant, rng),
            card * DEVICES + np.where(channel == IN_CAR, 0, phone),
            np.where(town < 0, self.home[card], town),
            channel,
            np.full(n, -1),
            rng,
        )

    def paid(
        self,
        time_ms: Ints,
        card: Ints,
        merchant: Ints,
        euros: Floats,
        device: Ints,
        town: Ints,  # where the one who pays is, which counts for merchants online
        channel: Ints,
        incident: Ints,
        rng: np.random.Generator,
    ) -> Paid:
        """The payments, each with a place: the merchant's, or where its device is."""
        online = self.online[merchant]
        at_home = online & (town == self.home[card])
        place = np.where(online[:, None], self.town_at[town], self.merchant_at[merchant])
        place[at_home] = np.column_stack([self.cars.latitude, self.cars.longitude])[card[at_home]]
        place += rng.normal(0, np.where(online, 0.02, 0.0005)[:, None], place.shape)
        return Paid(time_ms, card, merchant, np.round(euros, 2), device, place[:, 0], place[:, 1], channel, incident)

    def _trips(self, days: int, rng: np.random.Generator) -> NDArray[np.int16]:
        """Where each card is on each day, [cards, days]: a town, or -1 at home."""
        away = np.full((self.cards, days), -1, np.int16)
        count = rng.poisson(self.cards * days * _TRIPS_A_DAY)
        card, start = rng.integers(0, self.cards, count), rng.integers(0, days, count)
        length, town = rng.integers(1, 7, count), rng.integers(0, len(self.town_at), count)
        for k in range(6):
            there = (k < length) & (start + k < days)
            away[card[there], start[there] + k] = town[there]
        return away


def distance_km(a: Floats, b: Floats) -> Floats:
    """Along the surface, of places [..., 2] in degrees north and east."""
    a, b = np.radians(a), np.radians(b)
    half = np.sin((a - b) / 2) ** 2
    return 2 * 6371 * np.arcsin(np.sqrt(half[..., 0] + np.cos(a[..., 0]) * np.cos(b[..., 0]) * half[..., 1]))


def _hours(weekend: NDArray[np.bool_], rng: np.random.Generator) -> Floats:
    """Times of day, in hours."""
    u = rng.random(len(weekend))
    part = np.where(weekend, np.searchsorted(_WEEKEND.cumsum()[:-1], u), np.searchsorted(_WEEKDAY.cumsum()[:-1], u))
    return (_HOURS[part] + _WIDTHS[part] * rng.standard_normal(len(u))) % 24
