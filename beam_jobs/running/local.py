"""This machine, in this process and others like it: what ``--runner=DirectRunner`` and FnApiRunner stand for here."""

from __future__ import annotations

import os

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
from apache_beam.runners.runner import PipelineResult, PipelineRunner

from beam_jobs.errors import UserError
from beam_jobs.running.fn_api import LocalRunner
from beam_jobs.target import Graph, Traits


class Local:
    """Runs a job on Beam's FnApiRunner, whatever DirectRunner might pick (docs/decisions.md); one a process."""

    def __init__(self, parsed: PipelineOptions) -> None:
        self._direct = parsed.view_as(DirectOptions)
        self._live = False

    def check(self) -> None:
        """Checks how many processes are asked for.

        Raises:
          UserError: threads of Beam's own FnApiRunner: Beam 2.77 then drops the rest of an unbounded source, silently.
        """
        count, mode = self._direct.direct_num_workers, self._direct.direct_running_mode
        if count < 0:
            raise UserError(f"--direct_num_workers={count}: expected a number of processes, or 0 for one a core")
        if mode == "multi_threading":
            raise UserError(
                f"--direct_running_mode={mode}: Beam's FnApiRunner loses records with it; leave it out, "
                "--direct_num_workers=N alone starts N processes that share the input"
            )

    def describe(self) -> Traits:
        return Traits(processes=self._direct.direct_num_workers or os.cpu_count() or 1)

    def prepare(self, name: str, live: bool) -> str | PipelineRunner:
        self._direct.direct_num_workers, self._direct.direct_running_mode = 1, "in_memory"  # each process runs its own
        self._live = live
        return LocalRunner()

    def cannot(self, graph: Graph) -> str:
        return "windows of an input without an end never fire there" if self._live and graph.windows else ""

    def submit(self, pipeline: beam.Pipeline, graph: Graph) -> PipelineResult:
        return pipeline.run()

    def wait(self, result: PipelineResult) -> int:
        result.wait_until_finish()
        return 0
