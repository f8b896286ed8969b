"""Posts that are signed, tried again, given up, and never waited for."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from beam_jobs.errors import UnreachableError, UserError
from beam_jobs.io import webhook
from beam_jobs.io.webhook import Message, Sender, WebhookSettings, signature
from beam_jobs.sandbox.process import free_port
from tests.services.hook import Hook

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
    for wrong, error in (("short", "fewer than 16 bytes"), ("\n", "fewer than"), ("whsec_*", "not base64")):
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
