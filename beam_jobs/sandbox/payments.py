"""Simulated payments of the public fraud benchmark, and which of them are frauds.

Made from the published description of the simulator of Le Borgne, Siblini, Lebichot, Bontempi, "Reproducible Machine
Learning for Credit Card Fraud Detection: Practical Handbook" (2022): 5,000 customers, 10,000 terminals, 183 days from
2018-04-01, 1,754,155 payments, 978 + 9,099 + 4,604 frauds. The generators are NumPy's and Python's old ones and are
drawn from in the published order, so that the same payments come out to the cent.

======== ============================================================================================
scenario frauds
======== ============================================================================================
1        every payment above 220
2        every payment at 2 terminals a day, chosen anew each day, for 28 days
3        a third of the payments of 3 customers a day, chosen anew each day, for 14 days: five times as large
======== ============================================================================================

A payment of two scenarios bears the later number; the published counts are of the frauds that each scenario added.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

START = np.datetime64("2018-04-01", "s")
_DAY_S = 86_400
_NOON_S, _SPREAD_S = 43_200, 20_000  # s; the time of day of payments is normal
_NEAR = 5.0  # a customer pays at terminals nearer than that, in a square of 100 x 100
_LARGE = 220.0  # scenario 1
_TERMINALS_A_DAY, _TERMINAL_DAYS = 2, 28  # scenario 2
_CUSTOMERS_A_DAY, _CUSTOMER_DAYS, _CUSTOMER_SHARE, _FACTOR = 3, 14, 3, 5  # scenario 3


@dataclass(frozen=True)
class Payments:
    """Payments in the order of their time, a column each; all int64 [n], but ``amount``: float64 [n]."""

    time_s: Ints  # seconds since ``START``
    customer: Ints
    terminal: Ints
    amount: Floats
    scenario: Ints  # 0: genuine
    added: tuple[int, int, int]  # frauds by scenario, each where it came first

    def __len__(self) -> int:
        return len(self.time_s)

    def table(self) -> pa.Table:
        """As events: ``payment_id`` is their number; the truth in ``fraud`` and ``scenario``."""
        times = (START + self.time_s.astype("timedelta64[s]")).astype("datetime64[ms]")
        return pa.table(
            {
                "payment_id": pa.array(np.arange(len(self))),
                "event_time": pa.array(times).cast(pa.timestamp("ms", "UTC")),
                "customer_id": pa.array(self.customer),
                "terminal_id": pa.array(self.terminal),
                "amount": pa.array(self.amount),
                "fraud": pa.array(self.scenario > 0),
                "scenario": pa.array(self.scenario.astype(np.int32)),
            }
        )


@dataclass(frozen=True)
class _Customers:
    """Where they live and how they pay: float64 [customers, 2], then [customers]."""

    place: Floats
    mean_amount: Floats
    payments_a_day: Floats


def benchmark(customers: int = 5_000, terminals: int = 10_000, days: int = 183) -> Payments:
    """The benchmark's payments; the same for the same numbers. About half a minute for all of them."""
    people = _customers(customers)
    places = np.random.RandomState(1).uniform(0, 100, (terminals, 2))
    parts = [_paid(c, people, places, days) for c in range(customers)]
    customer = np.repeat(np.arange(customers), [len(time) for time, _, _ in parts])
    time, terminal, amount = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(time, kind="stable")
    return _with_frauds(time[order], customer[order], terminal[order], amount[order], customers, terminals)


def _customers(count: int) -> _Customers:
    draws = np.random.RandomState(0).uniform(size=(count, 4))
    return _Customers(draws[:, :2] * 100, 5 + draws[:, 2] * 95, draws[:, 3] * 4)


def _paid(customer: int, people: _Customers, places: Floats, days: int) -> tuple[Ints, Ints, Floats]:
    """A customer's payments: time, terminal, amount."""
    near = np.flatnonzero(np.sqrt(np.square(people.place[customer] - places).sum(axis=1)) < _NEAR).tolist()
    numbers, choices = np.random.RandomState(customer), random.Random(customer)  # noqa: S311 - the benchmark's own
    mean = people.mean_amount[customer]
    rows: list[tuple[int, int, float]] = []
    for day in range(days):
        for _ in range(numbers.poisson(people.payments_a_day[customer])):
            second = int(numbers.normal(_NOON_S, _SPREAD_S))
            if not 0 < second < _DAY_S:
                continue
            amount = numbers.normal(mean, mean / 2)
            if amount < 0:
                amount = numbers.uniform(0, mean * 2)
            if near:
                rows.append((day * _DAY_S + second, choices.choice(near), np.round(amount, 2)))
    columns = zip(*rows, strict=True) if rows else ((), (), ())
    time, terminal, amounts = columns
    return np.array(time, np.int64), np.array(terminal, np.int64), np.array(amounts, np.float64)


def _with_frauds(
    time: Ints, customer: Ints, terminal: Ints, amount: Floats, customers: int, terminals: int
) -> Payments:
    """Payments in the order of their time, with the frauds of the three scenarios, in their order."""
    scenario = np.where(amount > _LARGE, 1, 0)
    added = [int(np.count_nonzero(scenario))]
    day = time // _DAY_S
    days = int(day[-1])  # the last day starts no fraud
    starts = np.searchsorted(day, np.arange(days + 1 + _TERMINAL_DAYS))
    for first in range(days):
        chosen = np.random.RandomState(first).choice(terminals, _TERMINALS_A_DAY, replace=False)
        rows = slice(starts[first], starts[first + _TERMINAL_DAYS])
        scenario[rows][np.isin(terminal[rows], chosen)] = 2
    added.append(int(np.count_nonzero(scenario)) - sum(added))
    for first in range(days):
        chosen = np.random.RandomState(first).choice(customers, _CUSTOMERS_A_DAY, replace=False)
        rows = slice(starts[first], starts[first + _CUSTOMER_DAYS])
        theirs = (np.flatnonzero(np.isin(customer[rows], chosen)) + rows.start).tolist()
        taken = random.Random(first).sample(theirs, len(theirs) // _CUSTOMER_SHARE)  # noqa: S311 - the benchmark's own
        amount[taken] *= _FACTOR
        scenario[taken] = 3
    added.append(int(np.count_nonzero(scenario)) - sum(added))
    return Payments(time, customer, terminal, amount, scenario, (added[0], added[1], added[2]))
