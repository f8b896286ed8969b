"""What a job needs on Dataflow, checked before anything is staged: a project, a bucket, credentials, names."""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    WorkerOptions,
)

from beam_jobs.credentials.google_credentials import application_default
from beam_jobs.errors import UserError, one_line
from beam_jobs.preflight.workers import warn_if_cleaned
from beam_jobs.storage import files
from beam_jobs.target import runner_of
from beam_jobs.terminal import options
from beam_jobs.terminal.cli import say

# How jobs are called, but for those of Terraform, which have its variable "name" instead: alert policies watch both.
NAME_PREFIX = "highbeam-"
AT_LEAST_ONCE = "streaming_mode_at_least_once"

_PROJECT = re.compile(r"([a-z0-9.-]+\.[a-z]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]")
_FOLDER = re.compile(r"gs://[a-z0-9][a-z0-9._-]+(/\S*)?")
_REGION = re.compile(r"[a-z]+-[a-z]+[0-9]+")
JOB_NAME = re.compile(r"[a-z]([a-z0-9-]{0,1022}[a-z0-9])?")
_BEAMS_IMAGE = re.compile(r"((docker\.io/)?apache|gcr\.io/cloud-dataflow/v1beta3)/beam_python")
_CONTINENTS = {"us": "US", "europe": "EU", "asia": "ASIA"}  # a region's first word -> the multi-region of buckets
_API_TIMEOUT_S = 10.0
_MAX_LABELS = 64
_OF_LABEL = "63 lower-case letters, digits, _ and -"


def check_target(parsed: PipelineOptions) -> None:
    """Checks where the job is to run, within seconds, before the job itself is looked at.

    Raises:
      UserError: the first thing that is missing or wrong, with its remedy.
    """
    cloud = parsed.view_as(GoogleCloudOptions)
    # What workers need when they start lies apart from what a rule of the bucket may clean.
    cloud.temp_location = cloud.temp_location or _beside(cloud.staging_location, "temp")
    cloud.staging_location = cloud.staging_location or _beside(cloud.temp_location, "staging")
    missing = [f"--{name}" for name in ("project", "region", "temp_location") if not getattr(cloud, name)]
    if missing:
        raise UserError(
            f"--runner={runner_of(parsed)} needs {', '.join(missing)} as well, as in --project=my-project "
            "--region=europe-west1 --temp_location=gs://my-bucket/temp"
        )
    _check_forms(cloud)
    check_labels(cloud.labels or [])
    _check_packaging(parsed)
    reporting = parsed.view_as(options.ReportOptions)
    if reporting.report or reporting.progress not in ("auto", "none"):
        raise UserError("--report and --progress tell of a local run; on Dataflow the counters are in its console")
    if cloud.job_name and not cloud.template_location:  # the launcher of a template does not choose it
        warn_of_name("--job_name", cloud.job_name)
    if not cloud.no_auth:
        application_default(f"--runner={runner_of(parsed)}")
    places = (cloud.staging_location, cloud.temp_location)
    for path in dict.fromkeys(places):
        files.check_access(path.rstrip("/"))
    for path in {path.split("/")[2]: path for path in places}.values():
        _check_region(path, cloud.region)
    warn_if_cleaned(parsed, "--staging_location", cloud.staging_location)
    if not cloud.template_location:  # there the service makes the job, and the launcher's account can't list any
        _check_jobs(parsed)


def warn_of_name(flag: str, name: str) -> None:
    """Says that nobody is told when a job of this name fails."""
    if not name.startswith(NAME_PREFIX):
        say(
            f"warning: {flag} {name}: the alert policies of templates/terraform watch names that begin with "
            f"{NAME_PREFIX} or with its variable name; they do not see another one"
        )


def asked_at_least_once(parsed: PipelineOptions) -> str:
    """The option that asks for the service's at-least-once mode, "" where none does."""
    asked = [
        *(parsed.view_as(GoogleCloudOptions).dataflow_service_options or []),
        *(parsed.view_as(DebugOptions).experiments or []),
    ]
    return AT_LEAST_ONCE if AT_LEAST_ONCE in asked else ""


def check_labels(given: Sequence[str]) -> None:
    """Checks the labels of a job by the service's rules, which it would else apply once all is staged.

    Args:
      given: each KEY=VALUE, or an object like {"key": "value"}.

    Raises:
      UserError: the first one that is against them.
    """
    found: dict[Any, Any] = {}
    for text in given:
        try:
            found |= dict(ast.literal_eval(text).items() if "{" in text else [text.partition("=")[::2]])  # as Beam does
        except (AttributeError, SyntaxError, ValueError):
            raise UserError(f"--labels {text}: expected KEY=VALUE, or " + '{"key": "value"}') from None
    for key, value in found.items():
        if not (_fits_label(key) and key[0].isalpha()):
            raise UserError(f"--labels {key}={value}: {key!r} is no key: 1 to {_OF_LABEL}, a letter first")
        if value != "" and not _fits_label(value):
            raise UserError(f"--labels {key}={value}: {value!r} is no value: at most {_OF_LABEL}")
    if len(found) > _MAX_LABELS:
        raise UserError(f"--labels: {len(found)} of them, a job has {_MAX_LABELS} at most; leave some out")


def _fits_label(part: Any) -> bool:
    # Letters of any script, but of those that have a lower case only that.
    kinds = ("Ll", "Lo", "Nd", "Nl", "No")
    is_short = isinstance(part, str) and 0 < len(part) <= 63 and len(part.encode()) <= 128
    return is_short and all(char in "_-" or unicodedata.category(char) in kinds for char in part)


def _check_forms(cloud: GoogleCloudOptions) -> None:
    forms = (
        ("project", _PROJECT, "a project id like my-project"),
        ("region", _REGION, "a region like europe-west1, no zone"),
        ("temp_location", _FOLDER, "gs://my-bucket/temp"),
        ("staging_location", _FOLDER, "gs://my-bucket/staging"),
        ("job_name", JOB_NAME, "lower-case letters, digits and hyphens, a letter first, no hyphen last"),
    )
    for name, form, example in forms:
        value = getattr(cloud, name)
        if value and not form.fullmatch(value):
            raise UserError(f"--{name} {value}: expected {example}")
    for name in ("temp_location", "staging_location"):
        value = getattr(cloud, name)
        if value and value.count("/") == 2:
            setattr(cloud, name, f"{value}/highbeam")  # Beam takes no bucket without a folder
    if cloud.update and not cloud.job_name:
        raise UserError("--update needs --job_name, the name of the job that is to be updated")


def _check_packaging(parsed: PipelineOptions) -> None:
    setup, image = parsed.view_as(SetupOptions), parsed.view_as(WorkerOptions).sdk_container_image
    if setup.setup_file and not files.list_files(files.root_of(setup.setup_file)):
        raise UserError(f"--setup_file {setup.setup_file}: there is no such file; leave it out to stage this Highbeam")
    more = [("extra_package", path) for path in setup.extra_packages or []]
    for flag, path in [*more, ("requirements_file", setup.requirements_file)]:
        if path and not files.list_files(files.root_of(path)):
            raise UserError(f"--{flag} {path}: there is no such file; mend it, or leave it out")
    if image and _BEAMS_IMAGE.match(image) and not setup.setup_file:
        raise UserError(
            f"--sdk_container_image {image} is Beam's own image, which has no Highbeam; leave it out, or name one that "
            "is made by templates/Dockerfile"
        )


def _beside(location: str | None, folder: str) -> str | None:
    """A folder of the same bucket."""
    bucket = re.match(r"gs://[^/]+", location or "")
    return f"{bucket[0]}/{folder}" if bucket else None


def _check_region(path: str, region: str) -> None:
    """Says where a bucket is, if that is not where the job runs: it works, but bytes between regions cost."""
    from beam_jobs.storage.gcs import bucket_info  # Google's libraries take seconds to import

    info = bucket_info(path)
    where = info.location if info else None
    near = {region.upper(), _CONTINENTS.get(region.partition("-")[0], "")}
    if where and where not in near and ("-" in where or where in _CONTINENTS.values()):
        say(f"warning: {path} is in {where.lower()}, the job in {region}: traffic between regions costs")


def _check_jobs(parsed: PipelineOptions) -> None:
    """Asks the service which jobs run: whether it lets us in, and whether the name of this one is free (or there)."""
    from apache_beam.runners.dataflow.internal.apiclient import DataflowApplicationClient
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError
    from google.cloud import dataflow

    cloud = parsed.view_as(GoogleCloudOptions)
    request = dataflow.ListJobsRequest(
        project_id=cloud.project, location=cloud.region, filter=dataflow.ListJobsRequest.Filter.ACTIVE
    )
    try:
        jobs = DataflowApplicationClient(parsed)._jobs_client.list_jobs(request, timeout=_API_TIMEOUT_S, retry=None)
        running = [job.id for job in jobs if job.name == cloud.job_name]
    except (GoogleAPICallError, GoogleAuthError, OSError) as error:
        text = one_line(getattr(error, "message", None) or error, 300)
        raise UserError(
            f"Dataflow in {cloud.project}, {cloud.region}: {text}; enable dataflow.googleapis.com there, give this "
            "account roles/dataflow.developer, or mend --project and --region"
        ) from error
    if cloud.update and not running:
        # Beam itself would look for it forever.
        raise UserError(
            f"--update: no job {cloud.job_name} runs in {cloud.region}; leave out --update, or mend --job_name"
        )
    if running and not cloud.update:
        raise UserError(
            f"--job_name {cloud.job_name}: job {running[0]} of that name runs already; --update replaces it, or choose "
            "another name"
        )
