"""Says which alerts were right: what the job raised against what the simulator knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from beam_jobs.sandbox.fleet import Failure


@dataclass(frozen=True)
class Words:
    """What the view calls those whose events they are, and what is to be found."""

    key: str = "car"
    sought: str = "failed car"
    none_yet: str = "no car has failed yet"


@dataclass(frozen=True)
class Verdict:
    """The standing of the job against the truth; what is sought are failed cars, or frauds."""

    alerts: int  # distinct events that raised an alert
    precision: float | None  # share of alerts that are right: on cars that had failed by then; None without alerts
    recall: float | None  # share of what is sought that got an alert, after its failure; None where there is none yet
    recall_by_kind: dict[str, float]
    of_all: int  # how many there are


@dataclass
class Referee:
    """Takes every alert once; alerts are recognised by id."""

    failures: Mapping[str, Failure]  # by car, also of those still to come
    _seen: set[str] = field(default_factory=set)
    _last_alert_ms: dict[str, int] = field(default_factory=dict)
    _right: int = 0

    def judge(self, alert_id: str, car_id: str, event_time_ms: int) -> Failure | None:
        """Records one alert; returns the failure it is right about, None for a false alarm. Idempotent by id."""
        failure = self.failures.get(car_id)
        hit = failure if failure is not None and event_time_ms >= failure.time_ms else None
        if alert_id not in self._seen:
            self._seen.add(alert_id)
            self._right += hit is not None
            self._last_alert_ms[car_id] = max(event_time_ms, self._last_alert_ms.get(car_id, 0))
        return hit

    def verdict(self, now_ms: int) -> Verdict:
        """The standing, with the failures that events up to ``now_ms`` show."""
        shown = {car: failure for car, failure in self.failures.items() if failure.time_ms <= now_ms}
        found = [f for car, f in shown.items() if self._last_alert_ms.get(car, -1) >= f.time_ms]
        of_kind = Counter(failure.kind for failure in shown.values())
        found_of_kind = Counter(failure.kind for failure in found)
        return Verdict(
            alerts=len(self._seen),
            precision=self._right / len(self._seen) if self._seen else None,
            recall=len(found) / len(shown) if shown else None,
            recall_by_kind={kind: found_of_kind[kind] / n for kind, n in sorted(of_kind.items())},
            of_all=len(shown),
        )
