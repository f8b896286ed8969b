"""Reading ahead of what is taken in, and what is told meanwhile."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Generator
from types import SimpleNamespace

import pytest

from beam_jobs import metrics
from beam_jobs.steps import rebuild
from beam_jobs.steps.rebuild import Telling, ahead


class Numbers:
    """0, 1, 2 and so on up to a failure; knows whether it was closed."""

    def __init__(self, count: int, fails: bool = False) -> None:
        self._count, self._fails = count, fails
        self.made, self.closed = 0, False
        self.threads: set[int] = set()

    def all(self) -> Generator[int, None, None]:
        try:
            for number in range(1, self._count + 1):
                self.made = number
                self.threads.add(threading.get_ident())
                yield number
            if self._fails:
                raise OSError("gone")
        finally:
            self.closed = True


def test_all_come_in_order_from_another_thread() -> None:
    numbers = Numbers(5)
    assert list(ahead(numbers.all())) == [1, 2, 3, 4, 5]
    assert numbers.closed
    assert threading.get_ident() not in numbers.threads


def test_one_is_made_ahead_and_no_more() -> None:
    numbers = Numbers(100)
    taken = ahead(numbers.all())
    assert [next(taken), next(taken)] == [1, 2]
    taken.close()
    assert numbers.made <= 3
    assert numbers.closed


def test_what_fails_there_fails_here() -> None:
    numbers = Numbers(2, fails=True)
    taken = ahead(numbers.all())
    assert [next(taken), next(taken)] == [1, 2]
    with pytest.raises(OSError, match="gone"):
        next(taken)
    assert numbers.closed


def test_the_log_is_told_after_some_seconds(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0.0, 2.0)  # seconds between two looks at it
    monkeypatch.setattr(rebuild, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with caplog.at_level(logging.WARNING), Telling(1000, 7_200_000) as told:
        told.read(100, 90)
        assert str(metrics.STATE.own().rebuilding).startswith("rebuilding 2 h of features: 10 %")
        told.read(520, 520)
    assert metrics.STATE.own().rebuilding == metrics.Rebuilding()
    first, last = caplog.messages
    assert first == "rebuilding 2 h of features: 10 %, 36 s left"
    assert last.startswith("rebuilt 2 h of features in ")


def test_a_rebuild_that_fails_is_none_that_is_over(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(OSError, match="gone"), Telling(1000, 7_200_000):
        raise OSError("gone")
    assert metrics.STATE.own().rebuilding == metrics.Rebuilding()
    assert not caplog.messages
