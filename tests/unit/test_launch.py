"""What a job checks before it runs, and how it sets its process up."""

from __future__ import annotations

import pytest
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, PortableOptions

from beam_jobs.errors import UserError
from beam_jobs.launch import check_one_worker, keep_memory, outlast_job_server


def direct(*flags: str) -> DirectOptions:
    return PipelineOptions(list(flags)).view_as(DirectOptions)


@pytest.mark.parametrize(
    "flags",
    [
        ["--direct_num_workers=2"],
        ["--direct_num_workers=0"],
        ["--direct_running_mode=multi_threading"],
        ["--direct_num_workers=2", "--direct_running_mode=multi_processing"],
    ],
)
def test_several_workers_are_refused(flags: list[str]) -> None:
    with pytest.raises(UserError, match="loses records"):
        check_one_worker(direct(*flags))


@pytest.mark.parametrize("flags", [[], ["--direct_num_workers=1"], ["--direct_running_mode=in_memory"]])
def test_one_worker_is_fine(flags: list[str]) -> None:
    check_one_worker(direct(*flags))


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
