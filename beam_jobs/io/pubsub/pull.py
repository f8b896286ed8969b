"""Streaming pull without Beam: messages in, leases kept, acknowledgements out, each message handed out once."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from google.protobuf.empty_pb2 import Empty
from google.pubsub_v1 import types
from google.rpc import error_details_pb2, status_pb2
from numpy.typing import NDArray

from beam_jobs import metrics
from beam_jobs.errors import UserError, one_line
from beam_jobs.expiring_ids import ExpiringIds
from beam_jobs.io import acknowledged
from beam_jobs.io.pubsub.address import PubSubAddress
from beam_jobs.io.pubsub.client import Refusals, call, channel, find_subscription
from beam_jobs.io.pubsub.messages import message_numbers, publish_millis
from beam_jobs.io.reading import Outage

_LOGGER = logging.getLogger(__name__)

_StreamingPullRequest = types.StreamingPullRequest.pb()
_StreamingPullResponse = types.StreamingPullResponse.pb()
_AcknowledgeRequest = types.AcknowledgeRequest.pb()
_ModifyAckDeadlineRequest = types.ModifyAckDeadlineRequest.pb()

IDS_PER_REQUEST = 1000  # 2,500 of the longest ids are more than a request may have
_CALL_TIMEOUT_S = 10.0
_HEARTBEAT_S = 30.0  # the service drops streams it hears nothing of
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 1.0  # before a broken stream is opened again
_PURGE_S = 60.0
_SETTLED_S = 1.0  # a stream open this long without an error is taken to work
_SAY_AFTER_S = 10.0  # what fails for less is not reported
_LOOK_S = 30.0  # without a message, the service is asked whether any can come
_DELETED = "_deleted-topic_"  # the service's name for it
_ORPHANED_S = 600.0  # how long leases of a closed reader's messages are kept for the end of their bundle


@dataclass(frozen=True)
class PullSettings:
    """How a subscription is read."""

    streams: int = 1  # the service gives a stream about 10 MB/s
    max_messages: int = 200_000  # handed to us and not yet acknowledged
    max_bytes: int = 256 << 20
    lease_s: int = 20  # after a kill, this long until others get our messages
    dedupe_s: float = 600.0  # a message that comes again within this time is dropped
    acknowledge: bool = True  # False: what was read is given back at the end


@dataclass
class _Batch:
    """What was handed out between two checkpoints."""

    ack_ids: list[str] = field(default_factory=list)  # of messages that came again as well
    numbers: list[NDArray[np.int64]] = field(default_factory=list)  # of those that were handed out
    again: int = 0  # messages that came again
    late: int = 0  # acknowledgements that came too late

    def records(self) -> int:
        """How many were handed out."""
        return sum(map(len, self.numbers))


@dataclass(frozen=True)
class Pulled:
    """Messages handed out, n of them."""

    messages: list[Any]  # bare protobufs
    numbers: NDArray[np.int64]
    published_ms: NDArray[np.int64]


class Puller:
    """Reads one subscription in threads of its own; the methods are for one thread, the reader's.

    Args:
      until_ms: messages published at or after this time are kept back, and given back at the end; None: none are.
    """

    def __init__(self, subscription: PubSubAddress, settings: PullSettings, until_ms: int | None) -> None:
        self.id = uuid.uuid4().hex
        self.ordered = False  # whether the subscription keeps the order of keys
        self.error: Exception | None = None  # ended the streams for good
        self.outage = Outage(subscription)
        self._subscription, self._settings, self._until_ms = subscription, settings, until_ms
        self._lock = threading.Condition()
        self._queue: deque[Sequence[Any]] = deque()  # received, not handed out; bare ReceivedMessages
        self._queued = 0
        self._open = _Batch()
        self._batches: dict[int, _Batch] = {}  # cut, not acknowledged
        self._number = 0
        self._kept_back: list[str] = []
        self._to_ack: list[_Batch] = []
        self._bytes = 0.0  # of a message, on average
        self._seen = ExpiringIds()
        self._next_purge = 0.0
        self._closed = threading.Event()
        self._orphan_until = 0.0
        self._wake = threading.Event()  # of the thread that acknowledges
        self._acked = threading.Condition()
        self._unacked_since: float | None = None
        self._unacked_told = False
        self._late = 0  # acknowledgements that came too late, for messages that have not come again yet
        self._pull_refusals, self._ack_refusals = Refusals(subscription), Refusals(subscription)
        self._next_look = time.monotonic()
        self._told_of_topic = False
        self._calls: list[Any] = []
        self._opened: list[float | None] = [None] * settings.streams
        self._pull = channel().stream_stream(
            "/google.pubsub.v1.Subscriber/StreamingPull",
            _StreamingPullRequest.SerializeToString,
            _StreamingPullResponse.FromString,
        )
        self._acknowledge = call("Subscriber/Acknowledge", _AcknowledgeRequest, Empty)
        self._modify_deadline = call("Subscriber/ModifyAckDeadline", _ModifyAckDeadlineRequest, Empty)
        PULLERS[self.id] = self
        for i in range(settings.streams):
            threading.Thread(target=self._stream, args=(i,), name="highbeam-pull", daemon=True).start()
        threading.Thread(target=self._keep, name="highbeam-leases", daemon=True).start()
        metrics.inc(metrics.READERS_CREATED)

    # The reader's side.

    def fetch(self, max_rows: int, wait_s: float, linger_s: float) -> Pulled | None:
        """Waits up to ``wait_s`` for a message, then up to ``linger_s`` for more; None: there is none.

        Raises:
          UserError: the service refuses to hand out messages, or to take acknowledgements.
        """
        if self.connected():
            self.outage.over()
        with self._lock:
            self._lock.wait_for(lambda: self._queue or self.error, wait_s)
            if self._queue and self._queued < max_rows and linger_s:
                self._lock.wait_for(lambda: self._queued >= max_rows or self.error, linger_s)
            if self.error and not self._queue:
                raise self.error
            received: list[Any] = []
            while self._queue and len(received) < max_rows:
                part = self._queue.popleft()
                room = max_rows - len(received)
                if len(part) > room:
                    self._queue.appendleft(part[room:])
                    part = part[:room]
                received.extend(part)
            self._queued -= len(received)
            self._lock.notify_all()
        return self._take(received) if received else None

    def _take(self, received: list[Any]) -> Pulled | None:
        """Hands out what is wanted and was not handed out before."""
        messages = [entry.message for entry in received]
        published = publish_millis(messages)
        numbers = message_numbers([message.message_id for message in messages])
        ack_ids = [entry.ack_id for entry in received]
        late = np.zeros(len(numbers), np.bool_) if self._until_ms is None else published >= self._until_ms
        fresh = ~self._seen.holds(numbers) & ~late
        fresh[np.setdiff1d(np.arange(len(numbers)), np.unique(numbers, return_index=True)[1])] = False
        again = int((~fresh & ~late).sum())
        metrics.inc(metrics.REDELIVERED, again)
        with self._lock:
            if late.any():
                self._kept_back += [ack_ids[i] for i in np.flatnonzero(late).tolist()]
                ack_ids = [ack_ids[i] for i in np.flatnonzero(~late).tolist()]
            # With those that came before, done or in hand: this batch is acknowledged after the one they came in.
            self._open.ack_ids += ack_ids
            if not fresh.all():
                keep = np.flatnonzero(fresh)
                messages, published, numbers = [messages[i] for i in keep.tolist()], published[keep], numbers[keep]
            self._open.numbers.append(numbers)
            self._open.again += again
        now = time.time()
        if now >= self._next_purge:
            self._next_purge = now + _PURGE_S
            self._seen.purge(now)
        self._seen.add(numbers, int(now + self._settings.dedupe_s), now)
        return Pulled(messages, numbers, published) if messages else None

    def cut(self) -> int:
        """Ends a batch; its number, for :meth:`acknowledge`."""
        with self._lock:
            self._number += 1
            self._batches[self._number] = self._open
            self._open = _Batch()
            return self._number

    def full(self) -> bool:
        """Whether the service holds messages back until some are acknowledged."""
        with self._lock:
            return self._outstanding() >= 0.8 * self._limit()

    def connected(self) -> bool:
        """Whether all streams have been open for a moment without an error."""
        limit = time.monotonic() - _SETTLED_S
        return all(opened is not None and opened <= limit for opened in self._opened)

    def abandon_after(self, number: int) -> None:
        """Gives back what was handed out after batch ``number``: its bundle failed, or was lost."""
        with self._lock:
            lost = [self._batches.pop(n) for n in sorted(self._batches) if n > number]
            lost.append(self._open)
            self._open = _Batch()
        for batch in lost:
            for numbers in batch.numbers:
                self._seen.discard(numbers)
        self._modify([ack_id for batch in lost for ack_id in batch.ack_ids], 0)

    def acknowledge(self, number: int, wait_s: float) -> None:
        """Acknowledges all batches up to ``number``, in the background; waits up to ``wait_s`` for the service."""
        with self._lock:
            done = [self._batches.pop(n) for n in sorted(self._batches) if n <= number]
            if not self._settings.acknowledge:
                ack_ids = [ack_id for batch in done for ack_id in batch.ack_ids]
                self._kept_back += ack_ids
        if not self._settings.acknowledge:
            if self._closed.is_set():
                self._modify(ack_ids, 0)
            return
        with self._acked:
            self._to_ack += done
            self._wake.set()
            if wait_s:
                self._acked.wait_for(lambda: not self._to_ack, wait_s)

    def close(self) -> None:
        """Ends the streams and gives back what was not handed out; what was handed out can still be acknowledged."""
        if self._closed.is_set():
            return
        self._orphan_until = time.monotonic() + _ORPHANED_S
        self._closed.set()
        for stream in list(self._calls):
            stream.cancel()
        with self._lock:
            rest = [entry.ack_id for part in self._queue for entry in part] + self._kept_back
            self._queue.clear()
            self._queued, self._kept_back = 0, []
            self._lock.notify_all()
        self._wake.set()
        self._modify(rest, 0)

    # The service's side.

    def _limit(self) -> int:
        by_bytes = self._settings.max_bytes / self._bytes if self._bytes else self._settings.max_messages
        return int(min(self._settings.max_messages, by_bytes))

    def _outstanding(self) -> int:
        cut = sum(len(batch.ack_ids) for batch in self._batches.values())
        return self._queued + len(self._open.ack_ids) + cut + len(self._kept_back)

    def _stream(self, index: int) -> None:
        pause = _FIRST_PAUSE_S
        routed = (("x-goog-request-params", f"subscription={self._subscription.subscription_path}"),)
        while not self._closed.is_set():
            ended = threading.Event()
            stream = self._pull(self._requests(ended), metadata=routed)
            self._calls.append(stream)
            opened = self._opened[index] = time.monotonic()
            try:
                for response in stream:
                    pause = _FIRST_PAUSE_S
                    self._receive(response)
            except grpc.RpcError as error:
                if not self._closed.is_set():
                    self._failed(error, time.monotonic() - opened)
            finally:
                ended.set()
                self._calls.remove(stream)
                self._opened[index] = None
            if self.error is not None or self._closed.wait(pause):
                return
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _requests(self, ended: threading.Event) -> Iterator[Any]:
        streams = self._settings.streams
        yield _StreamingPullRequest(
            subscription=self._subscription.subscription_path,
            stream_ack_deadline_seconds=self._settings.lease_s,
            client_id=self.id,
            max_outstanding_messages=self._settings.max_messages // streams,
            max_outstanding_bytes=self._settings.max_bytes // streams,
        )
        while not ended.wait(_HEARTBEAT_S):
            yield _StreamingPullRequest()

    def _receive(self, response: Any) -> None:
        self.outage.over()
        self._pull_refusals.none()
        self._next_look = time.monotonic() + _LOOK_S
        self.ordered = response.subscription_properties.message_ordering_enabled
        received = response.received_messages
        if not received:
            return
        size = response.ByteSize() / len(received)
        with self._lock:
            self._bytes = size if not self._bytes else 0.9 * self._bytes + 0.1 * size
            self._queue.append(received)
            self._queued += len(received)
            self._lock.notify_all()
            # Where a fake or a proxy knows no flow control, the connection's own holds the service back.
            self._lock.wait_for(lambda: self._closed.is_set() or self._queued <= self._limit())

    def _failed(self, error: Any, lived_s: float) -> None:
        """A stream ended; ``lived_s``: after so many seconds."""
        if lived_s > 5 * _SETTLED_S:
            self._pull_refusals.none()
        self.outage.seen(f"{error.code().name}: {one_line(error.details(), 300)}")
        self._end(self._pull_refusals.seen(error))

    def _end(self, error: Exception | None) -> None:
        """Ends reading with an error, if there is one: the reader raises it."""
        if error is not None:
            with self._lock:
                self.error = self.error or error
                self._lock.notify_all()

    def _keep(self) -> None:
        """The thread that extends leases and acknowledges."""
        next_lease = time.monotonic() + self._settings.lease_s / 3
        pause: float | None = None
        while True:
            self._wake.wait(max(0.0, next_lease - time.monotonic()) if pause is None else pause)
            self._wake.clear()
            pause = None if self._send_acks() else min(2 * (pause or _FIRST_PAUSE_S / 2), _LONGEST_PAUSE_S)
            with self._lock:
                mine = [self._open, *self._batches.values()]
                leased = [ack_id for batch in mine for ack_id in batch.ack_ids] + self._kept_back
                leased += [entry.ack_id for part in self._queue for entry in part]
            if self._closed.is_set() and (time.monotonic() >= self._orphan_until or (pause is None and not leased)):
                PULLERS.pop(self.id, None)
                return
            if not self._closed.is_set() and time.monotonic() >= self._next_look:
                self._next_look = time.monotonic() + _LOOK_S
                self._look()
            if time.monotonic() >= next_lease:
                next_lease = time.monotonic() + self._settings.lease_s / 3
                self._modify(leased, self._settings.lease_s)

    def _look(self) -> None:
        """Says once that the subscription gets no messages any more; the service's streams say nothing of it."""
        try:
            found = find_subscription(self._subscription)
        except UserError:
            return  # whoever reads it hears the same
        if found is None or not (found.detached or found.topic == _DELETED):
            self._told_of_topic = False
        elif not self._told_of_topic:
            self._told_of_topic = True
            what = "is detached from its topic" if found.detached else "has lost its topic, which was deleted"
            _LOGGER.warning("%s: %s; what it holds is read, and nothing more will come", self._subscription, what)

    def _send_acks(self) -> bool:
        """Sends what is to be acknowledged; whether all of it is out."""
        while True:
            with self._acked:
                if not self._to_ack:
                    self._acked.notify_all()
                    return True
                batch = self._to_ack[0]
            while batch.ack_ids:
                ids = batch.ack_ids[:IDS_PER_REQUEST]
                request = _AcknowledgeRequest(subscription=self._subscription.subscription_path, ack_ids=ids)
                again: list[str] = []
                try:
                    self._acknowledge(request, timeout=_CALL_TIMEOUT_S)
                except grpc.RpcError as error:
                    metrics.inc(metrics.COMMIT_FAILURES)
                    verdicts = _verdicts(error)
                    if not verdicts:
                        self._not_acked(error)
                        return False
                    again = [ack_id for ack_id in ids if verdicts.get(ack_id, "").startswith("TRANSIENT")]
                    batch.late += sum(verdicts.get(ack_id, "").startswith("PERMANENT") for ack_id in ids)
                batch.ack_ids[: len(ids)] = again
                if again:
                    return False
            self._batch_acked(batch)
            with self._acked:
                self._to_ack.pop(0)

    def _batch_acked(self, batch: _Batch) -> None:
        """All of a batch is acknowledged, but for what came too late."""
        self._ack_refusals.none()
        if self._unacked_told and self._unacked_since is not None:
            waited = time.monotonic() - self._unacked_since
            _LOGGER.warning("%s: takes acknowledgements again after %.1f s", self._subscription, waited)
        self._unacked_since, self._unacked_told = None, False
        come_again = min(batch.again, self._late)
        late = min(batch.late, batch.records())
        self._late += late - come_again
        metrics.inc(metrics.RECORDS_COMMITTED, batch.records() - late + come_again)
        metrics.inc(metrics.OFFSETS_COMMITTED)
        if late:
            _LOGGER.warning("%s: %d acknowledgements were late; those messages come again", self._subscription, late)
        else:
            for numbers in batch.numbers:
                acknowledged.tell(self._subscription.topic, numbers)

    def _not_acked(self, error: Any) -> None:
        """Acknowledging failed as a whole: says so if it lasts, and ends reading where it can't succeed."""
        now = time.monotonic()
        self._unacked_since = self._unacked_since or now
        with self._acked:
            waiting = sum(batch.records() for batch in self._to_ack)
        refused = self._ack_refusals.seen(error)
        if refused is not None:
            text = f"{refused}; {waiting:,} messages are finished and not acknowledged: they come again"
            self._end(UserError(text))
        elif now - self._unacked_since > _SAY_AFTER_S and not self._unacked_told:
            self._unacked_told = True
            text = "%s: takes no acknowledgements (%s: %s); %d messages are finished and wait"
            _LOGGER.warning(text, self._subscription, error.code().name, one_line(error.details()), waiting)

    def _modify(self, ack_ids: list[str], seconds: int) -> None:
        """Sets the leases of messages, 0 to give them back; a failure only means that they run out."""
        for start in range(0, len(ack_ids), IDS_PER_REQUEST):
            request = _ModifyAckDeadlineRequest(
                subscription=self._subscription.subscription_path,
                ack_ids=ack_ids[start : start + IDS_PER_REQUEST],
                ack_deadline_seconds=seconds,
            )
            try:
                self._modify_deadline(request, timeout=_CALL_TIMEOUT_S)
            except grpc.RpcError as error:
                _LOGGER.debug("%s: leases: %s", self._subscription, one_line(error.details()))
                return


def _verdicts(error: Any) -> dict[str, str]:
    """What exactly-once delivery says of single messages, by acknowledge id; all others are acknowledged."""
    found: dict[str, str] = {}
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    found.update((k, v) for k, v in info.metadata.items() if v.startswith(("PERMANENT", "TRANSIENT")))
    return found


PULLERS: dict[str, Puller] = {}
"""Those of this process that may still have something to acknowledge, by id."""
