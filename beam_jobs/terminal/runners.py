"""The runners by name, for everyone who has to know which one a job is for."""

from __future__ import annotations

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from beam_jobs.errors import UserError

IN_PROCESS = ("DirectRunner", "FnApiRunner")  # what both names stand for here: launch.run_job
LOCAL = (*IN_PROCESS, "PrismRunner")


def runner_of(parsed: PipelineOptions) -> str:
    """The name of the runner that is asked for, as Beam writes it; without one it is the local one.

    Beam takes "direct" and "directrunner" for DirectRunner. A dotted name is a class of the user's.

    Raises:
      UserError: Beam has no such runner.
    """
    name = str(parsed.view_as(StandardOptions).runner or IN_PROCESS[0])
    if "." in name:
        return name
    known = {known.lower(): known for known in StandardOptions.KNOWN_RUNNER_NAMES}
    found = known.get(name.lower()) or known.get(f"{name.lower()}runner")
    if found is None:
        raise UserError(
            f"--runner {name}: Beam has no such runner; {', '.join(LOCAL)} run here, DataflowRunner on Google Cloud"
        )
    return found


def on_dataflow(parsed: PipelineOptions) -> bool:
    """Whether the job is for Dataflow."""
    return "dataflow" in runner_of(parsed).lower()
