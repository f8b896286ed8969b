"""The image: its Dockerfile copies what there is, its lock pins what setup.py asks for, gcloud takes the spec."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from templates import lock
from templates.jobs import TEMPLATES
from templates.publish import ROOT, spec

DOCKERFILE = (ROOT / "templates/Dockerfile").read_text(encoding="utf-8")
PIN = re.compile(r"([a-z0-9-]+)==(\S+) --hash=sha256:[0-9a-f]{64}")


def pins() -> dict[str, str]:
    """Versions by package."""
    lines = lock.FILE.read_text(encoding="utf-8").splitlines()
    found = [PIN.fullmatch(line) for line in lines if not line.startswith("#")]
    assert all(found)
    return {match[1]: match[2] for match in found if match}


def needs(name: str) -> list[Requirement]:
    requirements = [Requirement(text) for text in distribution(name).requires or []]
    return [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]


def test_the_lock_has_what_setup_py_asks_for() -> None:
    there = pins()
    for requirement in lock.core():
        version = there.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is not in the lock: run python -m templates.lock"
        assert requirement.specifier.contains(version), (
            f"{requirement} but {version} is locked: run python -m templates.lock"
        )


def test_the_lock_has_what_its_packages_ask_for() -> None:
    there = pins()
    checked = 0
    for name, version in there.items():
        try:
            if distribution(name).version != version:
                continue  # only the installed version says what it needs
        except PackageNotFoundError:
            continue
        checked += 1
        for requirement in needs(name):
            wanted = there.get(canonicalize_name(requirement.name))
            assert wanted, f"{name} needs {requirement.name}"
            assert requirement.specifier.contains(wanted, prereleases=True), f"{name} needs {requirement}, not {wanted}"
    assert checked


def test_hashes_come_from_what_pip_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def pip(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        items = [
            {"metadata": {"name": n}, "download_info": {"archive_info": {"hashes": {"sha256": c * 64}}}}
            for n, c in (("B_x", "b"), ("a", "a"))
        ]
        Path(command[command.index("--report") + 1]).write_text(json.dumps({"install": items}))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr("templates.lock.subprocess.run", pip)
    lines = lock.hashed({"a": "1", "b-x": "2"}).splitlines()
    assert lines == [f"a==1 --hash=sha256:{'a' * 64}", f"b-x==2 --hash=sha256:{'b' * 64}"]


def test_beam_is_the_same_in_the_image_and_in_the_lock() -> None:
    version = re.search(r"^ARG BEAM_VERSION=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert version
    assert pins()["apache-beam"] == version[1]


def test_the_dockerfile_copies_files_that_exist_and_are_let_into_the_context() -> None:
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8")
    sources = [
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert {f"templates/{job}.py" for job in TEMPLATES} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in allowed or (source.startswith("templates/") and "!templates/*.py" in allowed), source


def test_every_package_is_copied_into_the_image() -> None:
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    packages = re.findall(r'"(\w+)"', re.findall(r"^PACKAGES = \((.*?)\)", setup, re.MULTILINE)[0])
    assert packages
    for package in packages:
        assert f"COPY {package} ./src/{package}" in DOCKERFILE


def test_nothing_is_installed_when_a_launcher_or_worker_starts() -> None:
    assert "FLEX_TEMPLATE_PYTHON_SETUP_FILE" not in DOCKERFILE
    assert "FLEX_TEMPLATE_PYTHON_REQUIREMENTS_FILE" not in DOCKERFILE
    assert "--require-hashes" in DOCKERFILE
    assert ":latest" not in DOCKERFILE


class TestGcloud:
    """Google's own command reads the metadata."""

    @pytest.fixture
    def build(self, tmp_path: Path) -> Any:
        gcloud = shutil.which("gcloud")
        if gcloud is None:
            pytest.skip("gcloud is not on PATH")
        env = os.environ | {
            "CLOUDSDK_CONFIG": str(tmp_path / "gcloud"),
            "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
            "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
            "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
        }

        def run(metadata_file: Path) -> subprocess.CompletedProcess[str]:
            command = [gcloud, "dataflow", "flex-template", "build", "gs://b/t.json", "--image=example/x:1"]
            command += ["--sdk-language=PYTHON", f"--metadata-file={metadata_file}", "--print-only", "--format=json"]
            command += ["--project=my-project"]
            return subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)

        return run

    @pytest.mark.parametrize("job", TEMPLATES)
    def test_makes_the_spec_that_is_published(self, build: Any, job: str) -> None:
        done = build(ROOT / f"templates/{job}.json")
        assert done.returncode == 0, done.stderr
        theirs, ours = json.loads(json.loads(done.stdout)), spec(TEMPLATES[job], "example/x:1")
        assert theirs["metadata"].items() <= ours["metadata"].items()
        assert theirs["metadata"]["parameters"] == ours["metadata"]["parameters"]
        assert theirs["image"] == ours["image"]
        assert theirs["sdkInfo"] == ours["sdkInfo"]

    def test_refuses_a_parameter_without_help(self, build: Any, tmp_path: Path) -> None:
        wrong = json.loads((ROOT / "templates/score.json").read_text(encoding="utf-8"))
        del wrong["parameters"][0]["helpText"]
        (tmp_path / "wrong.json").write_text(json.dumps(wrong))
        done = build(tmp_path / "wrong.json")
        assert done.returncode != 0
        assert "Parameter helpText field is empty" in done.stderr
