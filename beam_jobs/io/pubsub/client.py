"""The connection to Pub/Sub, questions asked before a job starts, and errors as a person reads them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import grpc
from google.api_core import exceptions
from google.pubsub_v1 import PublisherClient, SchemaServiceClient, SubscriberClient, types
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.schema_service.transports import SchemaServiceGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from beam_jobs import stop
from beam_jobs.codec.avro.writers import events_schema
from beam_jobs.codec.schema import Schema
from beam_jobs.credentials import google_credentials
from beam_jobs.errors import UnreachableError, UserError, one_line
from beam_jobs.io.pubsub.address import PubSubAddress

EMULATOR = "PUBSUB_EMULATOR_HOST"  # Google's own name: host:port of an emulator, without TLS and credentials
QUESTION_TIMEOUT_S = 10.0
DEFAULT_RETENTION_S = 7 * 86_400  # of a subscription's unacknowledged messages
LONGEST_RETENTION_S = 31 * 86_400  # that the service takes

_HOST = "pubsub.googleapis.com:443"
_SCOPES = ("https://www.googleapis.com/auth/pubsub",)
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),  # a connection that died unseen is found
    ("grpc.max_reconnect_backoff_ms", 1_000),  # a service that comes back is found within a second
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel connects anew, whatever an older one has just met
]

REFUSED = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.UNAUTHENTICATED,
    }
)
"""Answers that a person has to mend; after any other the same call is made again until it succeeds."""

REFUSED_FOR_S = 10.0  # rights take a while to spread, and what was deleted may be made again at once


class Refusals:
    """Tells whether a call is refused for good: one answer decides nothing, only the same for ``REFUSED_FOR_S``."""

    def __init__(self, address: PubSubAddress) -> None:
        self._address = address
        self._since: float | None = None

    def none(self) -> None:
        """The call succeeded, or failed for another reason."""
        self._since = None

    def seen(self, error: Any) -> UserError | None:
        """What to end with after this ``grpc.RpcError``; None: the call is to be made again."""
        if error.code() not in REFUSED:
            self.none()
            return None
        self._since = self._since or time.monotonic()
        if time.monotonic() - self._since < REFUSED_FOR_S:
            return None
        return user_error(self._address, error.code(), error.details())


def channel() -> grpc.Channel:
    """This process's connection.

    Raises:
      UserError: there are no credentials.
    """
    return _channel(os.environ.get(EMULATOR, ""))


@cache
def _channel(emulator: str) -> grpc.Channel:
    if emulator:
        return grpc.insecure_channel(emulator, options=_OPTIONS)
    credentials = google_credentials.find("pubsub://", _SCOPES, f", or an emulator in {EMULATOR}")
    return SubscriberGrpcTransport.create_channel(_HOST, credentials=credentials, scopes=_SCOPES, options=_OPTIONS)


def call(method: str, request: Any, response: Any) -> Callable[..., Any]:
    """A bare unary method, ``call("Publisher/Publish", PublishRequest, PublishResponse)``, of protobuf classes."""
    return channel().unary_unary(f"/google.pubsub.v1.{method}", request.SerializeToString, response.FromString)


def _publisher() -> PublisherClient:
    return PublisherClient(transport=PublisherGrpcTransport(channel=channel()))


def _subscriber() -> SubscriberClient:
    return SubscriberClient(transport=SubscriberGrpcTransport(channel=channel()))


_ONCE: dict[str, Any] = {"retry": None, "timeout": QUESTION_TIMEOUT_S}  # an error is told at once


@contextmanager
def client_errors(address: PubSubAddress) -> Iterator[None]:
    """Errors of the service as ``UserError``."""
    try:
        yield
    except exceptions.GoogleAPICallError as error:
        code = error.grpc_status_code
        raise user_error(address, code or grpc.StatusCode.UNKNOWN, str(error.message)) from None


def user_error(address: PubSubAddress, code: grpc.StatusCode, detail: str) -> UserError:
    """What a person reads about a failed call."""
    detail = one_line(detail or code.name.lower(), 200)
    if code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED):
        return UserError(
            f"{address}: access denied ({detail}); grant this account roles/pubsub.subscriber to read, "
            "roles/pubsub.publisher to write"
        )
    if code == grpc.StatusCode.NOT_FOUND:
        return UserError(f"{address}: does not exist, or no more ({detail}); make it, then start again")
    if code == grpc.StatusCode.FAILED_PRECONDITION:
        return UserError(
            f"{address}: can't be used as it is ({detail}); is it detached, or is a key or the billing disabled? Mend "
            "that, then start again"
        )
    if code in REFUSED:
        return UserError(
            f"{address}: refuses what is asked of it ({code.name}: {detail}); does the topic have a schema of its own, "
            f"and is {EMULATOR} right, if it is set?"
        )
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        where = os.environ.get(EMULATOR) or _HOST
        return UnreachableError(
            f"{address}: {where} does not answer ({detail}); check the network, and {EMULATOR} if it is set"
        )
    return UserError(f"{address}: {code.name.lower()}: {detail}")


def check_topic(address: PubSubAddress) -> None:
    """Asks whether the topic is there and may be written to.

    Raises:
      UserError: it does not exist, access is denied, or the service does not answer.
    """
    with client_errors(address):
        try:
            _publisher().get_topic(topic=address.topic_path, **_ONCE)
        except exceptions.NotFound:
            raise UserError(f"{address}: the topic does not exist") from None
        except exceptions.PermissionDenied:
            # A publisher need not be a viewer; this question is open to everybody.
            wanted = ["pubsub.topics.publish"]
            request = {"resource": address.topic_path, "permissions": wanted}
            if list(_publisher().test_iam_permissions(request=request, **_ONCE).permissions) != wanted:
                raise


def ensure_topic(address: PubSubAddress) -> None:
    """Creates the topic if it is missing."""
    with client_errors(address):
        try:
            _publisher().create_topic(name=address.topic_path, **_ONCE)
        except exceptions.AlreadyExists:
            pass
        except exceptions.PermissionDenied:
            check_topic(address)


def find_subscription(address: PubSubAddress) -> types.Subscription | None:
    """What the service knows of a subscription of that name, None if there is none."""
    with client_errors(address):
        try:
            return _subscriber().get_subscription(subscription=address.subscription_path, **_ONCE)
        except exceptions.NotFound:
            return None
        except exceptions.PermissionDenied:
            # A subscriber need not be a viewer; this question is open to everybody.
            wanted = ["pubsub.subscriptions.consume"]
            request = {"resource": address.subscription_path, "permissions": wanted}
            if list(_subscriber().test_iam_permissions(request=request, **_ONCE).permissions) != wanted:
                raise
            return types.Subscription(name=address.subscription_path)


def topic_exists(address: PubSubAddress) -> bool:
    """Whether there is a topic of that name."""
    with client_errors(address):
        try:
            _publisher().get_topic(topic=address.topic_path, **_ONCE)
        except exceptions.NotFound:
            return False
    return True


def topic_of(subscription: PubSubAddress) -> PubSubAddress | None:
    """The topic a subscription gets its messages from; None: this account may not know."""
    found = find_subscription(subscription)
    _, project, _, topic = found.topic.split("/") if found and found.topic.count("/") == 3 else ("", "", "", "")
    return PubSubAddress(project, topic) if topic else None


def retention_s(subscription: PubSubAddress) -> float:
    """How long the service keeps a message nobody has acknowledged, seconds."""
    found = find_subscription(subscription)
    kept = found.message_retention_duration.total_seconds() if found else 0.0
    return kept or DEFAULT_RETENTION_S


def revision_schema(name: str) -> Schema:
    """The Avro schema of a revision, ``projects/P/schemas/S@R``; waits while the service is unavailable.

    Raises:
      LookupError: there is none, or this account may not see it, or it is not of Avro's records.
      SchemaTooLargeError: as ``events_schema``.
    """
    client = SchemaServiceClient(transport=SchemaServiceGrpcTransport(channel=channel()))
    while True:
        try:
            schema = client.get_schema(request={"name": name, "view": types.SchemaView.FULL}, **_ONCE)
        except exceptions.GoogleAPICallError as error:
            if error.grpc_status_code not in REFUSED and not stop.wait(1.0):
                continue
            raise LookupError(f"schema {name} is not to be had ({error.message})") from None
        return events_schema(schema.definition, f"schema {name}")


def create_subscription(topic: PubSubAddress, subscription: PubSubAddress) -> None:
    """Subscribes to a topic, with order by key; messages published before are not in it."""
    request = {
        "name": subscription.subscription_path,
        "topic": topic.topic_path,
        "ack_deadline_seconds": 60,
        "enable_message_ordering": True,  # can't be changed later; costs nothing where no message has a key
    }
    with client_errors(subscription):
        _subscriber().create_subscription(request=request, **_ONCE)


def seek(subscription: PubSubAddress, timestamp_ms: int) -> None:
    """Sets the subscription to a time: what was published before counts as acknowledged, what came after does not."""
    seconds, millis = divmod(timestamp_ms, 1000)
    at = {"seconds": seconds, "nanos": millis * 1_000_000}
    with client_errors(subscription):
        _subscriber().seek(request={"subscription": subscription.subscription_path, "time": at}, **_ONCE)
