"""What workers on other machines see: files, settings, what a rule of a bucket deletes."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest
from google.cloud import storage

from beam_jobs.errors import UserError
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.preflight.addresses import check_clients
from beam_jobs.preflight.workers import check_path, check_settings, refuse_at_least_once, warn_if_cleaned
from beam_jobs.storage import files
from beam_jobs.terminal import options
from beam_jobs.terminal.commands import JOBS

DOCUMENTED_RULES = [{"action": {"type": "Delete"}, "condition": {"age": 7, "matchesPrefix": ["temp/", "build/"]}}]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("sasl.password=env:KAFKA_PASSWORD", "sasl.password needs the environment variable KAFKA_PASSWORD"),
        ("sasl.password=file:/etc/kafka/password", "sasl.password needs the file /etc/kafka/password"),
        ("sasl.password=hunter2", "client.properties, where it is written out, on every worker"),
        ("ssl.ca.location=/home/me/ca.pem", "ssl.ca.location needs the file /home/me/ca.pem"),
        ("schema.registry.basic.auth.user.info=me:env:PASS", "user.info needs the environment variable PASS"),
        ("ssl.ca.location=/etc/ssl/certs/ca-certificates.crt", None),
        ("sasl.password=secret://projects/p/secrets/s/versions/1", None),
    ],
)
def test_settings_that_workers_cannot_follow(tmp_path: Path, text: str, what: str | None) -> None:
    file = tmp_path / "client.properties"
    file.write_text(text)
    config = KafkaConfig.from_file(file)
    parsed = options.PipelineOptions(["--runner=DataflowRunner"])
    if what is None:
        check_settings(parsed, config)
    else:
        with pytest.raises(UserError) as error:
            check_settings(parsed, config)
        assert what in str(error.value)
        assert "hunter2" not in str(error.value)
    check_settings(options.PipelineOptions(["--runner=DataflowRunner", "--sdk_container_image=own/image:1"]), config)
    check_settings(options.PipelineOptions([]), config)


def test_settings_in_a_bucket_are_read_there_by_workers(bucket: str, tmp_path: Path) -> None:
    files.write_bytes(f"{bucket}/client.properties", b"sasl.password=hunter2\nclient.id=me\n")
    config = KafkaConfig.from_file(f"{bucket}/client.properties")
    assert "hunter2" not in repr(config)
    assert config.resolved() == {"client.id": "me", "sasl.password": "hunter2"}
    check_settings(options.PipelineOptions(["--runner=DataflowRunner"]), config)


def test_what_a_live_job_reads_later_and_a_rule_deletes_is_said(
    bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model, a lookup table, an archive's log, a properties file with a secret in it."""
    parsed = options.parse(JOBS["score"].parser(), ["--runner=DataflowRunner"])
    files.write_bytes(f"{bucket}/temp/client.properties", b"sasl.password=hunter2\n")
    files.write_bytes(f"{bucket}/temp/plain.properties", b"client.id=me\n")
    with mock.patch.object(storage.Bucket, "lifecycle_rules", DOCUMENTED_RULES):
        warn_if_cleaned(parsed, "--model", f"{bucket}/temp/models/v1")
        warn_if_cleaned(parsed, "--model", f"{bucket}/models/v1")
        for name in ("client", "plain"):
            parsed.view_as(options.ConnectionOptions).kafka_config = f"{bucket}/temp/{name}.properties"
            check_clients(parsed)
    said = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in said] == ["--model", "--kafka_config"]
    assert "hunter2" not in "".join(said)


@pytest.mark.parametrize("runner", ["DirectRunner", "PrismRunner"])
def test_a_job_that_runs_here_sees_all_of_this_machine(runner: str, capsys: pytest.CaptureFixture[str]) -> None:
    parsed = options.PipelineOptions([f"--runner={runner}", "--experiments=streaming_mode_at_least_once"])
    check_path(parsed, "--model", "models")
    warn_if_cleaned(parsed, "--model", "gs://bucket/temp/models")
    refuse_at_least_once(parsed, "archive", "each record is to be in one row")
    assert capsys.readouterr().err == ""
