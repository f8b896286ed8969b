"""What the service may answer to each call, and what becomes of it: a table over all codes of gRPC."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest
from apache_beam.utils.timestamp import MAX_TIMESTAMP
from google.iam.v1 import iam_policy_pb2 as iam
from google.protobuf import any_pb2
from google.protobuf.empty_pb2 import Empty
from google.pubsub_v1 import types
from google.rpc import error_details_pb2, status_pb2

from beam_jobs import metrics
from beam_jobs.errors import UserError
from beam_jobs.io.pubsub import client as pubsub_client
from beam_jobs.io.pubsub import pull as pubsub_pull
from beam_jobs.io.pubsub import sink as pubsub_sink
from beam_jobs.io.pubsub.address import PubSubAddress
from beam_jobs.io.pubsub.messages import Message
from beam_jobs.io.pubsub.pull import PullSettings
from beam_jobs.io.pubsub.sink import PublishBlocks
from beam_jobs.io.pubsub.source import SESSIONS, PubSubReader, PubSubSource
from tests.services.pubsub import EMULATOR

ADDRESS = PubSubAddress("lab-project", "events")
CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
MENDED_BY_HAND = {  # and what the line says then
    grpc.StatusCode.INVALID_ARGUMENT: "refuses what is asked",
    grpc.StatusCode.NOT_FOUND: "does not exist, or no more",
    grpc.StatusCode.PERMISSION_DENIED: "access denied .*roles/pubsub",
    grpc.StatusCode.FAILED_PRECONDITION: "can.t be used as it is .*is it detached",
    grpc.StatusCode.UNIMPLEMENTED: "refuses what is asked",
    grpc.StatusCode.UNAUTHENTICATED: "access denied",
}


class Service(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A service of one subscription that hands out what is in ``messages``, and fails as it is told."""

    def __init__(self) -> None:
        self.codes: dict[str, grpc.StatusCode] = {}  # by method
        self.verdicts: dict[str, str] = {}  # by acknowledge id, of exactly-once delivery
        self.subscription = types.Subscription.pb()(name=ADDRESS.subscription_path, topic="projects/p/topics/t")
        self.messages: list[Any] = []
        self.acknowledged: list[str] = []
        self.published: list[bytes] = []
        self.calls: list[str] = []

    def service(self, details: Any) -> Any:
        method = details.method.rpartition("/")[2]
        self.calls.append(method)
        kinds = {
            "StreamingPull": (types.StreamingPullRequest, self._stream, types.StreamingPullResponse),
            "Acknowledge": (types.AcknowledgeRequest, self._acknowledge, None),
            "ModifyAckDeadline": (types.ModifyAckDeadlineRequest, lambda request, context: Empty(), None),
            "GetSubscription": (types.GetSubscriptionRequest, lambda request, context: self.subscription, None),
            "Publish": (types.PublishRequest, self._publish, types.PublishResponse),
        }
        request_type, function, _ = kinds[method]

        def answer(request: Any, context: Any) -> Any:
            if method in self.codes:
                context.abort(self.codes[method], "as told")
            return function(request, context)

        def stream(requests: Any, context: Any) -> Iterator[Any]:
            if method in self.codes:
                context.abort(self.codes[method], "as told")
            yield from function(requests, context)

        read, write = request_type.pb().FromString, lambda response: response.SerializeToString()
        if method == "StreamingPull":
            return grpc.stream_stream_rpc_method_handler(stream, read, write)
        return grpc.unary_unary_rpc_method_handler(answer, read, write)

    def _stream(self, requests: Any, context: Any) -> Iterator[Any]:
        while context.is_active() and "StreamingPull" not in self.codes:
            sent, self.messages = self.messages, []
            if sent:
                yield types.StreamingPullResponse.pb()(received_messages=sent)
            time.sleep(0.005)
        if context.is_active():
            context.abort(self.codes["StreamingPull"], "as told")

    def _acknowledge(self, request: Any, context: Any) -> Any:
        if self.verdicts:
            info = error_details_pb2.ErrorInfo(reason="x", metadata=self.verdicts)
            detail = any_pb2.Any()
            detail.Pack(info)
            status = status_pb2.Status(code=9, details=[detail])
            self.acknowledged += [ack_id for ack_id in request.ack_ids if ack_id not in self.verdicts]
            self.verdicts = {}
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "some")
        self.acknowledged += request.ack_ids
        return Empty()

    def _publish(self, request: Any, context: Any) -> Any:
        self.published += [message.data for message in request.messages]
        return types.PublishResponse.pb()(message_ids=["1"] * len(request.messages))

    def hand_out(self, n: int, first: int = 0) -> None:
        received = types.ReceivedMessage.pb()
        self.messages = [
            received(ack_id=f"a{i}", message=Message(data=b"%d" % i, message_id=str(i)))
            for i in range(first, first + n)
        ]


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(pubsub_client, "REFUSED_FOR_S", 0.2)
    for module in (pubsub_pull, pubsub_sink):
        monkeypatch.setattr(module, "_FIRST_PAUSE_S", 0.01)
        monkeypatch.setattr(module, "_LONGEST_PAUSE_S", 0.02)
    monkeypatch.setattr(pubsub_pull, "_SAY_AFTER_S", 0.1)
    monkeypatch.setattr(pubsub_sink, "_SAY_AWAY_AFTER_S", 0.1)
    metrics.STATE.reset()
    # With SO_REUSEPORT, gRPC's default, two processes of the tests may be given one port.
    server = grpc.server(ThreadPoolExecutor(12), options=[("grpc.so_reuseport", 0)])
    handler = Service()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv(EMULATOR, f"127.0.0.1:{port}")
    yield handler
    SESSIONS.close_all()
    for puller in list(pubsub_pull.PULLERS.values()):
        puller.close()
    server.stop(None).wait()


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def reader_of(until_ms: int | None) -> PubSubReader:
    source = PubSubSource(ADDRESS, "events", until_ms=until_ms, quiet_s=0.5, settings=PullSettings(lease_s=1))
    reader = source.create_reader(None, None)
    assert isinstance(reader, PubSubReader)
    return reader


def finish(reader: PubSubReader) -> PubSubReader:
    mark = reader.get_checkpoint_mark()
    mark.finalize_checkpoint()
    return PubSubReader(reader._source, mark)


def go_through(service: Service, reader: PubSubReader, n: int, first: int) -> PubSubReader:
    """Messages are read and acknowledged."""
    service.hand_out(n, first)
    until(reader.advance)
    assert reader.get_current().num_rows == n
    reader = finish(reader)
    until(lambda: len(service.acknowledged) == first + n)
    return reader


@pytest.mark.parametrize("bounded", [False, True], ids=["live", "bounded"])
@pytest.mark.parametrize("method", ["StreamingPull", "Acknowledge"])
def test_any_code_is_overcome_if_it_passes(
    service: Service, method: str, bounded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pubsub_client, "REFUSED_FOR_S", 60)  # longer than any pass here takes, however busy the machine
    reader = reader_of(10**13 if bounded else None)
    sent = 0

    def all_acknowledged() -> bool:
        return len(service.acknowledged) == sent

    for code in CODES:
        reader = go_through(service, reader, 2, sent)
        sent += 2
        service.calls.clear()
        service.codes[method] = code
        if method == "Acknowledge":
            service.hand_out(1, sent)
            until(reader.advance)
            reader = finish(reader)
            sent += 1
        until(lambda: service.calls.count(method) >= 2)
        assert not reader.advance()  # neither an error nor the end
        assert reader.get_watermark() < MAX_TIMESTAMP
        del service.codes[method]
        until(all_acknowledged)
    until(lambda: metrics.STATE.snapshot()[metrics.RECORDS_COMMITTED] == sent)
    assert metrics.STATE.snapshot()[metrics.RECORDS_READ] == sent
    reader.close()


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_a_lease_that_is_not_taken_or_given_back_runs_out(service: Service, code: grpc.StatusCode) -> None:
    reader = go_through(service, reader_of(None), 1, 0)
    service.codes["ModifyAckDeadline"] = code
    service.hand_out(1, 1)
    until(reader.advance)
    again = PubSubReader(reader._source, reader._mark)  # the bundle is lost
    reader.get_checkpoint_mark()
    again = go_through(service, again, 1, 1)
    assert "ModifyAckDeadline" in service.calls
    again.close()


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_a_stream_that_fails_for_good(
    service: Service, code: grpc.StatusCode, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beam_jobs.io.reading._PATIENCE_S", 0.1)
    reader = go_through(service, reader_of(None), 1, 0)  # it is connected: what fails now is the stream
    service.codes["StreamingPull"] = code
    if code in MENDED_BY_HAND:
        with pytest.raises(UserError, match=f"{ADDRESS}: {MENDED_BY_HAND[code]}"):
            until(reader.advance)
    else:
        until(lambda: reader.advance() or "waiting" in caplog.text)
        assert f"nothing can be read ({code.name}: as told)" in caplog.text
        del service.codes["StreamingPull"]
        go_through(service, reader, 1, 1).close()
    reader.close()


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_acknowledging_that_fails_for_good(
    service: Service, code: grpc.StatusCode, caplog: pytest.LogCaptureFixture
) -> None:
    """What is finished and not acknowledged is never counted as committed."""
    reader = reader_of(None)
    service.codes["Acknowledge"] = code
    service.hand_out(3)
    until(reader.advance)
    reader = finish(reader)
    if code in MENDED_BY_HAND:
        with pytest.raises(UserError, match=f"{MENDED_BY_HAND[code]}.*; 3 messages are finished and not acknowledged"):
            until(reader.advance)
        assert metrics.STATE.snapshot()[metrics.RECORDS_COMMITTED] == 0
    else:
        until(lambda: reader.advance() or "takes no acknowledgements" in caplog.text)
        assert f"({code.name}: as told); 3 messages are finished and wait" in caplog.text
        assert caplog.text.count("takes no acknowledgements") == 1
        del service.codes["Acknowledge"]
        until(lambda: "takes acknowledgements again" in caplog.text)
        assert metrics.STATE.snapshot()[metrics.RECORDS_COMMITTED] == 3
    reader.close()


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_publishing_that_fails(service: Service, code: grpc.StatusCode, caplog: pytest.LogCaptureFixture) -> None:
    sink = PublishBlocks(ADDRESS)
    block = pa.record_batch({"key": pa.array([b"k", None]), "value": pa.array([b"1", b"2"])})
    sink.setup()
    sink.start_bundle()
    service.codes["Publish"] = code
    wrote = sink._pool.submit(sink.process, block, timestamp=MAX_TIMESTAMP)
    try:
        if code in MENDED_BY_HAND:
            error = wrote.exception(20)
            assert isinstance(error, UserError)
            assert f"{ADDRESS}: " in str(error)
            assert not service.published
        else:
            until(lambda: "takes no messages" in caplog.text)
            assert code.name in caplog.text
    finally:
        service.codes.clear()  # or the sink would wait for ever
    if code not in MENDED_BY_HAND:
        wrote.result(20)
        assert sorted(service.published) == [b"1", b"2"]
    sink.teardown()


@pytest.mark.parametrize("verdict", ["PERMANENT_FAILURE_INVALID_ACK_ID", "TRANSIENT_FAILURE_SERVICE_UNAVAILABLE"])
def test_acknowledgements_of_exactly_once_delivery(service: Service, verdict: str) -> None:
    """A deadline that has passed is told message by message: it comes again, and is then acknowledged."""
    reader = reader_of(None)
    service.verdicts = {"a1": verdict}
    service.hand_out(3)
    until(reader.advance)
    reader = finish(reader)
    if verdict.startswith("PERMANENT"):
        until(lambda: metrics.STATE.snapshot()[metrics.RECORDS_COMMITTED] == 2)
        service.hand_out(1, 1)
        until(lambda: reader.advance() or metrics.STATE.snapshot()[metrics.REDELIVERED] == 1)
        reader = finish(reader)
    until(lambda: metrics.STATE.snapshot()[metrics.RECORDS_COMMITTED] == 3)
    assert sorted(service.acknowledged) == ["a0", "a1", "a2"]
    reader.close()


@pytest.mark.parametrize(("field", "value"), [("topic", "_deleted-topic_"), ("detached", True)])
def test_a_subscription_without_its_topic_is_told(
    service: Service, field: str, value: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pubsub_pull, "_LOOK_S", 0.05)
    reader = reader_of(None)
    go_on = go_through(service, reader, 1, 0)
    setattr(service.subscription, field, value)
    until(lambda: go_on.advance() or "nothing more will come" in caplog.text)
    go_on = go_through(service, go_on, 1, 1)  # what it holds is read
    until(lambda: service.calls.count("GetSubscription") > 5)
    assert caplog.text.count("nothing more will come") == 1
    go_on.close()


def test_a_refusal_long_ago_says_nothing_of_one_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pubsub_pull, "_SETTLED_S", 0.0)
    monkeypatch.setattr(pubsub_client, "REFUSED_FOR_S", 0.0)
    refusals = pubsub_client.Refusals(ADDRESS)

    class RefusedError(Exception):
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.NOT_FOUND

        def details(self) -> str:
            return "gone"

    monkeypatch.setattr(pubsub_client, "REFUSED_FOR_S", 5.0)
    assert refusals.seen(RefusedError()) is None
    refusals.none()
    monkeypatch.setattr(pubsub_client, "REFUSED_FOR_S", 0.0)
    assert refusals.seen(RefusedError()) is not None


class _Denied(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A mock: the fake knows no rights. Every method is denied, but for the one that asks which rights there are."""

    def __init__(self, granted: list[str]) -> None:
        self._granted = granted

    def service(self, details: Any) -> Any:
        if details.method.endswith("TestIamPermissions"):
            return grpc.unary_unary_rpc_method_handler(
                lambda request, _: iam.TestIamPermissionsResponse(permissions=self._granted),
                iam.TestIamPermissionsRequest.FromString,
                iam.TestIamPermissionsResponse.SerializeToString,
            )
        return grpc.unary_unary_rpc_method_handler(
            lambda _, context: context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")
        )


@pytest.mark.parametrize("granted", [[], ["pubsub.topics.publish"]])
def test_a_publisher_need_not_be_a_viewer(monkeypatch: pytest.MonkeyPatch, granted: list[str]) -> None:
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((_Denied(granted),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv(EMULATOR, f"127.0.0.1:{port}")
    try:
        if granted:
            pubsub_client.check_topic(PubSubAddress("lab-project", "events"))
        else:
            with pytest.raises(UserError, match=r"access denied .*roles/pubsub.publisher"):
                pubsub_client.check_topic(PubSubAddress("lab-project", "events"))
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize(
    ("key_file", "said"),
    [("/no/such/key.json", "can't be read .*no/such/key.json"), ("", "no Google credentials;")],
)
def test_without_credentials_it_is_told_at_once(
    key_file: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(EMULATOR, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", key_file)
    started = time.monotonic()
    with pytest.raises(UserError, match=said):
        pubsub_client.check_topic(PubSubAddress("lab-project", "events"))
    assert time.monotonic() - started < 15  # google-auth alone would look around for 20 s
