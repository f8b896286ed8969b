"""Pub/Sub as a bus: which subscription a job reads, from when and until when."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from beam_jobs.errors import UserError
from beam_jobs.io.bus import Bus
from beam_jobs.io.position import OffsetKind, OffsetSpec
from beam_jobs.io.pubsub import client
from beam_jobs.io.pubsub.address import EXAMPLE, PLACE, PubSubAddress
from beam_jobs.io.pubsub.pull import PullSettings
from beam_jobs.io.pubsub.transforms import PubSubInput, PubSubOutput
from beam_jobs.io.source import Checks, Wanted


class PubSubBus:
    """Pub/Sub, by ``pubsub://``."""

    example = EXAMPLE

    def address(self, uri: str) -> PubSubAddress:
        return PubSubAddress.parse(uri)

    def source(self, uri: str, wanted: Wanted, checks: Checks) -> PubSubInput:
        """What a job reads: the subscription at ``uri``, or one of the topic there, made if it is missing.

        Raises:
          UserError: there is neither, --from or --until are not to be had, or an option is wrong.
        """
        address, options = PubSubAddress.parse(uri), wanted.options
        quiet_s, dedupe_s, streams = (options[name] for name in ("quiet_seconds", "dedupe_seconds", "pull_streams"))
        if quiet_s <= 0 or dedupe_s <= 0:
            raise UserError("--quiet_seconds and --dedupe_seconds: expected more than 0")
        if not 1 <= streams <= 100:
            raise UserError(f"--pull_streams {streams}: expected 1 to 100")
        start_ms, until_ms = _start(wanted.start_from), _until(wanted.until)

        def find() -> tuple[PubSubAddress, bool]:
            may_create = until_ms is None or start_ms is not None
            return _subscription(address, wanted, may_create, checks)

        # Not found from here, and so not made either: the address, or the group, is taken for one that is there.
        taken_for = PubSubAddress(address.project, wanted.group_id or address.topic)
        subscription, new = checks.ask(PLACE, f"subscription {taken_for}", find) or (taken_for, False)
        if start_ms is not None:
            if new or until_ms is not None:
                client.seek(subscription, start_ms)
                checks.say(f"{subscription} is set to {wanted.start_from}, for all who read it")
                _say_what_is_gone(subscription, start_ms, new, checks)
            else:
                checks.say(f"{subscription} goes on where it stands; --from is for a new one")
        return PubSubInput(
            subscription,
            address.topic,
            options["timestamp_attribute"],
            until_ms,
            quiet_s,
            PullSettings(streams=streams, dedupe_s=dedupe_s, acknowledge=wanted.keep_position is not False),
            wanted.blocks,
        )

    def sink(self, uri: str, options: Mapping[str, Any]) -> PubSubOutput:
        return PubSubOutput(PubSubAddress.parse(uri))


BUS: Bus = PubSubBus()


def _say_what_is_gone(subscription: PubSubAddress, start_ms: int, new: bool, checks: Checks) -> None:
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
    checks.say(
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
    address: PubSubAddress, wanted: Wanted, may_create: bool, checks: Checks
) -> tuple[PubSubAddress, bool]:
    """(the subscription, whether it was made now)."""
    group_id = wanted.group_id
    if group_id is None and client.find_subscription(address) is not None:
        return address, False
    if not client.topic_exists(address):
        what = "there is no such topic" if group_id else "there is neither a subscription nor a topic of that name"
        raise UserError(f"{address}: {what}; create it, or mend --input")
    subscription = PubSubAddress(address.project, group_id or f"{wanted.default_group}.{address.topic}")
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
    checks.say(f"subscription {subscription} made")
    return subscription, True
