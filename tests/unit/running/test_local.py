"""How many processes a local job is to have."""

from __future__ import annotations

import os

import pytest
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions

from beam_jobs.errors import UserError
from beam_jobs.running.local import Local


def test_threads_that_lose_records_are_refused() -> None:
    with pytest.raises(UserError, match="--direct_num_workers=N"):
        Local(PipelineOptions(["--direct_num_workers=2", "--direct_running_mode=multi_threading"])).check()


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
    parsed = PipelineOptions(flags)
    local = Local(parsed)
    local.check()
    assert local.describe().processes == count
    local.prepare("job", live=False)
    direct = parsed.view_as(DirectOptions)  # for Beam it is one: each process runs a pipeline of its own
    assert (direct.direct_num_workers, direct.direct_running_mode) == (1, "in_memory")


def test_a_number_of_processes_below_zero_is_refused() -> None:
    with pytest.raises(UserError, match="--direct_num_workers=-1"):
        Local(PipelineOptions(["--direct_num_workers=-1"])).check()
