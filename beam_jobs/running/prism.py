"""Prism, Beam's portable runner on one machine: a process beside this one."""

from __future__ import annotations

import shutil

from apache_beam.options.pipeline_options import PortableOptions, PrismRunnerOptions
from apache_beam.runners.runner import PipelineRunner

from beam_jobs.running.portable import Portable
from beam_jobs.target import Traits
from beam_jobs.terminal import options

_DECADE_S = 10 * 365 * 86_400


class Prism(Portable):
    """Runs a job of any graph, with one worker, this process."""

    def describe(self) -> Traits:
        return Traits()

    def prepare(self, name: str, live: bool) -> str | PipelineRunner:
        prism = self._parsed.view_as(PrismRunnerOptions)
        prism.prism_location = prism.prism_location or shutil.which("prism")  # None: Beam downloads it
        outlast_job_server(self._parsed.view_as(PortableOptions))
        if prism.prism_log_level == "info" and not self._parsed.view_as(options.ReportOptions).verbose:
            prism.prism_log_level = "error"  # it tells of itself, and warns of steps that Beam has made
        return super().prepare(name, live)


def outlast_job_server(portable: PortableOptions) -> None:
    """Lets the job run longer than Beam's default for one answer of its job server.

    Beam 2.77 takes ``--job_server_timeout`` (300 s) as the deadline of the streams that tell the job's state as well:
    a job on Prism, live or bounded, would be ended after five minutes.
    """
    if portable.job_server_timeout == PortableOptions().job_server_timeout:
        portable.job_server_timeout = _DECADE_S
