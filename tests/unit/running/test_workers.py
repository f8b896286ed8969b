"""Processes that share a job: what they count is added up, failures and deaths are told, none is left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from functools import partial

import pytest

from beam_jobs import metrics, stop
from beam_jobs.errors import UserError
from beam_jobs.running.workers import Workers


def read_some(n: int) -> None:
    metrics.inc(metrics.RECORDS_READ, n)


def read_until_drained(n: int) -> None:
    metrics.inc(metrics.RECORDS_READ, n)
    stop.wait(60)


def fail() -> None:
    raise UserError("the disk is full")


def bug() -> None:
    raise KeyError("x")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(autouse=True)
def counted() -> Iterator[None]:
    metrics.STATE.reset()
    stop.reset()
    yield
    metrics.STATE.reset()
    stop.reset()


def test_one_process_needs_no_other() -> None:
    with Workers(1) as workers:
        workers.start([])
        workers.join()


def test_what_all_processes_count_is_added_up() -> None:
    with Workers(3) as workers:
        workers.start([partial(read_some, 10), partial(read_some, 5)])
        read_some(1)
        workers.join()
    counts = metrics.STATE.snapshot()
    assert counts[metrics.RECORDS_READ] == 16
    assert counts.first_read > 0
    assert counts.active_s >= 0


def test_a_drain_reaches_all() -> None:
    with Workers(2) as workers:
        workers.start([partial(read_until_drained, 2)])
        workers.drain()
        workers.join()
    assert metrics.STATE.snapshot()[metrics.RECORDS_READ] == 2


@pytest.mark.parametrize(
    ("work", "others", "error", "text"),
    [
        (fail, 1, UserError, "the disk is full"),
        (bug, 0, RuntimeError, "KeyError"),
        (die, 0, RuntimeError, "status -9"),
    ],
)
def test_one_that_fails_drains_the_others(work: object, others: int, error: type[Exception], text: str) -> None:
    with Workers(2 + others) as workers:
        workers.start([work, *[partial(read_until_drained, 2)] * others])  # type: ignore[list-item]
        assert stop.wait(60)  # this process is told as well
        with pytest.raises(error, match=text):
            workers.join()
    assert metrics.STATE.snapshot()[metrics.RECORDS_READ] == 2 * others


def test_none_is_left_behind() -> None:
    with Workers(2) as workers:
        workers.start([partial(read_until_drained, 1)])
        assert multiprocessing.active_children()
    assert not multiprocessing.active_children()
