"""A fake of the Dataflow API: what a submission, a wait and the launch of a Flex Template ask of its REST interface."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from beam_jobs.storage import files

Json = dict[str, Any]
ROOT = Path(__file__).resolve().parent.parent.parent
_SHOWN = ("id", "name", "projectId", "location", "currentState", "createTime", "type")


@dataclass(frozen=True)
class Request:
    """What the service was sent."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]  # names in lower case
    body: Json


@dataclass
class FakeDataflow:
    """Takes any job. Each look at a job gives its next state, the last one again and again.

    "sandbox" in the address makes Beam's client speak REST. With "localhost" it would leave out what it checks and sets
    for the service, and any other address may have no port: so it is reached as a proxy, by ``environment``.
    """

    url = "http://dataflow.sandbox"

    states: list[str] = field(default_factory=lambda: ["JOB_STATE_DONE"])  # of a new job, one a look
    messages: list[Json] = field(default_factory=list)  # of every job
    refusal: tuple[int, str] | None = None  # status and message for every request, instead of an answer
    requests: list[Request] = field(default_factory=list)
    jobs: dict[str, Json] = field(default_factory=dict)  # as they were sent

    def __enter__(self) -> FakeDataflow:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                parts = urlsplit(self.path)
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or b"{}")
                path = parts.path.removeprefix("/v1b3")
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.command, path, parse_qs(parts.query), headers, body)
                service.requests.append(request)
                status, answer = service.answer(request)
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = _serve  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        here = "127.0.0.1"
        self.environment = {"http_proxy": f"http://{here}:{self._server.server_port}", "no_proxy": f"{here},localhost"}
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: Request) -> tuple[int, Json]:
        """Status and body, as the service's documentation has them."""
        if self.refusal:
            status, text = self.refusal
            return status, {"error": {"code": status, "message": text, "status": "REFUSED"}}
        place = re.match(r"/projects/([^/]+)/locations/([^/]+)/", request.path)
        if place is None:
            return 404, {"error": {"code": 404, "message": f"no such method: {request.path}"}}
        rest = request.path[place.end() :]
        match rest.split("/"):
            case ["jobs"] if request.method == "POST":
                return 200, self._shown(self._create(request.body, *place.groups()))
            case ["jobs"]:
                return 200, {"jobs": [self._shown(job) for job in self.jobs.values()]}
            case ["jobs", job] if job in self.jobs and request.method == "PUT":
                self.jobs[job]["currentState"] = request.body["requestedState"]
                return 200, self._shown(self.jobs[job])
            case ["jobs", job] if job in self.jobs:
                states = self.jobs[job]["states"]
                self.jobs[job]["currentState"] = states.pop(0) if len(states) > 1 else states[0]
                return 200, self._shown(self.jobs[job])
            case ["jobs", job, "messages"] if job in self.jobs:
                return 200, {"jobMessages": self.messages}
            case ["jobs", job, "metrics"] if job in self.jobs:
                return 200, {"metrics": []}
            case ["flexTemplates:launch"]:
                return self._launch(request.body["launchParameter"], *place.groups())
        return 404, {"error": {"code": 404, "message": f"no such method or job: {rest}"}}

    def run_forever(self, name: str) -> str:
        """A job of that name that runs already; its id."""
        made = self._create({"name": name}, "my-project", "us-central1")
        made["currentState"] = "JOB_STATE_RUNNING"
        return str(made["id"])

    def _create(self, body: Json, project: str, region: str) -> Json:
        job = {
            **body,
            "id": f"2026-11-22_00_00_00-{len(self.jobs) + 1}",
            "projectId": project,
            "location": region,
            "currentState": "JOB_STATE_PENDING",
            "createTime": "2026-11-22T00:00:00Z",
            "states": list(self.states),
        }
        self.jobs[job["id"]] = job
        return job

    @staticmethod
    def _shown(job: Json) -> Json:
        return {name: job[name] for name in _SHOWN if name in job}

    def _launch(self, launch: Json, project: str, region: str) -> tuple[int, Json]:
        """Runs the launcher as the service does, in place of the image's; then makes the job that it wrote."""
        spec = json.loads(files.read_bytes(launch["containerSpecGcsPath"]))
        environment = launch["environment"]
        written = f"{environment['stagingLocation']}/template_launches/{launch['jobName']}/job_object"
        flags = launch["parameters"] | {
            "runner": "DataflowRunner",
            "project": project,
            "region": region,
            "job_name": launch["jobName"],
            "staging_location": environment["stagingLocation"],
            "temp_location": environment["tempLocation"],
            "template_location": written,
            "sdk_container_image": spec["defaultEnvironment"]["sdkContainerImage"],
            "labels": '{"goog-dataflow-provided-template-type":"flex"}',
        }
        command = [sys.executable, f"templates/{spec['metadata']['name'].split(':')[1].split()[0]}.py"]
        command += [f"--{name}={value}" for name, value in flags.items()]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            return 400, {"error": {"code": 400, "message": done.stderr.strip().splitlines()[-1]}}
        job = json.loads(files.read_bytes(written))
        return 200, {"job": self._shown(self._create(job, project, region))}


@pytest.fixture
def dataflow_service(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDataflow]:
    """The fake, which this process takes for the service at ``FakeDataflow.url``."""
    with FakeDataflow() as service:
        for name, value in service.environment.items():
            monkeypatch.setenv(name, value)
        yield service
