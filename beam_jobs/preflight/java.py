"""Where ``--kafka_io java`` can work."""

from __future__ import annotations

import shutil

from apache_beam.options.pipeline_options import CrossLanguageOptions, PipelineOptions

from beam_jobs.errors import UserError
from beam_jobs.target import runner_of, target_of
from beam_jobs.terminal import options


def check_java(parsed: PipelineOptions, name: str) -> None:
    """Checks that Beam's Java reader, if it is asked for, can be put into this job, and run there.

    Raises:
      UserError: what stands against it, with the remedy.
    """
    given = parsed.view_as(options.InputOptions)
    if given.kafka_io != "java":
        return
    if not given.input.lower().startswith("kafka://"):
        raise UserError(f"--kafka_io java reads Kafka, and --input is {given.input}; leave it out")
    job = name.partition("/")[0]
    if job != "score":
        # archive counts each row once by bundles it sizes itself; redrive ends where the topic ends.
        raise UserError(f"--kafka_io java cannot be used for {job}, only for score; leave it out")
    if given.until is not None:
        raise UserError("--kafka_io java reads without an end; leave out --until, or --kafka_io")
    if given.fetch != "auto":
        raise UserError(f"--fetch {given.fetch} is of the native source; leave it or --kafka_io java out")
    if not target_of(parsed).describe().java:
        raise UserError(
            f"--kafka_io java needs a runner that runs Java workers, which {runner_of(parsed)} is not; leave it out"
        )
    if shutil.which("java") is None and not parsed.view_as(CrossLanguageOptions).beam_services:
        raise UserError(
            "--kafka_io java needs Java here as well, to describe the reader; install a Java runtime (11 or newer), "
            "name an expansion service in --beam_services, or leave it out"
        )
