"""The runners by name."""

from __future__ import annotations

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs.errors import UserError
from beam_jobs.terminal.runners import on_dataflow, runner_of


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ([], "DirectRunner"),
        (["--runner=direct"], "DirectRunner"),
        (["--runner=prismrunner"], "PrismRunner"),
        (["--runner=dataflow"], "DataflowRunner"),
        (["--runner=my.own.Runner"], "my.own.Runner"),
    ],
)
def test_names_as_beam_takes_them(flags: list[str], name: str) -> None:
    options = PipelineOptions(flags)
    assert runner_of(options) == name
    assert on_dataflow(options) == (name == "DataflowRunner")


def test_a_runner_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"^--runner Dirct: Beam has no such runner; DirectRunner, .*"):
        runner_of(PipelineOptions(["--runner=Dirct"]))
