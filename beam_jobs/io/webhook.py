"""Posts messages to an URL, signed and in order, from a thread of its own: who hands one over never waits.

The headers are those of Standard Webhooks (standardwebhooks.com), which Svix, OpenAI and others send: ``webhook-id``,
``webhook-timestamp`` and ``webhook-signature: v1,BASE64``, the HMAC-SHA256 of "ID.TIMESTAMP.BODY".
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from beam_jobs.credentials.references import is_reference, read_secret
from beam_jobs.errors import UserError, one_line
from beam_jobs.io.line import Line, NoAnswerError

OPTION, SECRET_OPTION = "--alert_webhook", "--alert_webhook_secret"

_PREFIX = "whsec_"  # of a secret in base64
_LEAST_SECRET = 16  # bytes
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0  # between two tries, doubled each time
_MAY_PASS = (408, 425, 429)  # beside 5xx: answers after which the same message may be taken


@dataclass(frozen=True)
class Message:
    """What is posted, once as far as the receiver can tell: ``id`` is the same whenever it is sent again."""

    id: str
    body: bytes


@dataclass(frozen=True)
class Undelivered:
    """A message that was given up, and why."""

    message: Message
    why: str


@dataclass(frozen=True)
class WebhookSettings:
    """Where to post, and how patiently; picklable, holds no secret but what the URL is."""

    url: str  # or a reference to it
    secret: str  # a reference
    queue: int = 1000  # messages that wait; of more the newest are given up
    patience_s: float = 600.0  # how long a message is tried, from when it was handed over
    timeout_s: float = 10.0  # a try, in all
    closing_s: float = 10.0  # in all, that a job waits at its end for what is in the queue
    token: str = field(default_factory=lambda: uuid.uuid4().hex)  # steps with the same one share a sender in a process

    def check(self) -> None:
        """Refuses what can't be posted to.

        Raises:
          UnreachableError: a reference leads nowhere here.
          UserError: no URL of HTTPS, or no secret.
        """
        self.target()
        self.keys()

    def target(self) -> str:
        """The URL.

        Raises:
          as ``check``.
        """
        url = read_secret(self.url, OPTION) if is_reference(self.url) else self.url
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname or "", parts.port
        except ValueError:
            host = ""
        if not host or not url.isprintable() or " " in url or parts.scheme not in ("https", "http"):
            raise UserError(f"{OPTION}: not an URL such as https://hooks.example.com/alerts")
        if parts.username is not None or parts.password is not None:
            raise UserError(
                f"{OPTION}: the URL has a password in it, which logs would show; who posts is known by the signature"
            )
        if parts.scheme == "http" and not _is_here(host):
            raise UserError(f"{OPTION} http://{host}…: alerts leave this machine encrypted; use https://")
        return url

    @property
    def host(self) -> str:
        """Who is posted to, without what may be secret in the URL."""
        return self.url if is_reference(self.url) else urlsplit(self.url).netloc

    def keys(self) -> list[bytes]:
        """The secrets, a line each: every one signs, so that the receiver can change to the first at leisure.

        Raises:
          as ``check``.
        """
        lines = [line.strip() for line in read_secret(self.secret, SECRET_OPTION).splitlines() if line.strip()]
        keys = [_key(line) for line in lines]
        if not keys or min(map(len, keys)) < _LEAST_SECRET:
            raise UserError(f"{SECRET_OPTION}: fewer than {_LEAST_SECRET} bytes; make one with openssl rand -base64 32")
        return keys


def _key(text: str) -> bytes:
    if not text.startswith(_PREFIX):
        return text.encode(errors="surrogateescape")  # of a variable that is no UTF-8: the bytes it has
    try:
        return base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except ValueError:
        raise UserError(f"{SECRET_OPTION}: what stands behind {_PREFIX} is not base64; copy it again") from None


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def signature(keys: Sequence[bytes], id_: str, timestamp: int, body: bytes) -> str:
    """The header ``webhook-signature``: one of each key.

    >>> signature([b"secret"], "msg_1", 1614265330, b"{}")
    'v1,3/iD+UC/cFPl3PtRMPUcvEULlwun6jyVUEMvdX3yW5g='
    """
    text = b"%s.%d.%s" % (id_.encode(), timestamp, body)
    made = (base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode() for key in keys)
    return " ".join(f"v1,{each}" for each in made)


class Sender:
    """Posts messages one after the other, those that fail again and again with growing waits."""

    def __init__(self, settings: WebhookSettings) -> None:
        self._settings = settings
        self._keys, self._url = settings.keys(), settings.target()
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Message, float]] = deque()  # and since when, monotonic clock
        self._trying = False  # the first of them is under way
        self._given_up: list[Undelivered] = []
        self._delivered = 0
        self._closing_s = settings.closing_s
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._thread.start()

    def offer(self, messages: Sequence[Message]) -> None:
        """Hands messages over; those for which there is no room are undelivered. Returns at once."""
        with self._changed:
            room = max(0, self._settings.queue - len(self._waiting))
            self._waiting += [(message, time.monotonic()) for message in messages[:room]]
            full = f"{self._settings.queue:,} alerts were waiting for the webhook already"
            self._given_up += [Undelivered(message, full) for message in messages[room:]]
            self._changed.notify_all()

    def outcomes(self) -> tuple[int, list[Undelivered]]:
        """(how many were delivered, what was given up) since the last call."""
        with self._changed:
            found = self._delivered, self._given_up
            self._delivered, self._given_up = 0, []
            return found

    def settle(self) -> None:
        """Waits for what is in the queue, ``closing_s`` in all calls together, and gives up what is left then.

        A try that is under way then comes to its end, whose outcome counts: ``timeout_s`` more at most.
        """
        with self._changed:
            began = time.monotonic()
            self._changed.wait_for(lambda: not self._waiting, self._closing_s)
            self._closing_s = max(0.0, self._closing_s - (time.monotonic() - began))
            self._leave(int(self._trying))
            self._changed.wait_for(lambda: not self._trying, 2 * self._settings.timeout_s)
            self._leave(0)

    def _leave(self, but: int) -> None:
        left = "the job ended before the webhook took it"
        first = [self._waiting.popleft() for _ in range(min(but, len(self._waiting)))]
        self._given_up += [Undelivered(message, left) for message, _ in self._waiting]
        self._waiting = deque(first)
        self._changed.notify_all()

    def close(self) -> None:
        """Ends the thread; what still waits is not sent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        line = Line(self._url, self._settings.timeout_s, direct=_is_here(urlsplit(self._url).hostname or ""))
        wait_s = _FIRST_WAIT_S
        again = asked = 0.0  # not before, for the message, and for any: the server asked for it; monotonic clock
        why = ""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return line.close()
                message, since = self._waiting[0]
                end = since + self._settings.patience_s
                if self._wait(message, min(max(again, asked), end)):
                    again = 0.0
                    continue
                self._trying = asked <= end
            final, pause_s = True, 0.0
            if self._trying:
                why, final, pause_s = self._try(line, message)
            with self._changed:
                self._trying, now = False, time.monotonic()
                self._changed.notify_all()
                if not self._waiting or self._waiting[0][0] is not message:
                    continue  # given up meanwhile
                asked = max(asked, now + pause_s) if why and pause_s else asked
                if why and not final and now < end:
                    again = min(now + wait_s * random.uniform(0.5, 1.0), end)  # noqa: S311 - no secret
                    wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
                    continue
                if why:
                    self._given_up.append(Undelivered(message, why))
                else:
                    self._delivered += 1
                wait_s, again = _FIRST_WAIT_S, 0.0
                self._waiting.popleft()
                self._changed.notify_all()

    def _wait(self, message: Message, until: float) -> bool:
        """Waits; whether the message was given up meanwhile, or all is over."""

        def gone() -> bool:
            return self._closed or not self._waiting or self._waiting[0][0] is not message

        return self._changed.wait_for(gone, max(0.0, until - time.monotonic()))

    def _try(self, line: Line, message: Message) -> tuple[str, bool, float]:
        """(why it was not taken, whether that is final, how long to wait at least); "": it was taken."""
        timestamp = int(time.time())
        headers = {
            "webhook-id": message.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(self._keys, message.id, timestamp, message.body),
        }
        try:
            answer = line.post(message.body, headers)
            code, pause_s = answer.code, pause(answer.retry_after)
        except NoAnswerError as error:
            return f"the webhook can't be reached: {error}", False, 0.0
        except Exception as error:  # no thread for it, no memory: the next try may have
            return f"the webhook can't be reached: {one_line(type(error).__name__)}", False, 0.0
        if 200 <= code < 300:
            return "", True, 0.0
        final = code < 500 and code not in _MAY_PASS
        return f"the webhook answered {code}", final, 0.0 if final else pause_s


def pause(retry_after: str) -> float:
    """The seconds that the header asks for, as a number or as a date.

    >>> pause("120"), pause("Wed, 21 Oct 2015 07:28:00 GMT"), pause("soon")
    (120.0, 0.0, 0.0)
    """
    if retry_after.isascii() and retry_after.isdecimal():
        return float(retry_after[:9])
    try:
        at = parsedate_to_datetime(retry_after)
        return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - time.time())
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0


_HERE: dict[str, Sender] = {}
_LOCK = threading.Lock()


def sender(settings: WebhookSettings) -> Sender:
    """The sender of this process for these settings."""
    with _LOCK:
        if settings.token not in _HERE:
            _HERE[settings.token] = Sender(settings)
        return _HERE[settings.token]
