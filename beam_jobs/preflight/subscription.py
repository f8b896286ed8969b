"""Which Pub/Sub subscription a job reads, from when and until when."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from beam_jobs.errors import UserError
from beam_jobs.io.address import PubSubAddress
from beam_jobs.io.position import OffsetKind, OffsetSpec
from beam_jobs.io.pubsub import client
from beam_jobs.io.pubsub.pull import PullSettings
from beam_jobs.preflight.reach import Preflight
from beam_jobs.terminal import options
from beam_jobs.terminal.cli import say

PUBSUB = "pubsub"  # who is asked, for Preflight.ask
LONGEST_RETENTION_S = 31 * 86_400  # that the service takes


def pubsub_settings(preflight: Preflight, address: PubSubAddress, group: str, acknowledge: bool) -> dict[str, Any]:
    """The arguments of ``pubsub.ReadFromPubSub`` that are Pub/Sub's own, "address" with the subscription among them.

    Args:
      address: of --input: a subscription, or a topic.
      acknowledge: False: what was read is given back at the end.
      group: the job's, for the name of a topic's subscription where --group_id gives none.

    Raises:
      UserError: there is neither, --from or --until are not to be had, or an option is wrong.
    """
    parsed = preflight.parsed
    given, wanted = parsed.view_as(options.InputOptions), parsed.view_as(options.PubSubOptions)
    if wanted.quiet_seconds <= 0 or wanted.dedupe_seconds <= 0:
        raise UserError("--quiet_seconds and --dedupe_seconds: expected more than 0")
    if not 1 <= wanted.pull_streams <= 100:
        raise UserError(f"--pull_streams {wanted.pull_streams}: expected 1 to 100")
    start_ms, until_ms = _start(given.start_from), _until(given.until)
    find = partial(_subscription, address, given.group_id, group, until_ms is None or start_ms is not None)
    # Not found from here, and so not made either: the address, or the group, is taken for one that is there.
    taken_for = PubSubAddress(address.project, given.group_id or address.topic)
    subscription, new = preflight.ask(PUBSUB, f"subscription {taken_for}", find) or (taken_for, False)
    if start_ms is not None:
        if new or until_ms is not None:
            client.seek(subscription, start_ms)
            say(f"{subscription} is set to {given.start_from}, for all who read it")
            _say_what_is_gone(subscription, start_ms, new)
        else:
            say(f"{subscription} goes on where it stands; --from is for a new one")
    return {
        "address": subscription,
        "name": address.topic,
        "timestamp_attribute": wanted.timestamp_attribute,
        "until_ms": until_ms,
        "quiet_s": wanted.quiet_seconds,
        "settings": PullSettings(streams=wanted.pull_streams, dedupe_s=wanted.dedupe_seconds, acknowledge=acknowledge),
    }


def _say_what_is_gone(subscription: PubSubAddress, start_ms: int, new: bool) -> None:
    """Says where a seek does not bring back all that was published since ``start_ms``."""
    found = client.find_subscription(subscription)
    if found is None or not found.topic:
        return  # this account may not see what is kept
    kept_s = found.topic_message_retention_duration.total_seconds()
    if found.retain_acked_messages:
        kept_s = max(kept_s, found.message_retention_duration.total_seconds() or client.DEFAULT_RETENTION_S)
    if time.time() - start_ms / 1000 <= kept_s:
        return
    there = "nothing" if new else "only what is not acknowledged"
    say(
        f"of what was published more than {kept_s / 3600:g} hours ago {there} is there: that long the topic keeps it "
        "(message retention), or by a subscription with retain_acked_messages"
    )


def _start(text: str | None) -> int | None:
    """--from as a time to seek to, ms; None: where the subscription stands."""
    spec = OffsetSpec.parse(text) if text else None
    if spec is None or spec.kind is OffsetKind.EARLIEST:
        return None
    if spec.kind is not OffsetKind.TIMESTAMP:
        raise UserError(
            f"--from {text}: a Pub/Sub subscription keeps its own position; give a time, or set it yourself with "
            "gcloud pubsub subscriptions seek"
        )
    return spec.timestamp_ms


def _until(text: str | None) -> int | None:
    """--until as a publish time, ms; None: no end."""
    spec = OffsetSpec.parse(text) if text else None
    if spec is None:
        return None
    if spec.kind is OffsetKind.LATEST:
        return int(time.time() * 1000)
    if spec.kind is not OffsetKind.TIMESTAMP:
        raise UserError(f"--until {text}: Pub/Sub messages have no offsets; give latest or a time")
    return spec.timestamp_ms


def _subscription(
    address: PubSubAddress, group_id: str | None, group: str, may_create: bool
) -> tuple[PubSubAddress, bool]:
    """(the subscription, whether it was made now)."""
    if group_id is None and client.find_subscription(address) is not None:
        return address, False
    if not client.topic_exists(address):
        what = "there is no such topic" if group_id else "there is neither a subscription nor a topic of that name"
        raise UserError(f"{address}: {what}; create it, or mend --input")
    subscription = PubSubAddress(address.project, group_id or f"{group}.{address.topic}")
    found = client.find_subscription(subscription)
    if found is not None:
        if found.topic not in ("", address.topic_path):
            raise UserError(f"{subscription}: subscribes to {found.topic}, not to {address.topic}; choose a --group_id")
        return subscription, False
    if not may_create:
        raise UserError(
            f"{subscription}: there is no such subscription, and a new one holds nothing that was published before; "
            f"create it first: gcloud pubsub subscriptions create {subscription.topic} --topic={address.topic}"
        )
    client.create_subscription(address, subscription)
    say(f"subscription {subscription} made")
    return subscription, True


def check_reasons(source: Mapping[str, Any], reasons: Sequence[str]) -> None:
    """Refuses to put back some of a subscription's dead letters: it would hand out the others and lose them.

    Raises:
      UserError: as above.
    """
    address = source["address"]
    if not reasons or not isinstance(address, PubSubAddress) or not source["settings"].acknowledge:
        return
    if address.topic == source["name"]:
        raise UserError(
            f"--reason: dead letters of other reasons would leave {address} with those; leave --reason out, or name "
            "the topic as --input and a subscription made for this with --group_id"
        )


def topic_of(subscription: PubSubAddress) -> PubSubAddress | None:
    """The topic a subscription gets its messages from; None: this account may not know."""
    found = client.find_subscription(subscription)
    _, project, _, topic = found.topic.split("/") if found and found.topic.count("/") == 3 else ("", "", "", "")
    return PubSubAddress(project, topic) if topic else None


def retention_s(subscription: PubSubAddress) -> float:
    """How long the service keeps a message nobody has acknowledged, seconds."""
    found = client.find_subscription(subscription)
    kept = found.message_retention_duration.total_seconds() if found else 0.0
    return kept or client.DEFAULT_RETENTION_S
