"""Logging in: PLAIN, OAUTHBEARER, and SCRAM with the example of RFC 7677."""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from beam_jobs.io.kafka.wire import sasl as kafka_sasl
from beam_jobs.io.kafka.wire.sasl import AUTHENTICATE, HANDSHAKE, AuthenticationError, authenticate

SCRAM = {"sasl.mechanisms": "SCRAM-SHA-256", "sasl.username": "user", "sasl.password": "pencil"}
FIRST = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
VERDICT = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


class Broker:
    """Answers from a list, remembers what it was told."""

    def __init__(self, *answers: bytes | str, refuse: str = "", offered: bool = True) -> None:
        self.answers = [a.encode() if isinstance(a, str) else a for a in answers]
        self.refuse, self.offered = refuse, offered
        self.told: list[bytes] = []

    def ask(self, api: int, version: int, body: bytes) -> bytes:
        if api == HANDSHAKE:
            return struct.pack(">ihi", 1, 0 if self.offered else 33, 0)
        assert api == AUTHENTICATE
        self.told.append(body[4:])
        reason = self.refuse.encode()
        answer = self.answers.pop(0) if self.answers else b""
        head = struct.pack(">ihh", 1, 58 if reason else 0, len(reason) if reason else -1)
        return head + reason + struct.pack(">i", len(answer)) + answer


@pytest.fixture
def rfc_nonce(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_sasl.secrets, "token_urlsafe", lambda size: "rOprNGfwEbeRWgbNEkqO")


def test_plain_sends_user_and_password() -> None:
    broker = Broker()
    authenticate(broker.ask, {"sasl.mechanisms": "PLAIN", "sasl.username": "ü", "sasl.password": "p"})
    assert broker.told == [b"\0\xc3\xbc\0p"]


def test_a_refusal_says_what_the_broker_says() -> None:
    with pytest.raises(AuthenticationError, match="Invalid username or password"):
        authenticate(Broker(refuse="Invalid username or password").ask, {"sasl.mechanisms": "PLAIN"})


TOKENS = {"sasl.mechanisms": "OAUTHBEARER", "oauth_cb": lambda config: ("a.b.c", 2e9)}


def test_a_token_is_one_message() -> None:
    broker = Broker()
    authenticate(broker.ask, TOKENS)
    assert broker.told == [b"n,,\1auth=Bearer a.b.c\1\1"]


def test_a_refused_token_is_acknowledged_as_the_rfc_wants() -> None:
    broker = Broker('{"status":"invalid_token"}')
    with pytest.raises(AuthenticationError, match="invalid_token"):
        authenticate(broker.ask, TOKENS)
    assert broker.told[1:] == [b"\1"]


def test_no_token_is_not_sent() -> None:
    broker = Broker()
    with pytest.raises(AuthenticationError, match="no token"):
        authenticate(broker.ask, TOKENS | {"oauth_cb": lambda config: ("", 0.0)})
    assert broker.told == []


def test_a_mechanism_that_is_not_offered() -> None:
    with pytest.raises(AuthenticationError, match="does not offer SCRAM-SHA-256"):
        authenticate(Broker(offered=False).ask, SCRAM)


@pytest.mark.usefixtures("rfc_nonce")
def test_scram_is_the_exchange_of_the_rfc() -> None:
    broker = Broker(FIRST, VERDICT)
    authenticate(broker.ask, SCRAM)
    assert broker.told == [
        b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
    ]


@pytest.mark.usefixtures("rfc_nonce")
@pytest.mark.parametrize(
    ("answers", "text"),
    [
        ((FIRST, "v=AAAA"), "does not know the password"),
        ((FIRST, "e=other-error"), "does not know the password"),
        ((FIRST.replace("rOpr", "xxxx"), VERDICT), "another nonce"),
        ((FIRST.replace("4096", "1"), VERDICT), "1 iterations"),
        ((FIRST.replace("4096", "99999999"), VERDICT), "99999999 iterations"),
        ((FIRST.replace("4096", "9" * 5000), VERDICT), "no number of iterations"),
        ((FIRST.replace("4096", "-4096"), VERDICT), "no number of iterations"),
        ((FIRST.replace("4096", "\N{FULLWIDTH DIGIT FOUR}096"), VERDICT), "no number of iterations"),
        ((FIRST.replace(",i=4096", ""), VERDICT), "no number of iterations"),
        ((FIRST.replace("W22ZaJ0SNY7soEsUEjb6gQ==", "W22Z!"), VERDICT), "no base64"),
        ((FIRST.replace("W22ZaJ0SNY7soEsUEjb6gQ==", "ü"), VERDICT), "no base64"),
        ((FIRST.replace("W22ZaJ0SNY7soEsUEjb6gQ==", ""), VERDICT), "no salt"),
        (("r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", VERDICT), "another nonce"),
        (("e=unknown-user\x1b[2J", VERDICT), r"^e=unknown-user\\x1b\[2J$"),
        ((f"m=ext,{FIRST}", VERDICT), "m=ext"),
        ((b"\xff\xfe", VERDICT), "no text"),
        ((FIRST, b"v=\xff"), "no text"),
        ((FIRST, "v=ü"), "no base64"),
        ((FIRST, ""), "does not know the password"),
        (("", ""), "another nonce"),
    ],
)
def test_a_broker_that_is_not_the_one_it_claims_to_be(answers: tuple[str | bytes, ...], text: str) -> None:
    with pytest.raises(AuthenticationError, match=text):
        authenticate(Broker(*answers).ask, SCRAM)


def test_scram_with_sha_512_and_a_name_with_commas() -> None:
    salt, nonce = b"salt", ""
    keyed: Callable[[bytes, bytes], bytes] = lambda key, data: hmac.digest(key, data, "sha512")  # noqa: E731

    class Real(Broker):
        def ask(self, api: int, version: int, body: bytes) -> bytes:
            nonlocal nonce
            message = body[4:].decode() if api == AUTHENTICATE else ""
            if message.startswith("n,,"):
                self.first = message.removeprefix("n,,")
                nonce = self.first.split("r=")[1] + "server"
                self.answer = f"r={nonce},s={base64.b64encode(salt).decode()},i=5000"
                self.answers = [self.answer.encode()]
            elif message:
                bare, proof = message.rsplit(",p=", 1)
                salted = hashlib.pbkdf2_hmac("sha512", b"secret", salt, 5000)
                signed = f"{self.first},{self.answer},{bare}".encode()
                client = keyed(salted, b"Client Key")
                stored = hashlib.sha512(client).digest()
                assert (
                    bytes(a ^ b for a, b in zip(base64.b64decode(proof), keyed(stored, signed), strict=True)) == client
                )
                verdict = base64.b64encode(keyed(keyed(salted, b"Server Key"), signed)).decode()
                self.answers = [f"v={verdict}".encode()]
            return super().ask(api, version, body)

    broker = Real()
    authenticate(broker.ask, {"sasl.mechanisms": "SCRAM-SHA-512", "sasl.username": "a,b=c", "sasl.password": "secret"})
    assert broker.told[0].startswith(b"n,,n=a=2Cb=3Dc,r=")


PLAIN: dict[str, Any] = {"sasl.mechanisms": "PLAIN", "sasl.username": "user", "sasl.password": "pencil"}
HEAD = struct.pack(">ihh", 1, 0, -1)


@settings(max_examples=300, deadline=None)
@given(
    properties=st.sampled_from([PLAIN, SCRAM, TOKENS, {**SCRAM, "sasl.mechanisms": "SCRAM-SHA-512"}]),
    handshake=st.one_of(st.just(struct.pack(">ihi", 1, 0, 0)), st.binary(max_size=12)),
    answers=st.lists(
        st.one_of(st.binary(max_size=40), st.binary(max_size=40).map(lambda b: HEAD + struct.pack(">i", len(b)) + b)),
        max_size=3,
    ),
)
@example(properties=PLAIN, handshake=b"", answers=[])
@example(properties=PLAIN, handshake=struct.pack(">ihi", 1, 0, 0), answers=[HEAD + struct.pack(">i", 1 << 30)])
@example(properties=PLAIN, handshake=struct.pack(">ihi", 1, 0, 0), answers=[struct.pack(">ihh", 1, 58, 30000)])
@example(properties=TOKENS, handshake=struct.pack(">ihi", 1, 0, 0), answers=[HEAD + b"\0\0\0\1\t", HEAD + bytes(4)])
def test_whatever_a_broker_answers_is_a_refusal_or_none(
    properties: dict[str, Any], handshake: bytes, answers: list[bytes]
) -> None:
    left = [handshake, *answers]

    def ask(api: int, version: int, body: bytes) -> bytes:
        return left.pop(0) if left else b"\0\0\0\1"

    try:
        authenticate(ask, properties)
    except AuthenticationError as refused:
        told = str(refused)
    else:
        told = "it goes on"
    assert told.isprintable()
    assert 0 < len(told) <= 250
    assert "pencil" not in told
