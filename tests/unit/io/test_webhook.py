"""Posts that are signed, tried again, given up, and never waited for."""

from __future__ import annotations

import base64
import hashlib
import hmac
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from beam_jobs.errors import UnreachableError, UserError
from beam_jobs.io import webhook
from beam_jobs.io.line import Answer, Line
from beam_jobs.io.webhook import Message, Sender, WebhookSettings, pause, signature
from beam_jobs.sandbox.process import free_port
from tests.services.hook import Hook, Raw

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
MESSAGES = [Message(f"t-0-{i}", b'{"id":"t-0-%d"}' % i) for i in range(5)]


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    monkeypatch.setattr(webhook, "_FIRST_WAIT_S", 0.01)


@pytest.fixture
def senders() -> Iterator[Callable[..., Sender]]:
    made: list[Sender] = []

    def sender(url: str, **more: float) -> Sender:
        made.append(Sender(replace(WebhookSettings(url, "env:HOOK_SECRET"), **more)))  # type: ignore[arg-type]
        return made[-1]

    yield sender
    for each in made:
        each.close()


def test_posts_are_json_signed_and_in_order(senders: Callable[..., Sender]) -> None:
    with Hook() as hook:
        sender = senders(hook.url)
        sender.offer(MESSAGES)
        sender.settle()
    assert sender.outcomes() == (5, [])
    assert sender.outcomes() == (0, [])
    assert [post.body for post in hook.posts] == [message.body for message in MESSAGES]
    for post, message in zip(hook.posts, MESSAGES, strict=True):
        assert post.headers["content-type"] == "application/json"
        assert post.headers["webhook-id"] == message.id
        stamp = post.headers["webhook-timestamp"]
        assert abs(int(stamp) - time.time()) < 60
        text = f"{message.id}.{stamp}.".encode() + message.body
        made = hmac.new(b"0123456789abcdef0123456789abcdef", text, hashlib.sha256).digest()
        assert post.headers["webhook-signature"] == f"v1,{base64.b64encode(made).decode()}"


def test_the_signature_is_the_one_of_the_standard() -> None:
    """The example of the specification and of its libraries."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    wanted = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    body = b'{"test": 2432232314}'
    assert signature([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == wanted
    both = signature([b"a new secret", key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert both.split(" ")[1] == wanted


def test_over_https_with_a_certificate_that_is_known(
    senders: Callable[..., Sender], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Hook(certificates=tmp_path) as hook:
        stranger = senders(hook.url, patience_s=0.0)
        stranger.offer(MESSAGES[:1])
        stranger.settle()
        assert [each.why for each in stranger.outcomes()[1]] == ["the webhook can't be reached: SSLError"]
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(hook.certificate))
        sender = senders(hook.url)
        sender.offer(MESSAGES)
        sender.settle()
    assert sender.outcomes() == (5, [])
    assert len(hook.posts) == 5


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_what_may_pass_is_tried_again_until_it_is_taken(status: int, senders: Callable[..., Sender]) -> None:
    with Hook(lambda n: (status if n < 3 else 200, {})) as hook:
        sender = senders(hook.url)
        sender.offer(MESSAGES)
        hook.wait_for(8)
        sender.settle()
    assert sender.outcomes() == (5, [])
    assert [post.headers["webhook-id"] for post in hook.posts] == ["t-0-0"] * 4 + [m.id for m in MESSAGES[1:]]


@pytest.mark.parametrize("status", [400, 401, 404, 410, 302])
def test_what_is_refused_for_good_is_given_up_at_once(status: int, senders: Callable[..., Sender]) -> None:
    elsewhere = {"location": "http://127.0.0.1:1/"}  # nobody follows it: the signature is for this URL
    with Hook(lambda n: (status if n == 0 else 200, elsewhere)) as hook:
        sender = senders(hook.url)
        sender.offer(MESSAGES)
        sender.settle()
    delivered, given_up = sender.outcomes()
    assert delivered == 4
    assert [(each.message, each.why) for each in given_up] == [(MESSAGES[0], f"the webhook answered {status}")]


def test_it_waits_as_long_as_it_is_asked_to(senders: Callable[..., Sender]) -> None:
    with Hook(lambda n: (429 if n == 0 else 200, {"retry-after": "1"})) as hook:
        sender = senders(hook.url)
        began = time.monotonic()
        sender.offer(MESSAGES[:1])
        hook.wait_for(2)
        assert time.monotonic() - began >= 1
        sender.settle()
    assert sender.outcomes() == (1, [])


def test_one_that_is_away_stops_nobody(senders: Callable[..., Sender]) -> None:
    """What there is no room for is given up at once, the rest after its patience, or at the end of the job."""
    url = f"http://127.0.0.1:{free_port()}/"
    sender = senders(url, queue=3, closing_s=0.2)
    began = time.monotonic()
    for message in MESSAGES:
        sender.offer([message])
    assert time.monotonic() - began < 5
    delivered, given_up = sender.outcomes()
    assert (delivered, [each.message.id for each in given_up]) == (0, ["t-0-3", "t-0-4"])
    assert given_up[0].why == "3 alerts were waiting for the webhook already"
    sender.settle()
    left = sender.outcomes()[1]
    assert [each.message.id for each in left] == ["t-0-0", "t-0-1", "t-0-2"]
    assert {each.why for each in left} == {"the job ended before the webhook took it"}
    sender.offer(MESSAGES[:1])
    began = time.monotonic()
    sender.settle()  # what a job waits is bounded in all
    assert time.monotonic() - began < 0.2
    impatient = senders(url, patience_s=0.0)
    impatient.offer(MESSAGES)
    impatient.settle()
    assert {each.why for each in impatient.outcomes()[1]} == {"the webhook can't be reached: ConnectionError"}


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello", None),
        (b"HTTP/1.1 204 No Content\r\nConnection: close\r\nContent-Length: 7\r\n\r\n", None),
        (b"HTTP/1.1 400 No\r\nContent-Length: 100\r\n\r\nhello", "the webhook answered 400"),
        (b"HTTP/1.1 20\r\n\r\n", "the webhook can't be reached: ConnectionError"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n", "the webhook can't be reached: InvalidHeader"),
        (b"", "the webhook can't be reached: ConnectionError"),
    ],
)
def test_whatever_a_server_says_the_next_ones_are_posted(
    answer: bytes, why: str | None, senders: Callable[..., Sender]
) -> None:
    with Raw(answer) as server:
        sender = senders(server.url, patience_s=0.0)
        sender.offer(MESSAGES[:3])
        sender.settle()
        assert server.came == 3
    delivered, given_up = sender.outcomes()
    assert (delivered, [each.why for each in given_up]) == ((0, [why] * 3) if why else (3, []))


def test_what_nobody_expects_is_a_failed_try(senders: Callable[..., Sender], monkeypatch: pytest.MonkeyPatch) -> None:
    failures = iter([RuntimeError("can't start new thread"), MemoryError(), KeyError("x")])
    post = Line.post

    def fails(self: Line, body: bytes, headers: dict[str, str]) -> Answer:
        for failure in failures:
            raise failure
        return post(self, body, headers)

    monkeypatch.setattr(Line, "post", fails)
    with Hook() as hook:
        sender = senders(hook.url)
        sender.offer(MESSAGES)
        sender.settle()
    assert sender.outcomes() == (5, [])


@pytest.mark.parametrize("tls", [False, True])
def test_a_try_ends_in_time_however_slowly_a_server_drips(tls: bool, senders: Callable[..., Sender]) -> None:
    with Raw(b"\x16\x03\x03\x3f\xff" if tls else b"HTTP/1.1 200 OK\r\nx-slow: ", drips=0.02) as server:
        url = server.url.replace("http:", "https:") if tls else server.url
        sender = senders(url, timeout_s=0.2, patience_s=0.0)
        began = time.monotonic()
        sender.offer(MESSAGES[:2])
        sender.settle()
        assert time.monotonic() - began < 3
        assert [each.why for each in sender.outcomes()[1]] == ["the webhook can't be reached: no answer in 0.2 s"] * 2
        assert all(server.left.acquire(timeout=10) for _ in range(2))  # nothing of it is left open


def test_an_answer_that_is_taken_is_taken_however_slow_its_body_is(senders: Callable[..., Sender]) -> None:
    with Raw(b"HTTP/1.1 200 OK\r\n\r\n", drips=0.005) as server:
        sender = senders(server.url, timeout_s=5.0)
        sender.offer(MESSAGES[:2])
        sender.settle()
        assert all(server.left.acquire(timeout=10) for _ in range(2))
    assert sender.outcomes() == (2, [])


def test_a_connection_is_kept_where_answers_have_no_body(senders: Callable[..., Sender]) -> None:
    with Hook() as hook:
        sender = senders(hook.url)
        sender.offer(MESSAGES)
        sender.settle()
        assert hook.connections == 1


def test_what_is_under_way_at_the_end_counts_as_it_is_answered(senders: Callable[..., Sender]) -> None:
    came, settled = threading.Event(), threading.Event()

    def answer(_: int) -> tuple[int, dict[str, str]]:
        came.set()
        assert settled.wait(10)
        return 200, {}

    with Hook(answer) as hook:
        sender = senders(hook.url, closing_s=0.0)
        sender.offer(MESSAGES)
        assert came.wait(10)
        threading.Timer(0.1, settled.set).start()
        sender.settle()
    delivered, given_up = sender.outcomes()
    assert (delivered, [each.message for each in given_up]) == (1, MESSAGES[1:])


def test_how_long_it_is_asked_to_wait() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert 85 < pause(soon) <= 90
    assert pause("3600") == 3600
    assert [pause(text) for text in ("", "soon", "-1", "٣", "Wed, 21 Oct 2015 07:28:00 GMT", "1.5")] == [0.0] * 6
    assert pause("9" * 400) > 1e8


def test_no_try_comes_before_the_server_wants_it(senders: Callable[..., Sender]) -> None:
    """And an alert is given up after its time all the same, as those behind it are."""
    with Hook(lambda _: (429, {"retry-after": "40"})) as hook:
        sender = senders(hook.url, patience_s=0.2)
        sender.offer(MESSAGES)
        sender.settle()
        assert len(hook.posts) == 1
    assert [each.why for each in sender.outcomes()[1]] == ["the webhook answered 429"] * 5


def test_neither_a_proxy_nor_a_password_of_the_machine_is_used(
    senders: Callable[..., Sender], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login me password hunter2\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with Raw(b"HTTP/1.1 200 OK\r\n\r\n") as proxy, Hook() as hook:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        sender = senders(hook.url)
        sender.offer(MESSAGES)
        sender.settle()
        assert sender.outcomes() == (5, [])
        assert all("authorization" not in post.headers for post in hook.posts)
        assert proxy.came == 0
        elsewhere = senders("https://hooks.example.com/", patience_s=0.0)  # CONNECT, so it sees no more than the host
        elsewhere.offer(MESSAGES[:1])
        elsewhere.settle()
        assert proxy.came == 1


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("hooks.example.com", "not an URL such as"),
        ("https://", "not an URL such as"),
        ("ftp://hooks.example.com/", "not an URL such as"),
        ("https://h:port/", "not an URL such as"),
        ("https://me:hunter2@hooks.example.com/", "has a password in it"),
        ("http://hooks.example.com/T0/B0/secret", "http://hooks.example.com…: alerts leave this machine encrypted"),
    ],
)
def test_what_is_no_webhook(url: str, error: str) -> None:
    with pytest.raises(UserError) as found:
        WebhookSettings(url, "env:HOOK_SECRET").check()
    assert error in str(found.value)
    assert "hunter2" not in str(found.value)
    assert "B0" not in str(found.value)


def test_secrets_are_read_where_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    settings = WebhookSettings("https://hooks.example.com/", f"file:{file}")
    with pytest.raises(UnreachableError):
        settings.check()
    file.write_text(f"{SECRET}\n\na secret of the time before\n")
    assert settings.keys() == [b"0123456789abcdef0123456789abcdef", b"a secret of the time before"]
    for wrong, error in (
        ("short", "fewer than 16 bytes"),
        ("\n", "fewer than"),
        ("whsec_*", "not base64"),
        ("whsec_ä", "not base64"),
    ):
        file.write_text(wrong)
        with pytest.raises(UserError, match=error):
            settings.keys()
    monkeypatch.setenv("HOOK_URL", "https://hooks.example.com/T0/B0")
    hidden = WebhookSettings("env:HOOK_URL", "env:HOOK_SECRET")
    hidden.check()
    assert (hidden.target(), hidden.host) == ("https://hooks.example.com/T0/B0", "env:HOOK_URL")


def test_steps_with_the_same_settings_share_a_sender() -> None:
    settings = WebhookSettings("https://hooks.example.com/", "env:HOOK_SECRET")
    assert webhook.sender(settings) is webhook.sender(replace(settings))
    webhook.sender(settings).close()
