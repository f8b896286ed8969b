"""Publishing to a registry: new, unchanged, refused; nothing is written where anything is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import schemas
from beam_jobs.errors import UserError
from schemas import publish as publish_module
from schemas.publish import main, publications
from schemas.registry.server import RegistryServer
from schemas.writers import for_registry

ALERTS = ["--subject", "alert=alerts-value"]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path / "registry") as server:
        yield server


def states(out: str) -> dict[str, str]:
    """State by subject, of what was printed."""
    return {line.split()[1]: line.split()[2] for line in out.splitlines() if "-value" in line}


USUAL = ["alerts-value", "dead-letters-value", "scores-value", "sensor-data-value"]


def test_a_dry_run_writes_nothing(registry: RegistryServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--registry", registry.url, "--compatibility", "full", "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert states(out) == dict.fromkeys(USUAL, "new")
    assert "nothing was written" in out
    assert registry.store.subjects() == []
    assert registry.store.level("alerts-value") is None


def test_published_and_found_by_jobs(registry: RegistryServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--registry", registry.url]) == 0
    assert states(capsys.readouterr().out) == dict.fromkeys(USUAL, "new")
    source = for_registry(registry.url, {})
    for name, subject in publish_module.SUBJECTS.items():
        schema_id = source.register(subject, schemas.load(name))  # as a job does at its start
        assert source.writer_schema(schema_id) == schemas.load(name)
        assert [version.version for version in registry.store.versions(subject)] == [1]
    assert registry.store.level("alerts-value") is None
    assert main(["--registry", registry.url]) == 0
    assert states(capsys.readouterr().out) == dict.fromkeys(USUAL, "unchanged")


def test_the_level_is_set(registry: RegistryServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--registry", registry.url]) == 0
    assert main(["--registry", registry.url, "--compatibility", "FULL_TRANSITIVE"]) == 0
    assert states(capsys.readouterr().out)["scores-value"] == "unchanged"
    assert {registry.store.level(subject) for subject in USUAL} == {"FULL_TRANSITIVE"}


def earlier_alert(**speed: Any) -> dict[str, Any]:
    """An alert as it might have been, with one field more."""
    alert = schemas.load("alert")
    alert["fields"].append({"name": "speed", "type": "double", **speed})
    return alert


def test_one_refusal_and_nothing_is_written(registry: RegistryServer, capsys: pytest.CaptureFixture[str]) -> None:
    other = {"type": "record", "name": "Alert", "namespace": "highbeam", "fields": [{"name": "id", "type": "int"}]}
    for_registry(registry.url, {}).register("alerts-value", other)
    for more in (["--dry_run"], []):
        with pytest.raises(UserError, match=r"1 of 4 refused \(alerts-value\), nothing was written"):
            main(["--registry", registry.url, *more])
        out = capsys.readouterr().out
        assert states(out) == {**dict.fromkeys(USUAL, "new"), "alerts-value": "refused"}
        assert "field 'id' is string where the earlier schema has int: keep int" in out
    assert registry.store.subjects() == ["alerts-value"]


def test_a_level_the_subject_has_not_yet(registry: RegistryServer, capsys: pytest.CaptureFixture[str]) -> None:
    """BACKWARD takes the alert of today after one with a field more; FULL does not, and NONE takes anything."""
    for_registry(registry.url, {}).register("alerts-value", earlier_alert())
    with pytest.raises(UserError, match="refused"):
        main(["--registry", registry.url, "--compatibility", "FULL"])
    assert "field 'speed' was removed, and the earlier schema has no default for it" in capsys.readouterr().out
    assert registry.store.level("alerts-value") is None
    assert main(["--registry", registry.url]) == 0
    assert states(capsys.readouterr().out)["alerts-value"] == "new"
    broken = {"type": "record", "name": "Other", "fields": []}
    for_registry(registry.url, {}).register("more-value", broken)
    with pytest.raises(UserError, match="more-value"):
        main(["--registry", registry.url, "--subject", "alert=more-value"])
    assert main(["--registry", registry.url, "--subject", "alert=more-value", "--compatibility", "NONE"]) == 0
    assert len(registry.store.versions("more-value")) == 2


def test_an_earlier_version_again(registry: RegistryServer, capsys: pytest.CaptureFixture[str]) -> None:
    source = for_registry(registry.url, {})
    source.register("alerts-value", schemas.load("alert"))
    source.register("alerts-value", earlier_alert(default=0))
    assert main(["--registry", registry.url]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "alerts-value" in line]
    assert line.endswith("unchanged  version 1, id 1, not the newest, which is 2")


def test_the_registry_changes_its_mind(
    registry: RegistryServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else registers between our question and our schema: what is done is told, the rest is refused."""
    judge, asked = publish_module.judge, []

    def judge_then_lose(client: Any, item: Any, level: str | None) -> Any:
        verdict = judge(client, item, level)
        asked.append(item)
        if len(asked) == 4:
            other = {"type": "record", "name": "Other", "fields": []}
            for_registry(registry.url, {}).register("sensor-data-value", other)
        return verdict

    monkeypatch.setattr(publish_module, "judge", judge_then_lose)
    with pytest.raises(UserError, match=r"sensor-data-value: refused: .*incompatible"):
        main(["--registry", registry.url])
    assert states(capsys.readouterr().out) == {"alerts-value": "new"}
    assert registry.store.subjects() == ["alerts-value", "sensor-data-value"]


def test_a_use_case_of_ones_own(registry: RegistryServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "pumps"
    folder.mkdir()
    fields = [{"name": "pump", "type": "string"}, {"name": "at", "type": "long"}]
    (folder / "p.avsc").write_text(json.dumps({"type": "record", "name": "Pump", "fields": fields}))
    (folder / "use_case.yaml").write_text("{schema: p.avsc, key: pump, event_time: at}")
    (folder / "preprocess.sql").write_text("SELECT pump, at FROM events")
    with pytest.raises(UserError, match="schema pumps has no usual topic: add --subject pumps=TOPIC-value"):
        publications(str(folder), [])
    more = ["--use_case", str(folder), "--subject", "pumps=pump-data-value", *ALERTS, "--subject", "alert=b-value"]
    assert main(["--registry", registry.url, *more]) == 0
    found = ["alerts-value", "b-value", "dead-letters-value", "pump-data-value", "scores-value"]
    assert states(capsys.readouterr().out) == dict.fromkeys(found, "new")


def test_a_shipped_use_case_has_its_schemas_name() -> None:
    found = {item.name: item.subject for item in publications("car_sensors", [])}
    assert found == publish_module.SUBJECTS


@pytest.mark.parametrize("pair", ["alerts=x", "alert=", "alert", "=x"])
def test_a_subject_of_nothing(pair: str) -> None:
    with pytest.raises(UserError, match=r"write SCHEMA=SUBJECT, with one of alert, "):
        publications(None, [pair])


def test_no_registry(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no registry: give --registry URL"):
        main([])
    with pytest.raises(UserError, match="cannot be reached"):
        main(["--registry", "http://127.0.0.1:9"])
    with pytest.raises(UserError, match="has a password in its URL"):
        main(["--registry", "http://alice:secret@127.0.0.1:9"])


def test_a_url_that_is_no_registry(registry: RegistryServer) -> None:
    with pytest.raises(UserError, match="answers HTTP 404"):
        main(["--registry", registry.url + "/elsewhere"])


def test_the_registry_of_the_properties_file(
    registry: RegistryServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    properties = tmp_path / "client.properties"
    properties.write_text(f"bootstrap.servers=nowhere:1\nschema.registry.url={registry.url}\n")
    assert main(["--kafka_config", str(properties), "--dry_run"]) == 0
    assert states(capsys.readouterr().out) == dict.fromkeys(USUAL, "new")


def test_credentials_by_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server that wants a password: it is sent, and a refusal says which property to set."""

    class Guarded(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers.get("Authorization") == "Basic YWxpY2U6c2VjcmV0"  # alice:secret
            body = b'{"error_code": 40401, "message": "Subject not found"}' if known else b'{"message": "who?"}'
            self.send_response(404 if known else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Guarded)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        properties = tmp_path / "client.properties"
        properties.write_text("schema.registry.basic.auth.user.info=alice:env:REGISTRY_PASSWORD\n")
        command = ["--registry", url, "--kafka_config", str(properties), "--dry_run"]
        monkeypatch.setenv("REGISTRY_PASSWORD", "secret")
        assert main(command) == 0
        monkeypatch.setenv("REGISTRY_PASSWORD", "wrong")
        with pytest.raises(UserError, match=r"refuses us .*basic\.auth\.user\.info") as refused:
            main(command)
        assert "wrong" not in str(refused.value)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
