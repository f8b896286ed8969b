"""The runners by name, for everyone who has to know which one a job is for."""

from __future__ import annotations

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

IN_PROCESS = ("DirectRunner", "FnApiRunner")  # what both names stand for here: launch.run_job
LOCAL = (*IN_PROCESS, "PrismRunner")


def runner_of(parsed: PipelineOptions) -> str:
    """The name of the runner that is asked for; without one it is the local one."""
    return str(parsed.view_as(StandardOptions).runner or IN_PROCESS[0])


def on_dataflow(parsed: PipelineOptions) -> bool:
    """Whether the job is for Dataflow."""
    return "dataflow" in runner_of(parsed).lower()
