"""What a job checks before it runs, and how it sets its process up."""

from __future__ import annotations

import os
from types import SimpleNamespace

import grpc
import pytest
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, PortableOptions

from beam_jobs.errors import UserError
from beam_jobs.running.launch import keep_memory, outlast_job_server, runner_errors, without_lost_runners, worker_count


def direct(*flags: str) -> DirectOptions:
    return PipelineOptions(list(flags)).view_as(DirectOptions)


def test_threads_that_lose_records_are_refused() -> None:
    with pytest.raises(UserError, match="--direct_num_workers=N"):
        worker_count(direct("--direct_num_workers=2", "--direct_running_mode=multi_threading"))


@pytest.mark.parametrize(
    ("flags", "count"),
    [
        ([], 1),
        (["--direct_num_workers=3"], 3),
        (["--direct_num_workers=2", "--direct_running_mode=multi_processing"], 2),
        (["--direct_num_workers=0"], os.cpu_count()),
    ],
)
def test_as_many_processes_as_asked_for(flags: list[str], count: int) -> None:
    assert worker_count(direct(*flags)) == count


def test_a_number_of_processes_below_zero_is_refused() -> None:
    with pytest.raises(UserError, match="--direct_num_workers=-1"):
        worker_count(direct("--direct_num_workers=-1"))


def test_a_job_on_prism_outlasts_one_answer_of_its_job_server() -> None:
    options = PipelineOptions([]).view_as(PortableOptions)
    outlast_job_server(options)
    assert options.job_server_timeout > 10**8
    asked = PipelineOptions(["--job_server_timeout=7"]).view_as(PortableOptions)
    outlast_job_server(asked)
    assert asked.job_server_timeout == 7


def test_the_allocator_can_be_told_twice() -> None:
    keep_memory()
    keep_memory()


def test_a_runner_that_is_gone_is_one_line() -> None:
    with grpc.insecure_channel("127.0.0.1:9") as channel, pytest.raises(UserError) as raised, runner_errors("Prism"):
        channel.unary_unary("/job/GetState")(b"", timeout=5)
    assert str(raised.value).startswith("--runner Prism: the runner's process does not answer any more (UNAVAILABLE); ")
    assert "\n" not in str(raised.value)


def test_threads_that_lose_their_runner_end_without_a_trace() -> None:
    seen: list[str] = []
    for error in (grpc.RpcError("gone"), ValueError("a bug")):
        without_lost_runners(lambda raised: seen.append(str(raised.exc_value)), SimpleNamespace(exc_value=error))
    assert seen == ["a bug"]
