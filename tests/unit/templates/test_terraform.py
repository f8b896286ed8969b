"""templates/terraform: parses, is formatted, passes the jobs what they know, and gives nobody more than planned."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from beam_jobs import metrics
from templates.jobs import TEMPLATES
from templates.metadata import metadata
from templates.publish import launch_command

hcl2 = pytest.importorskip("hcl2", reason="python-hcl2 reads Terraform")

FOLDER = Path(__file__).parents[3] / "templates/terraform"
FILES = sorted(FOLDER.glob("*.tf"))


@cache
def blocks(kind: str) -> list[Any]:
    """Every block of a kind ("resource", "variable", …) in all files."""
    return [block for path in FILES for block in hcl2.loads(path.read_text(encoding="utf-8")).get(kind, [])]


def resources(kind: str) -> dict[str, dict[str, Any]]:
    return {name: body for block in blocks("resource") for name, body in block.get(kind, {}).items()}


def variables() -> dict[str, dict[str, Any]]:
    return {name: body for block in blocks("variable") for name, body in block.items()}


def test_terraform_finds_it_formatted() -> None:
    terraform = shutil.which("terraform") or shutil.which("tofu")
    if terraform is None:
        pytest.skip("neither terraform nor tofu is on PATH")
    command = [terraform, "fmt", "-check", "-diff", str(FOLDER)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("job", ["score", "archive"])
def test_a_job_gets_parameters_of_its_template(job: str) -> None:
    body = resources("google_dataflow_flex_template_job")[job]
    known = {parameter["name"] for parameter in metadata(TEMPLATES[job])["parameters"]}
    given = set(body["parameters"])
    assert given <= known
    assert set(TEMPLATES[job].command.required) <= given
    assert f"/templates/{job}${{local.suffix}}.json" in body["container_spec_gcs_path"]
    assert body["service_account_email"] == "${google_service_account.worker.email}"


def test_variables_are_described_typed_and_checked() -> None:
    for name, body in variables().items():
        assert body["description"].endswith("."), name
        assert "type" in body, name
        if "string" in body["type"] and body.get("default") in ("", None):
            assert "validation" in body or name == "secrets", name
    used = set(re.findall(r"\bvar\.(\w+)", "\n".join(path.read_text(encoding="utf-8") for path in FILES)))
    assert used == set(variables())


def test_outputs_are_described() -> None:
    for block in blocks("output"):
        for name, body in block.items():
            assert body["description"].endswith("."), name


def test_every_grant_says_what_it_is_for() -> None:
    lines = (FOLDER / "iam.tf").read_text(encoding="utf-8").splitlines()
    grants = [i for i, line in enumerate(lines) if re.match(r'resource "google_\w+_iam_member"', line)]
    assert len(grants) > 10
    for i in grants:
        # One comment may stand above two blocks that say the same of two kinds of subscriptions.
        assert lines[i - 1].startswith("# ") or "pubsub_outlets" in lines[i], lines[i]


def test_no_account_has_a_broad_role() -> None:
    text = (FOLDER / "iam.tf").read_text(encoding="utf-8")
    roles = set(re.findall(r'role\s*=\s*"([^"]+)"', text))
    assert not [role for role in roles if re.search(r"(owner|editor|\.admin|Admin)$", role)]
    on_project = {body["role"] for body in resources("google_project_iam_member").values()}
    assert on_project == {"roles/dataflow.worker", "roles/dataflow.developer", "roles/logging.logWriter"}


def test_buckets_are_private_and_have_a_lifecycle() -> None:
    for name, body in resources("google_storage_bucket").items():
        assert body["uniform_bucket_level_access"] is True, name
        assert body["public_access_prevention"] == "enforced", name
        assert body["lifecycle_rule"], name
        assert "force_destroy" not in body, name


def test_no_rule_cleans_what_live_jobs_and_launches_need() -> None:
    rules = resources("google_storage_bucket")["work"]["lifecycle_rule"]
    prefixes = [prefix for rule in rules for prefix in rule["condition"][0]["matches_prefix"]]
    assert all(rule["condition"][0]["matches_prefix"] for rule in rules)
    args = argparse.Namespace(job="score", name="", project="my-project", bucket="b", region="r", gcloud_args="")
    used = re.findall(r"gs://b/(\w+/?)", " ".join(launch_command(args, {})))
    jobs = (FOLDER / "jobs.tf").read_text(encoding="utf-8")
    used += re.findall(r"gs://\$\{google_storage_bucket.work.name\}/(\w+/?)", jobs)
    cleaned = {folder for folder in used if f"{folder}/".startswith(tuple(prefixes))}
    assert set(used) == {"templates/", "staging", "temp"}
    assert cleaned == {"temp"}


def test_what_pubsub_gives_up_goes_to_a_topic_that_somebody_reads() -> None:
    subscriptions = resources("google_pubsub_subscription")
    assert "undelivered" in str(subscriptions["events"]["dead_letter_policy"])
    assert "undelivered" in str(subscriptions["outlet"]["dynamic"])
    assert resources("google_pubsub_topic_iam_member")["pubsub_undelivered"]["member"] == "${local.pubsub_agent}"


def test_alerts_ask_for_counters_that_the_jobs_have() -> None:
    text = (FOLDER / "alerts.tf").read_text(encoding="utf-8")
    assert set(re.findall(r'format\(local\.counter, "(\w+)"\)', text)) == {
        metrics.DEAD_LETTERS.name,
        metrics.RECORDS_READ.name,
    }
    policies = resources("google_monitoring_alert_policy")
    assert set(policies) == {"system_lag", "dead_letters", "undelivered", "job_failed", "no_data"}
    for name, body in policies.items():
        assert body["documentation"], name
        assert body["notification_channels"] == "${var.notification_channels}", name


def test_no_secret_value_is_a_variable() -> None:
    for name in variables():
        assert not re.search(r"password|token|key$", name)
    assert resources("google_secret_manager_secret_iam_member")
    assert not resources("google_secret_manager_secret_version")
