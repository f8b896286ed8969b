"""How many alerts people can live with, as ``--alert_budget`` says it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from beam_jobs.errors import UserError

DAY_MS = 86_400_000
MOST = 0.1  # of the records: what a person is to look at is rare
LEAST = 1e-7

_FORM = re.compile(r"(\d{1,9})/(?:(\d{1,12})|(day)|(\d{1,9})keys)", re.ASCII)
_SHARE = re.compile(r"0?\.\d{1,9}", re.ASCII)
_FORMS = "N/RECORDS such as 1/1000 (or 0.001), N/day such as 100/day, or N/KEYSkeys such as 5/1000keys, which is a day"


@dataclass(frozen=True)
class AlertBudget:
    """So many alerts, in whole numbers: each record, or each millisecond, earns units, and an alert costs some.

    >>> AlertBudget.parse("1/1000")
    AlertBudget(per='records', earns=1, costs=1000)
    >>> AlertBudget.parse("100/day").share(2)
    AlertBudget(per='time', earns=100, costs=172800000)
    """

    per: Literal["records", "time", "keys"]
    earns: int  # units a record, a millisecond, or a millisecond and a key that was seen in the last 24 hours
    costs: int  # units an alert

    @staticmethod
    def parse(text: str) -> AlertBudget:
        """The budget that an option names.

        Raises:
          UserError: it is none, or none that can be kept.
        """
        written = text.replace(" ", "").replace(",", "")
        if _SHARE.fullmatch(written):
            share = Fraction(written)
            written = f"{share.numerator}/{share.denominator}"
        found = _FORM.fullmatch(written)
        if not found or not int(found[1]):
            raise UserError(f"--alert_budget {text}: expected {_FORMS}")
        alerts = int(found[1])
        if found[3]:
            return AlertBudget("time", alerts, DAY_MS)
        if found[4]:
            if not int(found[4]):
                raise UserError(f"--alert_budget {text}: expected {_FORMS}")
            return AlertBudget("keys", alerts, int(found[4]) * DAY_MS)
        if not LEAST <= alerts / max(int(found[2]), 1) <= MOST:
            raise UserError(f"--alert_budget {text}: expected 1 in 10 records at most, and 1 in 10 million at least")
        return AlertBudget("records", alerts, int(found[2]))

    def share(self, processes: int) -> AlertBudget:
        """The part of one of so many processes. Records and keys are their own; time passes for each of them."""
        return AlertBudget(self.per, self.earns, self.costs * processes) if self.per == "time" else self

    @property
    def burst(self) -> int:
        """The most that is saved up, in units: alerts that may come at once."""
        alerts = 10.0
        if self.per == "time":  # of a small one a tenth would be less than an alert
            alerts = min(10.0, max(2.0, self.earns * DAY_MS / self.costs / 2))
        return int(alerts * self.costs)
