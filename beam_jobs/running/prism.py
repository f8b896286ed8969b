"""Prism, Beam's portable runner on one machine: a process beside this one."""

from __future__ import annotations

import shutil

from apache_beam.options.pipeline_options import PrismRunnerOptions
from apache_beam.runners.runner import PipelineRunner

from beam_jobs.running.portable import Portable
from beam_jobs.target import Traits
from beam_jobs.terminal import options


class Prism(Portable):
    """Runs a job of any graph, with one worker, this process."""

    def describe(self) -> Traits:
        return Traits()

    def prepare(self, name: str, live: bool) -> str | PipelineRunner:
        prism = self._parsed.view_as(PrismRunnerOptions)
        prism.prism_location = prism.prism_location or shutil.which("prism")  # None: Beam downloads it
        if prism.prism_log_level == "info" and not self._parsed.view_as(options.ReportOptions).verbose:
            prism.prism_log_level = "error"  # it tells of itself, and warns of steps that Beam has made
        return super().prepare(name, live)
