import pickle
from pathlib import Path

import pytest

from beam_jobs.errors import UserError
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.oauth import GOOGLE_TOKENS
from beam_jobs.io.kafka.wire.connection import not_understood
from schemas.client import RegistrySchemas
from schemas.settings import registry_settings
from tests.services.google import SecretManager, TokenServer

SECRET = "hunter2"


def config(tmp_path: Path, text: str) -> KafkaConfig:
    path = tmp_path / "client.properties"
    path.write_text(text)
    return KafkaConfig.from_file(path)


def test_no_file_no_settings() -> None:
    assert KafkaConfig.from_file(None).resolved() == {}


def test_comments_blanks_and_continued_lines(tmp_path: Path) -> None:
    text = "# a comment\n! another\n\nlinger.ms = 5\nclient.id=a=b\nssl.cipher.suites=one,\\\n  two\n"
    assert config(tmp_path, text).resolved() == {
        "linger.ms": "5",
        "client.id": "a=b",
        "ssl.cipher.suites": "one, two",
    }


def test_a_literal_secret_stays_in_the_file(tmp_path: Path) -> None:
    made = config(tmp_path, f"sasl.username=alice\nsasl.password={SECRET}\nssl.key.password={SECRET}\n")
    assert SECRET not in repr(made)
    assert SECRET.encode() not in pickle.dumps(made)
    assert pickle.loads(pickle.dumps(made)).resolved() == {
        "sasl.username": "alice",
        "sasl.password": SECRET,
        "ssl.key.password": SECRET,
    }
    (tmp_path / "client.properties").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        made.resolved()


def test_references_are_resolved_on_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "password").write_text(SECRET + "\n")
    made = config(tmp_path, f"sasl.username=env:KAFKA_USER\nsasl.password=file:{tmp_path}/password\n")
    with pytest.raises(UserError, match="KAFKA_USER is not set"):
        made.resolved()
    monkeypatch.setenv("KAFKA_USER", "alice")
    assert made.resolved() == {"sasl.username": "alice", "sasl.password": SECRET}
    assert SECRET.encode() not in pickle.dumps(made)
    (tmp_path / "client.properties").unlink()  # references need no file on the worker
    assert made.resolved()["sasl.password"] == SECRET


def test_references_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read /no/such/file"):
        config(tmp_path, "sasl.password=file:/no/such/file").resolved()
    with pytest.raises(UserError, match=r"sasl\.password: not a reference to a secret"):
        config(tmp_path, "sasl.password=secret://projects/p/secrets/s").resolved()


def test_a_reference_to_secret_manager_travels_and_is_resolved_on_the_worker(
    tmp_path: Path, secret_server: SecretManager
) -> None:
    name = "projects/my-project/secrets/kafka/versions/7"
    jaas = "org.apache.kafka.common.security.scram.ScramLoginModule required"
    made = config(tmp_path, f'sasl.jaas.config={jaas} username="alice" password="secret://{name}";\n')
    assert made.get("sasl.password") == f"secret://{name}"
    secret_server.secrets[name] = SECRET.encode()
    assert pickle.loads(pickle.dumps(made)).resolved() == {"sasl.username": "alice", "sasl.password": SECRET}
    assert SECRET.encode() not in pickle.dumps(made)


GOOGLES = """
sasl.mechanism=OAUTHBEARER
sasl.login.callback.handler.class=com.google.cloud.hosted.kafka.auth.GcpLoginCallbackHandler
sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;
"""


def test_googles_credentials_become_the_clients_callback(tmp_path: Path, tokens: TokenServer) -> None:
    tokens.issue("ya29.token")
    made = config(tmp_path, GOOGLES)
    assert made.resolved() == {"sasl.mechanisms": "OAUTHBEARER", "oauth_cb": GOOGLE_TOKENS}
    assert b"ya29" not in pickle.dumps(made)
    assert not_understood(made.resolved()) == ""  # read by the wire path


@pytest.mark.usefixtures("no_credentials")
def test_no_google_credentials(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sasl\.login\.callback\.handler\.class: no Google credentials"):
        config(tmp_path, GOOGLES).resolved()


def test_tokens_from_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs to know where tokens come from; set sasl\.login"):
        config(tmp_path, "sasl.mechanism=OAUTHBEARER").resolved()
    with pytest.raises(UserError, match=r"needs sasl\.mechanism=OAUTHBEARER"):
        config(tmp_path, GOOGLES.replace("mechanism=OAUTHBEARER", "mechanism=PLAIN")).resolved()
    oidc = config(tmp_path, "security.protocol=SASL_SSL\nsasl.mechanism=OAUTHBEARER\nsasl.oauthbearer.method=oidc")
    assert not_understood(oidc.resolved()) == "sasl.oauthbearer.method"  # read by librdkafka, which knows how


def test_the_java_spellings(tmp_path: Path) -> None:
    text = f"""
security.protocol=SASL_SSL
sasl.mechanism=SCRAM-SHA-512
sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required \\
  username="alice" \\
  password="hun\\"ter;2";
ssl.truststore.type=PEM
ssl.truststore.location=/etc/ca.pem
ssl.endpoint.identification.algorithm=
key.deserializer=org.apache.kafka.common.serialization.StringDeserializer
bootstrap.servers=elsewhere:9092
enable.auto.commit=true
ssl.keystore.type=PKCS12
ssl.keystore.location=/etc/me.p12
ssl.keystore.password={SECRET}
"""
    made = config(tmp_path, text)
    assert "ter;2" not in repr(made)
    assert made.resolved() == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanisms": "SCRAM-SHA-512",
        "sasl.username": "alice",
        "sasl.password": 'hun"ter;2',
        "ssl.ca.location": "/etc/ca.pem",
        "ssl.endpoint.identification.algorithm": "none",
        "ssl.keystore.location": "/etc/me.p12",
        "ssl.keystore.password": SECRET,
    }


def test_a_pem_key_store_is_one_file(tmp_path: Path) -> None:
    made = config(tmp_path, "ssl.keystore.type=PEM\nssl.keystore.location=/etc/me.pem\n")
    assert made.resolved() == {"ssl.certificate.location": "/etc/me.pem", "ssl.key.location": "/etc/me.pem"}


@pytest.mark.parametrize("name", ["sasl.pasword", "sasl.passwd", "sasl.token", "sasl.scram.credential"])
def test_a_misspelt_name_of_a_secret_does_not_travel(tmp_path: Path, name: str) -> None:
    made = config(tmp_path, f"sasl.username=alice\n{name}={SECRET}\n")
    assert SECRET not in repr(made)
    assert made.get("sasl.username") == "alice"


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("ssl.truststore.location=/etc/trust.jks", "keytool -exportcert"),
        ("ssl.keystore.type=JKS\nssl.keystore.location=/etc/me.jks", "keytool -importkeystore"),
        ("sasl.jaas.config=com.example.OtherModule required x=1;", "PlainLoginModule and ScramLoginModule"),
        ("sasl.jaas.config=env:JAAS", "sasl.password=env:NAME"),
        ("sasl.login.callback.handler.class=com.example.Handler", "known here is com.google"),
        ("just words", "line 1: expected name=value"),
        ("a=b\\", "ends in a backslash"),
    ],
)
def test_what_cannot_be_translated(tmp_path: Path, text: str, remedy: str) -> None:
    with pytest.raises(UserError, match=remedy) as raised:
        config(tmp_path, text)
    assert "\n" not in str(raised.value)


def test_a_missing_file() -> None:
    with pytest.raises(UserError, match=r"/no/such.properties: cannot be read .*--kafka_config"):
        KafkaConfig.from_file("/no/such.properties")


def test_settings_in_code_hold_no_secret() -> None:
    assert KafkaConfig.from_mapping({"linger.ms": "1"}).get("linger.ms") == "1"
    with pytest.raises(UserError, match="give a reference") as raised:
        KafkaConfig.from_mapping({"sasl.password": SECRET})
    assert SECRET not in str(raised.value)


MALFORMED = [
    "env: hunter2",
    "env:$hunter2",
    "env:9hunter2",
    "env://hunter2",
    "env:{hunter2}",
    "file: hunter2",
    "file:hunter2",
    "file://hunter2",
    "secret:hunter2",
    "secret: //projects/p/secrets/hunter2",
    "secret://projects/p/secrets/s/versions/hunter2 ",
]
SETTINGS = [
    "sasl.password={}",
    "sasl.username={}",
    "ssl.key.password={}",
    "sasl.oauthbearer.client.secret={}",
    'sasl.jaas.config=o.PlainLoginModule required username="u" password="{}";',
    "sasl.jaas.config={}",
    "basic.auth.user.info={}",
    "basic.auth.user.info=me:{}",
    "schema.registry.basic.auth.user.info=me:{}",
    "bearer.auth.token={}",
]


@pytest.mark.parametrize("value", MALFORMED)
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_malformed_reference_is_never_shown(
    tmp_path: Path, setting: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    def resolve() -> None:
        made = config(tmp_path, setting.format(value) + "\n")
        made.resolved()
        RegistrySchemas("http://127.0.0.1:9", registry_settings(dict(made.settings)))._client()

    with pytest.raises(UserError) as told:  # at once, or where it is resolved
        resolve()
    assert "hunter2" not in str(told.value)
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        "sasl.password: hun=ter2",
        "sasl.password hunter2",
        "sasl.password\thun=ter2",
        "=hunter2",
        "hunter2",
        "sasl.password=a\nhunter2",
        "sasl.jaas.config=x username=u password=hunter2",
        "sasl.jaas.config=hunter2",
    ],
)
def test_a_malformed_line_is_never_shown(tmp_path: Path, line: str) -> None:
    with pytest.raises(UserError) as told:
        config(tmp_path, line + "\n")
    assert "ter2" not in str(told.value)


@pytest.mark.parametrize(
    "setting",
    [
        "sasl.oauthbearer.token.endpoint.url=https://me:hunter2@host/token",
        "schema.registry.basic.auth.user.info=me:hunter2",
        "schema.registry.ssl.key.password=hunter2",
        "schema.registry.proxy=http://me:hunter2@proxy:3128",
        "bearer.auth.token=hunter2",
        "ssl.keystore.password=hunter2",
    ],
)
def test_no_secret_travels_with_the_pipeline(tmp_path: Path, setting: str) -> None:
    made = config(tmp_path, setting + "\n")
    assert b"hunter2" not in pickle.dumps(made)
    if not setting.startswith(("sasl", "ssl")):
        with pytest.raises(UserError) as told:
            registry_settings({setting.partition("=")[0]: setting.partition("=")[2]})
        assert "hunter2" not in str(told.value)


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        (
            "SASL_PLAINTEXT PLAIN",
            "PLAIN without TLS: the password goes over the network in clear; set security.protocol=",
        ),
        ("sasl_plaintext PLAIN", "PLAIN without TLS: the password goes"),
        ("SASL_PLAINTEXT OAUTHBEARER", "OAUTHBEARER without TLS: the token goes"),
        ("SASL_PLAINTEXT SCRAM-SHA-256", ""),
        ("SASL_SSL PLAIN", ""),
    ],
)
def test_a_password_in_clear_is_warned_of_once_a_process(
    tmp_path: Path, text: str, warned: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("beam_jobs.io.kafka.config._warned", set())
    protocol, mechanism = text.split()
    lines = f"security.protocol={protocol}\nsasl.mechanism={mechanism}\nsasl.password={SECRET}\n"
    for _ in range(3):
        config(tmp_path, lines + "sasl.oauthbearer.method=oidc\n").resolved()
    assert len(caplog.messages) == bool(warned)
    assert warned in "".join(caplog.messages)
    assert SECRET not in caplog.text


def test_a_file_address_names_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "my client 100%.properties"
    path.write_text("client.id=x\n")
    assert KafkaConfig.from_file(path.as_uri()) == KafkaConfig.from_file(path)
