"""What is asked before the start, and what is passed over and said where nobody answers."""

from __future__ import annotations

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs.errors import UnreachableError, UserError
from beam_jobs.preflight.reach import Preflight
from beam_jobs.terminal import options
from beam_jobs.terminal.commands import JOBS

DATAFLOW = "--runner=DataflowRunner"


def preflight(*words: str) -> Preflight:
    return Preflight(options.parse(JOBS["score"].parser(), words))


def nobody() -> int:
    raise UnreachableError("kafka://far:1/t: no broker answers")


def refused() -> int:
    raise UserError("kafka://far:1/t: authentication failed")


@pytest.mark.parametrize(
    ("words", "asks", "passes_over"),
    [
        ([], True, False),
        (["--runner=PrismRunner"], True, False),
        ([DATAFLOW], True, True),
        (["--preflight=strict", DATAFLOW], True, False),
        (["--preflight=reachable"], True, True),
        (["--preflight=off"], False, True),
        (["--preflight=off", DATAFLOW], False, True),
        (["--preflight=", DATAFLOW], True, True),  # empty: not given
    ],
)
def test_the_levels(words: list[str], asks: bool, passes_over: bool, capsys: pytest.CaptureFixture[str]) -> None:
    asking = preflight(*words)
    before = capsys.readouterr().err
    assert ("--preflight off" in before) is not asks  # what is not asked is said too
    assert asking.ask("near", "topic a", lambda: 3) == (3 if asks else None)
    assert capsys.readouterr().err == ""
    if passes_over:
        assert asking.ask("far", "topic a", nobody) is None
    else:
        with pytest.raises(UnreachableError):
            asking.ask("far", "topic a", nobody)
    if asks:
        with pytest.raises(UserError, match="authentication failed"):
            asking.ask("elsewhere", "topic a", refused)


def test_who_did_not_answer_is_not_asked_again_and_each_question_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    asking = preflight(DATAFLOW)
    assert not asking.is_silent("far")
    assert asking.ask("far", "topic events", nobody) is None
    assert asking.is_silent("far")
    assert asking.ask("far", "topic alerts", lambda: pytest.fail("asked again")) is None
    assert asking.ask("near", "topic dead", lambda: 1) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert "topic events" in first
    assert "no broker answers" in first
    assert "topic alerts" in second


def test_a_person_who_waits_is_told_within_seconds() -> None:
    assert preflight(DATAFLOW).timeout_s <= 5 <= preflight().timeout_s <= 10


def test_options_of_another_job_have_no_say() -> None:
    assert Preflight(PipelineOptions([])).ask("near", "topic a", lambda: 3) == 3
