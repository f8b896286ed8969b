"""Builds the image of the Flex Templates, publishes their specs, and launches a job from one.

    python -m templates.publish build --project my-project --repo highbeam --bucket my-bucket
    python -m templates.publish launch --job score --project my-project --bucket my-bucket \\
        --parameters 'use_case=car_sensors input=pubsub://my-project/sensor-data …'
    python -m templates.publish spec --job score --image IMAGE    # what build puts into the bucket

`make template` and `make launch` call it. --dry_run prints the commands instead of running them.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

import beam_jobs
from beam_jobs.errors import UserError, one_line
from beam_jobs.running.dataflow.checks import JOB_NAME, warn_of_name
from beam_jobs.running.dataflow.target import job_name
from beam_jobs.terminal.cli import EXIT_FAILED, EXIT_USAGE, Parser, run, say
from templates.jobs import TEMPLATES, Template
from templates.metadata import metadata

ROOT = Path(__file__).parent.parent
DEFAULT_REGION = "us-central1"

Command = list[str]

# What a variable of the Makefile must look like, and an example.
_FORMS = {
    "project": (r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]", "my-project, a project id"),
    "repo": (r"[a-z][a-z0-9-]{0,62}", "highbeam, an Artifact Registry repository in the region"),
    "bucket": (r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", "my-bucket, without gs://"),
    "region": (r"[a-z]+-[a-z]+[0-9]+", f"{DEFAULT_REGION}"),
    "tag": (r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", "0.2.0"),
    "job": (r"[a-z_]+", "score"),
    "name": (JOB_NAME.pattern, "highbeam-score-1"),
}


def spec(template: Template, image: str) -> dict[str, Any]:
    """The template file: Google's ContainerSpec.

    Written here and not by `gcloud dataflow flex-template build`, which (in 528) drops streaming, the streaming modes
    and has no flag for the workers' image: without it they would start without the jobs' code.
    """
    return {
        "image": image,
        "sdkInfo": {"language": "PYTHON"},
        "metadata": metadata(template),
        "defaultEnvironment": {"sdkContainerImage": image},
    }


def build_commands(args: argparse.Namespace, docker: bool) -> Iterator[Command]:
    """What builds the images and publishes the specs, in order."""
    repository = f"{args.region}-docker.pkg.dev/{args.project.replace(':', '/')}/{args.repo}"
    images = {job: f"{repository}/highbeam-{job}:{args.tag}" for job in TEMPLATES}
    if docker:
        for job, image in images.items():
            yield [
                *("docker", "build", "--platform", "linux/amd64", "--file", "templates/Dockerfile"),
                *("--build-arg", f"JOB={job}", "--tag", image, "."),
            ]
        for image in images.values():
            yield ["docker", "push", image]
    else:
        yield [
            *("gcloud", "builds", "submit", ".", f"--project={args.project}", f"--region={args.region}"),
            f"--gcs-source-staging-dir=gs://{args.bucket}/build",
            "--config=templates/cloudbuild.yaml",
            f"--substitutions=_REPOSITORY={repository},_TAG={args.tag},_JOBS={' '.join(TEMPLATES)}",
        ]
    for job, image in images.items():
        written = f"build/templates/{job}.json"
        yield [
            *(sys.executable if not args.dry_run else "python", "-m", "templates.publish", "spec"),
            *("--job", job, "--image", image, "--output", written),
        ]
        # The version for those who pin one and to go back to; then what `make launch` takes.
        for to in (f"{job}-{args.tag}.json", f"{job}.json"):
            yield [
                "gcloud",
                "storage",
                "cp",
                written,
                f"gs://{args.bucket}/templates/{to}",
                f"--project={args.project}",
            ]


def launch_command(args: argparse.Namespace, parameters: Mapping[str, str]) -> Command:
    """What starts a job from the published template."""
    # gcloud splits at commas, which Kafka's addresses have: another separator, one that no value has.
    pairs = [f"{name}={value}" for name, value in parameters.items()]
    marks = chain(("~", ";", "|", "%"), (f"~{i}~" for i in count()))
    separator = next(mark for mark in marks if mark.join(pairs).split(mark) == (pairs or [""]))
    joined = separator.join(pairs)
    return [
        *("gcloud", "dataflow", "flex-template", "run", args.name or job_name(args.job)),
        f"--project={args.project}",
        f"--region={args.region}",
        f"--template-file-gcs-location=gs://{args.bucket}/templates/{args.job}.json",
        f"--staging-location=gs://{args.bucket}/staging",
        f"--temp-location=gs://{args.bucket}/temp",
        *(["--enable-streaming-engine"] if TEMPLATES[args.job].streaming and "until" not in parameters else []),
        f"--parameters=^{separator}^{joined}",
        *_words("GCLOUD_ARGS", args.gcloud_args),
    ]


def check_parameters(template: Template, given: str) -> dict[str, str]:
    """The launch parameters in "name=value name=value", checked against the template's metadata; an empty one is none.

    Raises:
      UserError: an unknown, malformed or missing one.
    """
    known = {parameter["name"]: parameter for parameter in metadata(template)["parameters"]}
    found: dict[str, str] = {}
    for word in _words("PARAMETERS", given):
        name, separator, value = word.partition("=")
        if not separator:
            raise UserError(f"PARAMETERS: {word!r} is not name=value; quote values with spaces")
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise UserError(f"PARAMETERS: template {template.job} has no parameter {name}; {hint}")
        if value.strip():
            _check_value(known[name], value)
            found[name] = value
    missing = [name for name in template.command.required if name not in found]
    if missing:
        raise UserError(f"PARAMETERS: template {template.job} needs {', '.join(missing)} as well")
    return found


def _words(variable: str, text: str) -> list[str]:
    """The words of a variable, which may be quoted as in a shell, and are not expanded."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"{variable}: {one_line(error)}; quote values with spaces, and close the quotes") from None


def _check_value(parameter: Mapping[str, Any], value: str) -> None:
    name, kind = parameter["name"], parameter["paramType"]
    options = [option["value"] for option in parameter.get("enumOptions", [])]
    if kind == "BOOLEAN":
        options = ["true", "false"]
    if options and value not in options:
        raise UserError(f"PARAMETERS: {name}={value}: expected {' or '.join(options)}")
    for regex in parameter.get("regexes", []):
        if not re.fullmatch(regex, value):
            raise UserError(f"PARAMETERS: {name}={value}: must match {regex}")


def default_tag() -> str:
    """The version and the commit: an image that is never overwritten by another one's."""
    git = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    commit = done.stdout.strip()
    return f"{beam_jobs.__version__}-{commit}" if commit else beam_jobs.__version__


def docker_works() -> bool:
    """Whether there is a Docker that builds."""
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0  # noqa: S607


def _check_forms(args: argparse.Namespace, required: Sequence[str]) -> int:
    """Prints one line for each variable that is missing or malformed; how many."""
    wrong = 0
    for name, (form, example) in _FORMS.items():
        value = getattr(args, name, None)
        if not value and name in required:
            say(f"error: {name.upper()} is missing; for example {name.upper()}={example}")
        elif value and not re.fullmatch(form, value):
            say(f"error: {name.upper()}={value}: expected something like {example}")
        else:
            continue
        wrong += 1
    return wrong


def _execute(commands: Sequence[Command], dry_run: bool) -> int:
    for command in commands:
        line = shlex.join(command)
        if dry_run:
            print(line)
            continue
        say(f"+ {line}")
        if shutil.which(command[0]) is None:
            raise UserError(
                f"{command[0]} is not installed; install the Google Cloud CLI, or see the commands: DRY_RUN=1"
            )
        status = subprocess.run(command, cwd=ROOT, check=False).returncode  # noqa: S603
        if status:
            say(f"error: the command above ended with status {status}; nothing after it was run")
            return EXIT_FAILED
    return 0


def main(argv: Sequence[str]) -> int:
    """Parses the command line and does one of the three."""
    args = _parse(argv)
    if args.command == "spec":
        return _write_spec(args)
    args.bucket = args.bucket.removeprefix("gs://").rstrip("/")
    args.region = args.region or DEFAULT_REGION
    if args.command == "build":
        args.tag = args.tag or default_tag()
        if _check_forms(args, ("project", "repo", "bucket")):
            return EXIT_USAGE
        docker = args.builder == "docker" or (args.builder == "auto" and docker_works())
        return _execute(list(build_commands(args, docker)), args.dry_run)
    if _check_forms(args, ("job", "project", "bucket")):
        return EXIT_USAGE
    if args.job not in TEMPLATES:
        raise UserError(f"JOB={args.job}: there is no such template, only {', '.join(TEMPLATES)}")
    parameters = check_parameters(TEMPLATES[args.job], args.parameters)
    if args.name:
        warn_of_name("NAME", args.name)
    return _execute([launch_command(args, parameters)], args.dry_run)


def _write_spec(args: argparse.Namespace) -> int:
    text = json.dumps(spec(TEMPLATES[args.job], args.image), indent=2, ensure_ascii=False) + "\n"
    if args.output:
        path = ROOT / args.output
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m templates.publish",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build the images, push them, publish the specs")
    launch = commands.add_parser("launch", help="start a job from a published template")
    for command in (build, launch):
        command.add_argument("--project", default="", help="Google Cloud project")
        command.add_argument("--bucket", default="", help="bucket of specs, staging and temporary files")
        command.add_argument("--region", default="", help=f"of Dataflow and the repository (default {DEFAULT_REGION})")
        command.add_argument("--dry_run", action="store_true", help="print the commands, run none")
    build.add_argument("--repo", default="", help="Artifact Registry repository")
    build.add_argument("--tag", default="", help="of the images and specs (default: version and commit)")
    build.add_argument(
        "--builder",
        choices=["auto", "docker", "cloud"],
        default="auto",
        help="docker, or Cloud Build (cloud); auto takes docker where it works",
    )
    launch.add_argument("--job", default="", help=", ".join(TEMPLATES))
    launch.add_argument("--name", default="", help="of the job (default: highbeam, the template and the time)")
    launch.add_argument("--parameters", default="", help="the job's options, as 'name=value name=value'")
    launch.add_argument("--gcloud_args", default="", help="further flags of gcloud dataflow flex-template run")
    spec = commands.add_parser("spec", help="print a template's spec")
    spec.add_argument("--job", required=True, choices=list(TEMPLATES))
    spec.add_argument("--image", required=True, help="with its tag")
    spec.add_argument("--output", default="", metavar="FILE", help="write it there, relative to the checkout")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
