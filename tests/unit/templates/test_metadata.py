"""The metadata of the Flex Templates: what the committed files say, and what the jobs make of a launch."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from beam_jobs.errors import UserError
from beam_jobs.terminal import options
from templates.jobs import TEMPLATES, Template
from templates.metadata import FOLDER, main, metadata, text

# The enum ParameterType of Google's Dataflow API, as far as it is not deprecated.
PARAM_TYPES = {
    *("TEXT", "BOOLEAN", "ENUM", "NUMBER", "BIGQUERY_TABLE", "JAVASCRIPT_UDF_FILE", "SERVICE_ACCOUNT", "MACHINE_TYPE"),
    *("GCS_READ_BUCKET", "GCS_WRITE_BUCKET", "GCS_READ_FILE", "GCS_WRITE_FILE", "GCS_READ_FOLDER", "GCS_WRITE_FOLDER"),
    *("PUBSUB_TOPIC", "PUBSUB_SUBSCRIPTION", "KMS_KEY_NAME", "WORKER_REGION", "WORKER_ZONE"),
    *("KAFKA_READ_TOPIC", "KAFKA_WRITE_TOPIC"),
}
PARAMETER_FIELDS = {
    *("name", "label", "helpText", "regexes", "isOptional", "paramType", "defaultValue", "enumOptions", "groupName"),
    *("parentName", "parentTriggerValues"),
}
# What the service's launcher adds to the parameters of a launch, each as one word.
LAUNCHER = [
    *("--runner=DataflowRunner", "--project=my-project", "--region=europe-west1", "--job_name=score-1"),
    *("--staging_location=gs://b/staging", "--temp_location=gs://b/temp", "--machine_type=n2-standard-2"),
    "--template_location=gs://b/staging/template_launches/2026-11-24_00_00_00-1/job_object",
    *("--service_account_email=worker@my-project.iam.gserviceaccount.com", "--network=default"),
    *("--subnetwork=regions/europe-west1/subnetworks/default", "--no_use_public_ips=true", "--max_num_workers=4"),
    *("--sdk_container_image=example/highbeam-score:1", "--enable_streaming_engine=true", "--num_workers=1"),
    '--labels={"goog-dataflow-provided-template-type":"flex"}',
]
every_template = pytest.mark.parametrize("template", TEMPLATES.values(), ids=list(TEMPLATES))


def parameters(template: Template) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = metadata(template)["parameters"]
    return found


def example(parameter: dict[str, Any]) -> str:
    """A value that the parameter takes."""
    if parameter["paramType"] == "BOOLEAN":
        return "true"
    if "enumOptions" in parameter:
        return str(parameter["enumOptions"][-1]["value"])
    candidates = [
        parameter.get("defaultValue", "x"),
        "7",
        "kafka://h:9092,i:9092/t",
        "gs://bucket/x",
        "https://r/",
        "env:KEY",
    ]
    return next(c for c in candidates if all(re.fullmatch(regex, c) for regex in parameter.get("regexes", [])))


@every_template
def test_committed_files_are_what_the_options_say(template: Template) -> None:
    path = FOLDER / f"{template.job}.json"
    assert path.read_text(encoding="utf-8") == text(template), "run python -m templates.metadata and commit the result"


def test_check_finds_what_is_out_of_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("templates.metadata.FOLDER", tmp_path)
    with pytest.raises(UserError, match=r"templates/score\.json is out of date"):
        main(["--check"])
    assert list(tmp_path.iterdir()) == []
    main([])
    assert main(["--check"]) == 0
    assert {path.stem for path in tmp_path.iterdir()} == set(TEMPLATES)


@every_template
def test_metadata_has_googles_form(template: Template) -> None:
    found = metadata(template)
    assert {"name", "description", "streaming", "supportsAtLeastOnce", "supportsExactlyOnce", "parameters"} <= set(
        found
    )
    assert found.get("defaultStreamingMode", "EXACTLY_ONCE") in ("EXACTLY_ONCE", "AT_LEAST_ONCE")
    names = [parameter["name"] for parameter in found["parameters"]]
    assert len(names) == len(set(names))
    for parameter in found["parameters"]:
        assert set(parameter) <= PARAMETER_FIELDS
        assert parameter["paramType"] in PARAM_TYPES
        assert parameter["label"].strip()
        assert len(parameter["helpText"]) > 10
        assert isinstance(parameter["isOptional"], bool)
        assert isinstance(parameter.get("defaultValue", ""), str)
        assert parameter.get("parentName", names[0]) in names
        for regex in parameter.get("regexes", []):
            re.compile(regex)
            assert re.fullmatch(regex, example(parameter))
            assert not re.search(r"\(\?[=!<]", regex), "the service's RE2 knows no look-around"


@every_template
def test_special_metadata_is_of_parameters_the_job_has(template: Template) -> None:
    assert set(template.special) <= {parameter["name"] for parameter in parameters(template)}


@every_template
def test_required_parameters_are_those_the_job_asks_for(template: Template) -> None:
    main_of_job = importlib.import_module(f"beam_jobs.{template.job}").main
    with pytest.raises(UserError, match="missing") as error:
        main_of_job([])
    assert set(re.findall(r"--(\w+)", str(error.value))) - {"help"} == set(template.command.required)


@every_template
def test_every_parameter_reaches_the_job_as_the_launcher_passes_it(template: Template) -> None:
    values = {parameter["name"]: example(parameter) for parameter in parameters(template)}
    argv = [*LAUNCHER, *(f"--{name}={value}" for name, value in values.items())]
    parsed = options.parse(template.command.parser(), argv).get_all_options()
    for name, value in values.items():
        got = parsed["start_from" if name == "from" else name]
        assert (
            str(got).lower() if isinstance(got, bool) else f"{got:g}" if isinstance(got, float) else str(got)
        ) == value
    assert parsed["use_public_ips"] is False
    assert parsed["enable_streaming_engine"] is True


@every_template
def test_the_defaults_change_nothing(template: Template) -> None:
    defaults = {p["name"]: p["defaultValue"] for p in parameters(template) if "defaultValue" in p}
    assert defaults
    given = options.parse(template.command.parser(), [f"--{n}={v}" for n, v in defaults.items()])
    left_out = options.parse(template.command.parser(), [])
    assert given.get_all_options() == left_out.get_all_options()


@every_template
def test_addresses_with_credentials_are_refused_by_the_form(template: Template) -> None:
    for parameter in parameters(template):
        for regex in parameter.get("regexes", []):
            for secret in ("kafka://user:pass@host:9092/t", "https://user:pass@registry"):
                assert not re.fullmatch(regex, secret), parameter["name"]


@every_template
def test_what_may_need_a_secret_says_how(template: Template) -> None:
    helps = {parameter["name"]: parameter["helpText"] for parameter in parameters(template)}
    assert "never a secret itself" in helps["kafka_config"]
    assert "never a secret itself" in metadata(template)["description"]
    references = {p["name"] for p in parameters(template) if p.get("regexes") == [r"^(env:|file:|secret://)\S+$"]}
    assert not [name for name in helps.keys() - references if re.search("password|secret|token|key$", name)]


@every_template
def test_launchers_are_three_lines(template: Template) -> None:
    lines = (FOLDER / f"{template.job}.py").read_text(encoding="utf-8").splitlines()
    assert lines[-1] == f"cli.run({template.job}.main)"
    assert len([line for line in lines if line]) <= 3


def test_the_files_are_json_without_escapes() -> None:
    for job in TEMPLATES:
        content = (FOLDER / f"{job}.json").read_text(encoding="utf-8")
        assert json.loads(content)
        assert "\\u" not in content
