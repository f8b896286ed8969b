"""Runners in processes of their own, and what is said when one of them is gone."""

from __future__ import annotations

from types import SimpleNamespace

import grpc
import pytest
from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions

from beam_jobs.errors import UserError
from beam_jobs.running.portable import outlast_job_server, runner_errors, without_lost_runners


def test_a_job_outlasts_one_answer_of_its_job_server() -> None:
    options = PipelineOptions([]).view_as(PortableOptions)
    outlast_job_server(options)
    assert options.job_server_timeout > 10**8
    asked = PipelineOptions(["--job_server_timeout=7"]).view_as(PortableOptions)
    outlast_job_server(asked)
    assert asked.job_server_timeout == 7


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
