"""What the workers of a job see, where they are not this machine. Everything here passes for a job that runs here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

from beam_jobs.credentials.references import is_reference
from beam_jobs.errors import UserError
from beam_jobs.io.address import Address
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.preflight.reach import Preflight
from beam_jobs.preprocessing.preprocessor import Preprocessor
from beam_jobs.steps.payload import KEY_OPTION, OPTION, Payload, Policy
from beam_jobs.storage import files
from beam_jobs.target import runner_of, target_of
from beam_jobs.terminal.cli import say

if TYPE_CHECKING:
    from beam_jobs.storage.gcs import BucketInfo

_THIS_MACHINE = re.compile(r"(localhost|127\.[0-9.]+|\[::1\]):[0-9]+")


def warn_if_cleaned(parsed: PipelineOptions, flag: str, path: str) -> None:
    """Says that a rule of the bucket deletes what a live job, or a worker that starts late, reads there."""
    if target_of(parsed).describe().here or files.is_local(path):
        return
    folder = path.rstrip("/")
    info = _bucket_info(folder)
    when = info.deletes(folder) if info else None
    if when:
        say(
            f"warning: {flag} {folder}: a lifecycle rule of the bucket deletes what lies there {when}, and a job that "
            "runs longer needs it; name another folder, or mend the rule"
        )


def check_path(parsed: PipelineOptions, flag: str, path: str, in_image: bool = False) -> None:
    """Refuses a path of this machine: workers do not see it.

    Args:
      in_image: it may be part of the workers' image, in which the launcher of a Flex Template runs as well.

    Raises:
      UserError: as above.
    """
    if target_of(parsed).describe().here or not files.is_local(path):
        return
    if in_image and parsed.view_as(GoogleCloudOptions).template_location:
        return
    where = runner_of(parsed).removesuffix("Runner")
    raise UserError(
        f"{flag} {path}: workers of {where} do not see the files of this machine; copy them to a bucket (gcloud "
        "storage cp --recursive … gs://my-bucket/) and name that"
    )


def check_settings(parsed: PipelineOptions, config: KafkaConfig, flag: str = "--kafka_config") -> None:
    """Refuses client settings that refer to something Beam's own image does not have.

    Args:
      flag: that names their file.

    Raises:
      UserError: as above.
    """
    traits = target_of(parsed).describe()
    if traits.here or traits.own_image:
        return
    for name, what in config.needed_on_worker():
        raise UserError(
            f"{flag}: {name} needs {what} on every worker; for a secret write "
            "secret://projects/P/secrets/S/versions/V, put client.properties into a bucket, or make an image that has "
            "it (--sdk_container_image)"
        )


def check_pii_key(preflight: Preflight, preprocessor: Preprocessor) -> None:
    """Reads the keys of pseudonyms and encryption, where the SQL makes any.

    Raises:
      UserError: it can't be read, here or on the workers.
    """
    references = preprocessor.secret_references
    for reference in references:
        check_key(preflight, "pii.key", reference)
    preflight.ask(f"pii.key {', '.join(references)}", "the key of the pseudonyms", preprocessor.check_secrets)


def dead_letter_payload(preflight: Preflight, writes: bool) -> Payload:
    """What dead letters hold of their records, and the key, which is read once.

    Args:
      writes: the job writes dead letters; otherwise it reads them, whatever they hold.

    Raises:
      UserError: encrypting without a key, a key without encrypting; it can't be read, here or on the workers.
    """
    given = preflight.parsed.get_all_options()
    policy: Policy = given["dead_letter_payload"] if writes else "keep"
    payload = Payload(policy, given["dead_letter_key"])
    if writes and payload.key is not None and policy != "encrypt":
        raise UserError(f"{KEY_OPTION} is for {OPTION} encrypt; add that, or leave the key out")
    check_key(preflight, KEY_OPTION, payload.key)
    preflight.ask(f"{KEY_OPTION} {payload.key}", "the key of the dead letters", payload.keys)
    return payload


def dead_letter_rate(parsed: PipelineOptions) -> float:
    """The share of bad records that stops the job.

    Raises:
      UserError: it is none.
    """
    share: float = parsed.get_all_options()["max_dead_letter_rate"]
    if not 0 <= share <= 1:
        raise UserError(f"--max_dead_letter_rate {share}: a share between 0 and 1")
    return share


def check_key(preflight: Preflight, what: str, reference: str | None) -> None:
    """Refuses a key that is not where the workers are."""
    traits = target_of(preflight.parsed).describe()
    if (
        reference
        and is_reference(reference)
        and not reference.startswith("secret:")
        and not (traits.here or traits.own_image)
    ):
        raise UserError(
            f"{what} {reference}: workers of Beam's image do not have it; refer to "
            "secret://projects/P/secrets/S/versions/NUMBER, or make an image that has it (--sdk_container_image)"
        )


def warn_of_this_machine(preflight: Preflight, address: Address) -> None:
    """Says that workers will not reach a broker of this machine."""
    if not target_of(preflight.parsed).describe().here and _THIS_MACHINE.search(address.place):
        scheme = str(address).partition("://")[0]
        preflight.say_once(
            f"warning: {scheme}://{address.place} is this machine for this machine only; workers need an address they "
            "can reach"
        )


def refuse_at_least_once(parsed: PipelineOptions, job: str, reason: str) -> None:
    """Refuses an option by which the runner may repeat what it has done, for a job that it would break.

    Raises:
      UserError: as above.
    """
    asked = target_of(parsed).describe().at_least_once
    if asked:
        raise UserError(f"{asked} is not for {job}: {reason}; leave it out")


def _bucket_info(path: str) -> BucketInfo | None:
    from beam_jobs.storage.gcs import bucket_info  # Google's libraries take seconds to import

    return bucket_info(path)
