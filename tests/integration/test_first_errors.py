"""The errors a user meets first: each one clear line, status 2, no stack trace."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

import use_cases
from beam_jobs import score
from beam_jobs.sandbox.process import free_port
from beam_jobs.terminal import cli
from model import registry
from tests.services.kafka import SharedBroker

pytestmark = pytest.mark.integration

Fails = Callable[..., str]


@pytest.fixture(scope="module")
def arguments(apache_kafka: SharedBroker, trained_model: Path) -> dict[str, str]:
    """A command line with nothing wrong in it."""
    run = uuid.uuid4().hex[:8]
    admin = AdminClient({"bootstrap.servers": apache_kafka.bootstrap_servers})
    names = {name: f"{name}-{run}" for name in ("events", "alerts", "dead")}
    for done in admin.create_topics([NewTopic(name, 1, 1) for name in names.values()]).values():
        done.result(30)
    uris = {name: f"kafka://{apache_kafka.bootstrap_servers}/{topic}" for name, topic in names.items()}
    return {
        "--use_case": "car_sensors",
        "--model": str(trained_model),
        "--input": uris["events"],
        "--until": "latest",
        "--alerts": uris["alerts"],
        "--dead_letters": uris["dead"],
    }


@pytest.fixture
def fails(arguments: dict[str, str], capsys: pytest.CaptureFixture[str]) -> Fails:
    """Runs the job with some arguments changed; returns its one error line."""

    def run(**changes: str) -> str:
        given = arguments | {f"--{name}": value for name, value in changes.items()}
        with pytest.raises(SystemExit) as end:
            cli.run(score.main, [word for pair in given.items() for word in pair])
        printed = capsys.readouterr().err
        assert end.value.code == 2, printed
        assert "Traceback" not in printed
        lines = [line for line in printed.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        return lines[0]

    return run


def test_broker_down(fails: Fails) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    assert nobody in fails(input=f"kafka://{nobody}/events")


def test_topic_missing(fails: Fails, arguments: dict[str, str]) -> None:
    servers = arguments["--input"].rsplit("/", 1)[0]
    assert "no-such-topic" in fails(input=f"{servers}/no-such-topic")
    line = fails(alerts=f"{servers}/no-such-alerts")
    assert "no-such-alerts" in line
    assert "--create_topics" in line


def test_an_address_that_is_none(fails: Fails) -> None:
    assert "kafka://" in fails(input="localhost:9092")


def test_output_is_the_input(fails: Fails, arguments: dict[str, str]) -> None:
    assert "feed itself" in fails(alerts=arguments["--input"])


def test_registry_down(fails: Fails) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert url in fails(schema_registry=url)


def test_model_missing(fails: Fails, trained_model: Path) -> None:
    assert "no such folder" in fails(model="no/such/models")

    assert "champion" in fails(model=f"{trained_model}@challenger")


@pytest.mark.parametrize("option", [{"from": "5:0"}, {"until": "0:1,5:0"}])
def test_a_partition_that_is_not_there(fails: Fails, option: dict[str, str]) -> None:
    assert "the topic has no partition 5 (it has 1)" in fails(**option)


def test_model_changed(fails: Fails, trained_model: Path, tmp_path: Path) -> None:
    version = registry.resolve(str(trained_model), "car_sensors").path
    broken = tmp_path / version.name  # a version has the name of its folder
    shutil.copytree(version, broken)
    manifest = json.loads((broken / "manifest.json").read_text())
    manifest["preprocessing_fingerprint"] = "0" * 64
    (broken / "manifest.json").write_text(json.dumps(manifest))
    line = fails(model=str(broken))
    assert "trained on preprocessing 000000000000" in line
    assert "highbeam train" in line


def test_sql_with_a_typo(fails: Fails, tmp_path: Path) -> None:
    folder = tmp_path / "cars"
    shutil.copytree(Path(use_cases.__file__).parent / "car_sensors", folder)
    sql = folder / "preprocess.sql"
    sql.write_text(sql.read_text().replace("coolant_temp,", "coolant_tmp,"))
    line = fails(use_case=str(folder))
    assert "coolant_tmp" in line
    assert "coolant_temp" in line  # what was meant


def test_unknown_use_case(fails: Fails) -> None:
    assert "car_sensors" in fails(use_case="bicycles")


def test_a_position_that_is_none(fails: Fails) -> None:
    assert "tomorrow" in fails(until="tomorrow")


def test_report_cannot_be_written(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = fails(report=str(tmp_path / "file" / "report.json"))
    assert "--report" in line
    assert "may write to" in line


def test_bad_client_properties(fails: Fails, tmp_path: Path) -> None:
    config = tmp_path / "client.properties"
    config.write_text("sasl.mechanismus=PLAIN\n")
    assert "sasl.mechanismus" in fails(kafka_config=str(config))
    assert "missing.properties" in fails(kafka_config=str(tmp_path / "missing.properties"))
