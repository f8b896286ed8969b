"""Says which alerts were right, which frauds were found, and what the card of an alert has paid before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from beam_jobs.sandbox.cards import CATEGORIES, CHANNEL_NAMES, COUNTRIES
from beam_jobs.sandbox.frauds import GENUINE, PATTERNS, Payments
from demo.referee import Verdict

_TOLD = 6  # payments of a story


@dataclass(frozen=True)
class Found:
    """Of one pattern, as far as payments were sent: incidents and payments, and those of them that raised an alert."""

    incidents: int
    incidents_found: int
    payments: int
    payments_found: int


class Referee:
    """Takes every alert once, by the payment it is of.

    Args:
      payments: all of them, with the truth.
      first: number of the first one that is live.
    """

    def __init__(self, payments: Payments, first: int) -> None:
        self._payments = payments
        self._first = first
        self._pattern = np.array(payments.fraud().to_pylist())
        self._of_card = np.argsort(payments.paid.card, kind="stable")  # payments by card, then by time
        self._begin = np.searchsorted(payments.paid.card[self._of_card], np.arange(payments.world.cards + 1))
        self._alerted: dict[int, None] = {}  # numbers of payments, in the order of their alerts

    def judge(self, payment_id: str) -> str:
        """Records an alert; returns the pattern that it is right about, "" for a false alarm. Idempotent."""
        number = int(payment_id.removeprefix("p-").removeprefix("p"))
        self._alerted[number] = None
        pattern = str(self._pattern[number])
        return "" if pattern == GENUINE else pattern

    def found(self, sent: int) -> Mapping[str, Found]:
        """By pattern, of the first ``sent`` live payments."""
        rows = slice(self._first, self._first + sent)
        pattern, incident = self._pattern[rows], self._payments.paid.incident[rows]
        alerted = np.zeros(len(self._payments), np.bool_)
        alerted[list(self._alerted)] = True
        hit = alerted[rows]
        result = {}
        for name in PATTERNS:
            of = pattern == name
            incidents, caught = (len(np.unique(incident[rows_of])) for rows_of in (of, of & hit))
            result[name] = Found(incidents, caught, int(of.sum()), int((of & hit).sum()))
        return result

    def verdict(self, sent: int) -> Verdict:
        """The standing, of the first ``sent`` live payments."""
        found = {name: each for name, each in self.found(sent).items() if each.incidents}
        right = sum(self._pattern[number] != GENUINE for number in tuple(self._alerted))
        incidents = sum(each.incidents for each in found.values())
        return Verdict(
            alerts=len(self._alerted),
            precision=right / len(self._alerted) if self._alerted else None,
            recall=sum(each.incidents_found for each in found.values()) / incidents if incidents else None,
            recall_by_kind={name: each.incidents_found / each.incidents for name, each in found.items()},
            of_all=incidents,
        )

    def story(self, key: str) -> Sequence[str]:
        """What the card of the newest alert has paid until then, newest last; no lines before there is one."""
        alerted = tuple(self._alerted)
        if not alerted:
            return ()
        paid, newest = self._payments.paid, alerted[-1]
        card = int(paid.card[newest])
        first = int(self._begin[card])
        own = self._of_card[first : int(self._begin[card + 1])]
        until = own[own <= newest][-_TOLD:]
        lines = [self._line(int(number), int(number) in self._alerted) for number in until]
        return [f"The story of {key}, by the simulator:", *lines]

    def _line(self, number: int, alerted: bool) -> str:
        paid, world, truth = self._payments.paid, self._payments.world, str(self._pattern[number])
        merchant = int(paid.merchant[number])
        when = datetime.fromtimestamp(int(paid.time_ms[number]) / 1000, UTC)
        marks = [*(["alert"] if alerted else []), *([truth.replace("_", " ")] if truth != GENUINE else [])]
        return (
            f"  {when:%d %b %H:%M:%S}  {paid.euros[number]:9,.2f} EUR  {CATEGORIES[world.category[merchant]]:13} "
            f"{CHANNEL_NAMES[paid.channel[number]]:6}  {COUNTRIES[world.country[merchant]]}  m-{merchant:06}  "
            f"{', '.join(marks)}"
        ).rstrip()


class Positions:
    """Which records of a topic were heard of, by their places: each of them once, without a gap?"""

    def __init__(self, begin: Mapping[int, int]) -> None:
        self._begin = begin  # by partition
        self._seen: dict[int, set[int]] = {partition: set() for partition in begin}

    def add(self, partitions: Sequence[int], offsets: Sequence[int]) -> None:
        """Records at those places, as far as they are not from before."""
        for partition, offset in zip(partitions, offsets, strict=True):
            if offset >= self._begin[partition]:
                self._seen[partition].add(offset)

    @property
    def count(self) -> int:
        """How many different ones."""
        return sum(map(len, self._seen.values()))

    def are_all(self, count: int) -> bool:
        """True if they are ``count`` records that follow each other in each partition."""
        without_gap = all(
            not seen or max(seen) - self._begin[partition] + 1 == len(seen) for partition, seen in self._seen.items()
        )
        return without_gap and self.count == count


def counted(found: Mapping[str, Found]) -> Mapping[str, Any]:
    """As ``--report`` has it."""
    totals: Counter[str] = Counter()
    for each in found.values():
        totals.update(vars(each))
    return {name: {**vars(each)} for name, each in found.items()} | {"all": dict(totals)}
