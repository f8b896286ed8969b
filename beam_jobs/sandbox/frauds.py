"""Frauds among the payments of cards, by pattern, and the labels that say so days later.

================== ==================================================================================================
pattern            what happens
================== ==================================================================================================
card_testing       4 to 9 payments of cents within minutes, online; the same merchant and device for several cards
account_takeover   3 to 7 larger payments online within hours, with a new device, from another town
velocity_burst     8 to 16 payments of the usual size within minutes, at one merchant in town
impossible_travel  1 to 3 payments at least 250 km away, an hour at most after the owner has paid at home
merchant_collusion a merchant charges again, and more, some who have paid there; for 4 to 8 days
small_then_large   a payment of cents, and within the hour one or two that are 8 to 20 times as large as usual
================== ==================================================================================================

Each pattern has the same number of fraudulent payments. What belongs together is an incident: of a card, and of
collusion of a card and the merchant. A label comes when the owner objects, 0.15 to 1 times ``label_days`` after that;
what nobody has objected to until then is labelled genuine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs.sandbox.cards import (
    APP,
    CATEGORIES,
    CHANNEL_NAMES,
    COUNTRIES,
    CURRENCIES,
    DAY_MS,
    DEVICES,
    EUROS,
    WEB,
    Floats,
    Ints,
    Paid,
    World,
    distance_km,
)
from beam_jobs.sandbox.owners import seeds

GENUINE = "none"
_MINUTE_MS = 60_000
_FAR_KM = 250.0


@dataclass(frozen=True)
class _Attack:
    """Who is defrauded, when, and how often: int64 [incidents], then what each payment of them is: int64 [payments]."""

    card: Ints
    start_ms: Ints
    of: Ints  # number of the incident here, of each payment
    nth: Ints  # which payment of its incident
    time_ms: Ints


class _Frauds:
    """Makes incidents of each pattern among genuine payments of a time."""

    def __init__(self, world: World, genuine: Paid, start_ms: int, end_ms: int, rng: np.random.Generator) -> None:
        self._world, self._genuine, self._rng = world, genuine, rng
        self._start_ms, self._end_ms = start_ms, end_ms
        self._devices = world.cards * DEVICES  # the next one, of those who defraud
        self._incidents = 0
        self.pattern: list[str] = []  # of each incident

    def of(self, pattern: str, rows: int) -> Paid:
        """About so many fraudulent payments, at least one incident of them."""
        made = PATTERNS[pattern](self, rows)
        number, made_of = np.unique(made.incident, return_inverse=True)
        made = Paid(**{**vars(made), "incident": made_of.astype(np.int64) + self._incidents})
        self._incidents += len(number)
        self.pattern += [pattern] * len(number)
        return made

    def card_testing(self, rows: int) -> Paid:
        attack = self._attack(rows, 4, 9, 8, 40)
        together = np.arange(len(attack.card)) // 4  # cards that are tested with one device, at one merchant
        at = self._world.online_merchants(int(together[-1]) + 1, self._rng)[together]
        cents = self._rng.uniform(0.5, 2.5, len(attack.of))
        return self._paid(attack, at[attack.of], cents, self._stolen(together)[attack.of], self._home(attack), WEB)

    def account_takeover(self, rows: int) -> Paid:
        attack = self._attack(rows, 3, 7, 300, 3600)
        at = self._world.online_merchants(len(attack.of), self._rng)
        euros = 20 * self._world.level[attack.card][attack.of] * self._rng.uniform(2, 6, len(attack.of))
        device = self._stolen(np.arange(len(attack.card)))
        town = self._rng.integers(0, self._world.home_towns, len(attack.card))
        return self._paid(attack, at, euros, device[attack.of], town[attack.of], APP)

    def velocity_burst(self, rows: int) -> Paid:
        attack = self._attack(rows, 8, 16, 10, 45)
        at = self._world.in_town(self._world.home[attack.card], self._rng)[attack.of]
        euros = self._world.usual_euros(attack.card[attack.of], at, self._rng)
        return self._paid(attack, at, euros, attack.card[attack.of] * DEVICES, self._home(attack), APP)

    def impossible_travel(self, rows: int) -> Paid:
        counts = self._counts(rows, 1, 3)
        owner = self._genuine
        at_home = np.flatnonzero(~self._world.online[owner.merchant] & (owner.time_ms < self._end_ms - DAY_MS // 4))
        before = self._rng.choice(at_home, len(counts))
        towns = self._rng.integers(0, len(self._world.town_at), (len(counts), 8))
        here = np.column_stack([owner.latitude[before], owner.longitude[before]])
        far = distance_km(here[:, None], self._world.town_at[towns])
        town = np.take_along_axis(towns, (far > _FAR_KM).argmax(axis=1)[:, None], axis=1)[:, 0]
        start = owner.time_ms[before] + self._rng.integers(10 * _MINUTE_MS, 60 * _MINUTE_MS, len(counts))
        attack = self._spread(owner.card[before], start, counts, 300, 1200)
        at = self._world.in_town(town[attack.of], self._rng)
        euros = self._world.usual_euros(attack.card[attack.of], at, self._rng)
        device = self._stolen(np.arange(len(counts)))
        return self._paid(attack, at, euros, device[attack.of], town[attack.of], APP)

    def merchant_collusion(self, rows: int) -> Paid:
        """Of campaigns in random order the first ones that make up so many payments."""
        owner, merchants = self._genuine, len(self._world.category)
        start = self._rng.uniform(self._start_ms, self._end_ms, merchants)
        end = start + self._rng.integers(4, 9, merchants) * DAY_MS
        at = owner.merchant
        during = (owner.time_ms >= start[at]) & (owner.time_ms < end[at]) & ~self._world.online[at]
        charged = np.flatnonzero(during & (self._rng.random(len(owner)) < 0.6))
        turn = self._rng.permutation(merchants)[at[charged]]
        charged = charged[np.argsort(turn, kind="stable")][: max(rows, 1)]
        again = owner.take(charged)
        pair = again.card * merchants + again.merchant
        later = self._rng.integers(20 * _MINUTE_MS, 180 * _MINUTE_MS, len(again))
        euros = np.ceil(again.euros * self._rng.uniform(2.5, 6, len(again)))
        return Paid(**{**vars(again), "time_ms": again.time_ms + later, "euros": euros, "incident": pair})

    def small_then_large(self, rows: int) -> Paid:
        attack = self._attack(rows, 2, 3, 180, 1500)
        at = self._world.online_merchants(len(attack.card), self._rng)[attack.of]
        large = 15 * self._world.level[attack.card][attack.of] * self._rng.uniform(8, 20, len(attack.of))
        euros = np.where(attack.nth == 0, self._rng.uniform(0.5, 2, len(large)), large)
        stolen = self._stolen(np.arange(len(attack.card)))
        device = np.where(self._rng.random(len(stolen)) < 0.5, stolen, attack.card * DEVICES + 1)
        return self._paid(attack, at, euros, device[attack.of], self._home(attack), WEB)

    def _counts(self, rows: int, least: int, most: int) -> Ints:
        """Payments of each incident, together about ``rows``."""
        counts = self._rng.integers(least, most + 1, 2 * rows // (least + most) * 2 + 8)
        together = np.cumsum(counts)
        return counts[: max(1, int(np.searchsorted(together - counts // 2, rows)))]

    def _attack(self, rows: int, least: int, most: int, quickest_s: float, slowest_s: float) -> _Attack:
        """Incidents at any time, of cards that are used now and then."""
        counts = self._counts(rows, least, most)
        used = np.flatnonzero(self._world.often >= np.quantile(self._world.often, 0.2))
        start = self._rng.uniform(self._start_ms, self._end_ms - DAY_MS // 2, len(counts)).astype(np.int64)
        return self._spread(self._rng.choice(used, len(counts)), start, counts, quickest_s, slowest_s)

    def _spread(self, card: Ints, start_ms: Ints, counts: Ints, quickest_s: float, slowest_s: float) -> _Attack:
        """The payments of incidents, each so many seconds after the one before."""
        of = np.repeat(np.arange(len(counts)), counts)
        first = np.cumsum(counts) - counts
        gaps = self._rng.uniform(quickest_s * 1000, slowest_s * 1000, len(of)).astype(np.int64)
        passed = np.cumsum(gaps)
        times = start_ms[of] + passed - passed[first][of]
        return _Attack(card, start_ms, of, np.arange(len(of)) - first[of], times)

    def _stolen(self, group: Ints) -> Ints:
        """A device of those who defraud, one for each group."""
        first = self._devices
        self._devices += int(group.max()) + 1
        return first + group

    def _home(self, attack: _Attack) -> Ints:
        return self._world.home[attack.card][attack.of]

    def _paid(self, attack: _Attack, merchant: Ints, euros: Floats, device: Ints, town: Ints, channel: int) -> Paid:
        card, channels = attack.card[attack.of], np.full(len(attack.of), channel)
        return self._world.paid(attack.time_ms, card, merchant, euros, device, town, channels, attack.of, self._rng)


PATTERNS: dict[str, Callable[[_Frauds, int], Paid]] = {
    "card_testing": _Frauds.card_testing,
    "account_takeover": _Frauds.account_takeover,
    "velocity_burst": _Frauds.velocity_burst,
    "impossible_travel": _Frauds.impossible_travel,
    "merchant_collusion": _Frauds.merchant_collusion,
    "small_then_large": _Frauds.small_then_large,
}


@dataclass(frozen=True)
class Payments:
    """Payments in the order of their time, and the truth about them."""

    world: World
    paid: Paid
    pattern: pa.StringArray  # of each incident
    label_ms: Ints  # [n], when it is known what a payment was

    def __len__(self) -> int:
        return len(self.paid)

    def fraud(self) -> pa.StringArray:
        """The pattern of each payment, GENUINE of most; [n]."""
        genuine = pa.scalar(len(self.pattern))
        kinds = pa.concat_arrays([self.pattern, pa.array([GENUINE])])
        incident = pa.array(self.paid.incident)
        return kinds.take(pc.if_else(pc.less(incident, 0), genuine, incident))

    def table(self, known_ms: int | None = None) -> pa.Table:
        """As events of use_cases/payment_fraud, with the labels known by then; None: all."""
        paid, world = self.paid, self.world
        country = world.country[paid.merchant]
        rate = np.array([EUROS[currency] for currency in CURRENCIES])[country]
        labels = self.fraud()
        if known_ms is not None:
            labels = pc.if_else(pa.array(self.label_ms <= known_ms), labels, pa.scalar(None, pa.string()))
        device, which = np.unique(paid.device, return_inverse=True)
        car = pa.array(paid.card)
        columns = {
            "payment_id": self.ids(),
            "event_time": pa.array(paid.time_ms).cast(pa.timestamp("ms", "UTC")),
            "card": pa.array([f"tok_{i * 2654435761 % 2**32:08x}{i:06d}" for i in range(world.cards)]).take(car),
            "customer": world.cars.drivers.take(car),
            "merchant": pa.array([f"m-{i:06d}" for i in range(len(world.category))]).take(pa.array(paid.merchant)),
            "category": pa.array(CATEGORIES).take(pa.array(world.category[paid.merchant])),
            "amount": pa.array(np.round(paid.euros / rate, 2)),
            "currency": pa.array(CURRENCIES).take(pa.array(country)),
            "channel": pa.array(CHANNEL_NAMES).take(pa.array(paid.channel)),
            "country": pa.array(COUNTRIES).take(pa.array(country)),
            "car_id": world.cars.ids.take(car),
            "device": pa.array([f"dev-{i * 40503 % 2**24:06x}{i:08d}" for i in device.tolist()]).take(pa.array(which)),
            "latitude": pa.array(np.round(paid.latitude, 5)),
            "longitude": pa.array(np.round(paid.longitude, 5)),
            "fraud": labels,
        }
        return pa.table(columns)

    def labels(self) -> pa.Table:
        """The labels in the order in which they come: the events again, each with ``fraud`` and its ``label_time``."""
        known = pa.array(self.label_ms).cast(pa.timestamp("ms", "UTC"))
        order = np.argsort(self.label_ms, kind="stable")
        return self.table().append_column("label_time", known).take(pa.array(order))

    def ids(self) -> pa.StringArray:
        """Names of the payments, by their number in the order of time."""
        return pc.binary_join_element_wise("p", pc.utf8_lpad(pa.array(range(len(self))).cast(pa.string()), 9, "0"), "-")


def simulate(
    cards: int = 20_000,
    days: int = 60,
    seed: int = 1,
    prevalence: float = 0.0017,
    start_ms: int = 1_767_225_600_000,  # 2026-01-01
    label_days: float = 7.0,
) -> Payments:
    """Payments of ``cards`` owners of the cars of ``Fleet(cards, seed)``; the same for the same arguments.

    Args:
      days: whole days, about 1.5 payments of each card a day.
      prevalence: share of fraudulent payments, 0..1, kept within half an incident a pattern.
      start_ms: time of the first payments, milliseconds since the epoch.
      label_days: after which each payment's label has come.
    """
    if cards < 1 or days < 1 or not 0 <= prevalence < 1 or label_days <= 0:
        raise ValueError(f"simulate(cards={cards}, days={days}, prevalence={prevalence}, label_days={label_days})")
    rng = np.random.default_rng(seeds(seed)[4])
    world = World(cards, seed, rng)
    genuine = world.genuine(start_ms, days, rng)
    frauds = _Frauds(world, genuine, start_ms, start_ms + days * DAY_MS, rng)
    rows = round(prevalence / (1 - prevalence) * len(genuine) / len(PATTERNS))
    parts = [genuine, *(frauds.of(pattern, rows) for pattern in PATTERNS if prevalence)]
    paid = Paid.joined(parts)
    paid = paid.take(np.argsort(paid.time_ms, kind="stable"))
    delay = np.where(paid.incident < 0, 1.0, 0.15 + 0.85 * rng.beta(2, 2, len(paid)))
    label_ms = paid.time_ms + (delay * label_days * DAY_MS).astype(np.int64)
    return Payments(world, paid, pa.array(frauds.pattern, pa.string()), label_ms)
