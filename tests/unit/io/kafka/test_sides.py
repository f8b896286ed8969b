"""Which client settings each side of a job has."""

from __future__ import annotations

from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs.errors import UserError
from beam_jobs.io.kafka.bus import BUS
from beam_jobs.io.kafka.config import KafkaConfig, client_config
from beam_jobs.io.kafka.transforms import KafkaOutput
from beam_jobs.preflight.addresses import check_clients
from beam_jobs.terminal import options
from beam_jobs.terminal.commands import JOBS


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """A properties file for each option, with its name as the client's."""
    made = {}
    for name in ("kafka_config", "input_kafka_config", "output_kafka_config"):
        path = tmp_path / f"{name}.properties"
        path.write_text(f"client.id={name}\nschema.registry.url=http://{name}\n", encoding="utf-8")
        made[name] = str(path)
    return made


def parsed(**given: str) -> PipelineOptions:
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    return options.parse(JOBS["redrive"].parser(), words)


def ids(given: PipelineOptions) -> tuple[str, str]:
    values = given.get_all_options()
    return client_config(values, "input").get("client.id"), client_config(values, "output").get("client.id")


def test_one_file_is_for_both_sides_where_one_has_none_of_its_own(files: dict[str, str]) -> None:
    assert ids(parsed()) == ("", "")
    common, read, write = (dict([pair]) for pair in files.items())
    assert ids(parsed(**common)) == ("kafka_config", "kafka_config")
    assert ids(parsed(**common, **read)) == ("input_kafka_config", "kafka_config")
    assert ids(parsed(**common, **write)) == ("kafka_config", "output_kafka_config")
    assert ids(parsed(**read)) == ("input_kafka_config", "")
    assert ids(parsed(**files)) == ("input_kafka_config", "output_kafka_config")


def test_a_sink_has_those_of_the_output(files: dict[str, str]) -> None:
    sink = BUS.sink("kafka://b:9092/alerts", parsed(**files).get_all_options())
    assert isinstance(sink, KafkaOutput)
    assert sink.config == KafkaConfig.from_file(files["output_kafka_config"])


@pytest.mark.parametrize(
    ("given", "url"),
    [
        (["kafka_config", "input_kafka_config", "output_kafka_config"], "http://kafka_config"),
        (["input_kafka_config", "output_kafka_config"], "http://input_kafka_config"),
        (["output_kafka_config"], "http://output_kafka_config"),
    ],
)
def test_the_registrys_settings_are_found_in_any_of_them(files: dict[str, str], given: list[str], url: str) -> None:
    assert check_clients(parsed(**{name: files[name] for name in given}))["schema.registry.url"] == url


@pytest.mark.parametrize("flag", ["kafka_config", "input_kafka_config", "output_kafka_config"])
def test_errors_name_the_option(flag: str, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.properties")
    with pytest.raises(UserError, match=rf"missing.properties: cannot be read .*check --{flag}$"):
        check_clients(parsed(**{flag: missing}))


def test_workers_of_dataflow_can_follow_neither_sides_secrets(tmp_path: Path) -> None:
    path = tmp_path / "client.properties"
    path.write_text("sasl.password=env:PASSWORD\n", encoding="utf-8")
    for flag in ("kafka_config", "input_kafka_config", "output_kafka_config"):
        given = options.parse(JOBS["score"].parser(), ["--runner=DataflowRunner", f"--{flag}={path}"])
        with pytest.raises(UserError, match=f"^--{flag}: sasl.password needs the environment variable PASSWORD"):
            check_clients(given)
