"""Kafka client settings from a properties file, with every secret kept out of the pipeline.

The file is in librdkafka's own names; the Java client's spellings are translated where they mean exactly the same.
A value may be a reference (``credentials/references.py``), which is resolved on the worker that opens the client.

What travels with the pipeline (pickles, logs, the runner's UI): plain settings and references. A secret written out
in the file does not travel: in its place stands the file's path, and the worker reads the file again. So literal
secrets suit local runners, and remote workers need references (or the file at the same path, or in a bucket).
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from beam_jobs.credentials.references import FORMS, check_reference, is_reference, read_secret
from beam_jobs.errors import UnreachableError, UserError, without_credentials
from beam_jobs.io.kafka.oauth import GOOGLE_HANDLER, GOOGLE_TOKENS, HANDLER
from beam_jobs.storage.files import read_bytes, root_of

_LOGGER = logging.getLogger(__name__)

# Names whose values are secret although they say neither "password" nor "secret".
_SECRET_NAMES = frozenset(
    {
        "basic.auth.user.info",
        "bearer.auth.token",
        "sasl.jaas.config",
        "sasl.oauthbearer.config",
        "ssl.key.pem",
        "ssl.keystore.key",
    }
)
# What of SASL's settings is no secret; another name may be a password's, misspelt.
_PLAIN_SASL = ("sasl.mechanism", "sasl.username", "sasl.kerberos.", "sasl.login.", "sasl.oauthbearer.")
_EVERYWHERE = ("/etc/ssl/certs", "/usr/share/ca-certificates", "probe")  # a Debian's own certificates
_IN_CLEAR = {"PLAIN": "the password", "OAUTHBEARER": "the token"}  # what a mechanism sends
_SETTING = re.compile(r"[A-Za-z0-9._-]+")
_LITERAL_IN = "properties:"  # our own reference: the value stands in the properties file on the worker

# Settings the source and the sink decide themselves; a shared client.properties often carries them.
_OURS = frozenset(
    {
        "auto.offset.reset",
        "bootstrap.servers",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.partition.eof",
        "group.id",
        "transactional.id",
    }
)
# Settings of the Schema Registry client (schemas.source); librdkafka refuses names it does not know.
_REGISTRYS = ("schema.registry.", "basic.auth.", "bearer.auth.")
# Settings of the Java client that have no meaning for bytes in and bytes out.
_JAVA_ONLY = frozenset(
    {
        "key.deserializer",
        "key.serializer",
        "value.deserializer",
        "value.serializer",
        "max.poll.records",
        "ssl.keystore.type",
        "ssl.truststore.type",
    }
)
_JAVA_SAME_MEANING = {
    "sasl.mechanism": "sasl.mechanisms",
    "ssl.truststore.certificates": "ssl.ca.pem",
    "ssl.keystore.certificate.chain": "ssl.certificate.pem",
    "ssl.keystore.key": "ssl.key.pem",
}
# Ways of librdkafka's own to come by a token.
_OWN_TOKENS = (
    "sasl.oauthbearer.method",
    "sasl.oauthbearer.metadata.authentication.type",
    "enable.sasl.oauthbearer.unsecure.jwt",
)
_JAAS_OAUTH = re.compile(r"\s*[\w.]*\.OAuthBearerLoginModule\s+required\s*;?\s*")
_JAAS_MODULE = re.compile(r"\s*[\w.]*\.(PlainLoginModule|ScramLoginModule)\s+required\b(.*);\s*", re.DOTALL)
_JAAS_OPTION = re.compile(r"""(\w+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|(\S+))""")


Side = Literal["input", "output"]
"""Of a job."""


@dataclass(frozen=True)
class KafkaConfig:
    """Client settings without any secret value; picklable, comparable, safe to print."""

    settings: tuple[tuple[str, str], ...] = ()  # (librdkafka name, value or reference), ascending names

    @staticmethod
    def from_file(path: str | os.PathLike[str] | None, flag: str = "--kafka_config") -> KafkaConfig:
        """The settings of a properties file, on this machine or gs://; no settings for None.

        Args:
          flag: that names the file, for errors.

        Raises:
          UserError: the file cannot be read, a line is no ``name=value``, or a Java setting has no equivalent.
        """
        if path is None:
            return KafkaConfig()
        where = root_of(str(path))
        settings = _translate(_read(where, flag), where)
        for name, value in settings.items():
            if is_reference(_part(name, value)):
                check_reference(_part(name, value), f"{where}: {name}")
            elif is_secret(name) or without_credentials(value) != value:
                settings[name] = _LITERAL_IN + where
        return KafkaConfig(tuple(sorted(settings.items())))

    @staticmethod
    def from_mapping(settings: Mapping[str, str]) -> KafkaConfig:
        """Settings given in code, in librdkafka's names.

        Raises:
          UserError: a secret that is not a reference.
        """
        for name, value in settings.items():
            if is_reference(_part(name, value)):
                check_reference(_part(name, value), f"Kafka setting {name}")
            elif is_secret(name) or without_credentials(value) != value:
                raise UserError(f"Kafka setting {name}: give a reference ({FORMS}), not the secret itself")
        return KafkaConfig(tuple(sorted(_translate(dict(settings), "settings").items())))

    def resolved(self) -> dict[str, Any]:
        """Kafka's settings with every reference replaced by its value; call it on the worker, never pickle the result.

        All values are strings but the client's ``oauth_cb``, there where Google's credentials are the login.

        Raises:
          UserError: a reference that leads nowhere here, no Google credentials, or no way to come by a token.
        """
        settings: dict[str, Any] = {name: _resolve(name, value) for name, value in self.kafka_settings()}
        google = settings.pop(HANDLER, None)
        if settings.get("sasl.mechanisms") == "OAUTHBEARER":
            if google:
                GOOGLE_TOKENS.token()  # the client would wait for one, and not say what is wrong
                settings["oauth_cb"] = GOOGLE_TOKENS
            elif not any(name in settings for name in _OWN_TOKENS):
                raise UserError(
                    f"sasl.mechanism=OAUTHBEARER needs to know where tokens come from; set {HANDLER}={GOOGLE_HANDLER} "
                    "for Google's, or sasl.oauthbearer.method=oidc with its settings"
                )
        elif google:
            raise UserError(f"Kafka setting {HANDLER}={google} needs sasl.mechanism=OAUTHBEARER")
        _warn_in_clear(settings)
        return settings

    def check_files(self) -> None:
        """Looks for the files that settings name; the client's own errors do not say that one is missing.

        Raises:
          UnreachableError: one is not on this machine.
        """
        for name, value in self.kafka_settings():
            if name.endswith(".location") and value not in ("", "probe") and not os.path.exists(value):
                raise UnreachableError(f"Kafka setting {name}: there is no {value} here; put it on every worker")

    def kafka_settings(self) -> list[tuple[str, str]]:
        """Kafka's settings as written (references unresolved), without those of the Schema Registry."""
        return [(name, value) for name, value in self.settings if not name.startswith(_REGISTRYS)]

    def needed_on_worker(self) -> Iterator[tuple[str, str]]:
        """Settings that lead to something only this machine, or an image of one's own, may have: (name, what it is)."""
        for name, whole in self.settings:
            value = _part(name, whole)
            scheme, _, target = value.partition(":")
            if value.startswith(_LITERAL_IN) and "://" not in value:
                yield name, f"the file {value.removeprefix(_LITERAL_IN)}, where it is written out,"
            elif is_reference(value) and scheme == "env":
                yield name, f"the environment variable {target}"
            elif is_reference(value) and scheme == "file":
                yield name, f"the file {target.removeprefix('//')}"
            elif name.endswith(".location") and not value.startswith(_EVERYWHERE):
                yield name, f"the file {value}"

    def get(self, name: str, default: str = "") -> str:
        """A setting as written (references unresolved)."""
        return dict(self.settings).get(name, default)


def client_file(options: Mapping[str, Any], side: Side) -> tuple[str, str | None]:
    """The option that names the client settings of one side of a job, and what it names."""
    own = options.get(f"{side}_kafka_config")
    return (f"--{side}_kafka_config", own) if own else ("--kafka_config", options.get("kafka_config"))


def client_config(options: Mapping[str, Any], side: Side) -> KafkaConfig:
    """The client settings of one side of a job.

    Raises:
      UserError: as :meth:`KafkaConfig.from_file`.
    """
    flag, path = client_file(options, side)
    return KafkaConfig.from_file(path, flag)


def is_secret(name: str) -> bool:
    """Whether a setting's value is a secret, by its name."""
    name = name.removeprefix("schema.registry.")
    if name.startswith("sasl.") and not name.startswith(_PLAIN_SASL):
        return True
    return name in _SECRET_NAMES or "password" in name or "secret" in name or "private.key" in name


_warned: set[str] = set()  # mechanisms, in this process


def _warn_in_clear(settings: Mapping[str, Any]) -> None:
    """Says once a process that anybody on the way can read the password or the token; SCRAM sends neither."""
    mechanism = settings.get("sasl.mechanisms", "")
    if settings.get("security.protocol", "").upper() == "SASL_PLAINTEXT" and mechanism in _IN_CLEAR.keys() - _warned:
        _warned.add(mechanism)
        _LOGGER.warning(
            "%s without TLS: %s goes over the network in clear; set security.protocol=SASL_SSL",
            mechanism,
            _IN_CLEAR[mechanism],
        )


def _part(name: str, value: str) -> str:
    """The part of a value that may be a reference: all of it, or in USER:env:NAME what follows the user."""
    return value.partition(":")[2] if name.endswith("user.info") and not is_reference(value) else value


def _resolve(name: str, value: str) -> str:
    if value.startswith(_LITERAL_IN):
        path = value.removeprefix(_LITERAL_IN)
        settings = _translate(_read(path), path)
        if name not in settings:
            raise UserError(f"Kafka setting {name}: no longer in {path}")
        return settings[name]
    return read_secret(value, f"Kafka setting {name}") if is_reference(value) else value


def _read(path: str, flag: str = "--kafka_config") -> dict[str, str]:
    """The name=value lines of a properties file; ``#`` and ``!`` start comments, a final ``\\`` continues a line."""
    try:
        text = read_bytes(path).decode()
    except OSError as error:
        raise UserError(f"Kafka properties {path}: cannot be read ({error.strerror}); check {flag}") from None
    except UnicodeDecodeError:
        raise UserError(f"Kafka properties {path}: not a UTF-8 text file; check {flag}") from None
    settings: dict[str, str] = {}
    pending = ""
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not pending and (not line or line[0] in "#!"):
            continue
        if line.endswith("\\") and not line.endswith("\\\\"):
            pending += line[:-1].rstrip() + " "
            continue
        name, separator, value = (pending + line).partition("=")
        pending = ""
        if not separator or not _SETTING.fullmatch(name.strip()):
            # The line itself is not shown: it may hold a secret.
            raise UserError(f"Kafka properties {path}, line {number}: expected name=value")
        settings[name.strip()] = value.strip()
    if pending:
        raise UserError(f"Kafka properties {path}: the last line ends in a backslash; expected name=value")
    return settings


def _translate(settings: dict[str, str], where: str) -> dict[str, str]:
    """Java client spellings in librdkafka's names; drops what the source and the sink decide themselves."""
    out: dict[str, str] = {}
    for name, value in settings.items():
        if name in _OURS or name in _JAVA_ONLY:
            if name in _OURS:
                _LOGGER.debug("Kafka setting %s in %s is ignored: the job decides it", name, where)
        elif name == "sasl.jaas.config":
            out.update(_jaas(value, where))
        elif name == HANDLER:
            out[name] = _handler(value, where)
        elif name in ("ssl.truststore.location", "ssl.truststore.password"):
            out.update(_truststore(name, value, settings.get("ssl.truststore.type", "JKS"), where))
        elif name == "ssl.keystore.location":
            out.update(_keystore(value, settings.get("ssl.keystore.type"), where))
        elif name == "ssl.endpoint.identification.algorithm":
            out[name] = value or "none"  # Java switches the check off with an empty value
        else:
            out[_JAVA_SAME_MEANING.get(name, name)] = value
    return out


def _handler(value: str, where: str) -> str:
    if value != GOOGLE_HANDLER:
        raise UserError(
            f"{where}: {HANDLER}={value} is a Java class; known here is {GOOGLE_HANDLER}, for others set "
            "sasl.oauthbearer.method=oidc with its settings"
        )
    return value


def _jaas(value: str, where: str) -> dict[str, str]:
    if _JAAS_OAUTH.fullmatch(value):
        return {}  # where tokens come from stands in other settings
    if is_reference(value):
        raise UserError(
            f"{where}: sasl.jaas.config cannot be a reference; set sasl.username and sasl.password=env:NAME instead"
        )
    module = _JAAS_MODULE.fullmatch(value)
    options = (
        {
            name: re.sub(r"\\(.)", r"\1", quoted) or single or bare
            for name, quoted, single, bare in _JAAS_OPTION.findall(module[2])
        }
        if module
        else {}
    )
    if "username" not in options or "password" not in options:
        raise UserError(
            f"{where}: sasl.jaas.config is understood for PlainLoginModule and ScramLoginModule with username and "
            "password; otherwise set sasl.mechanisms, sasl.username and sasl.password"
        )
    return {"sasl.username": options["username"], "sasl.password": options["password"]}


def _truststore(name: str, value: str, store_type: str, where: str) -> dict[str, str]:
    if store_type.upper() != "PEM":
        raise UserError(
            f"{where}: {name}: a {store_type} trust store is Java's own format; export it with "
            "'keytool -exportcert -rfc' and set ssl.ca.location=FILE.pem"
        )
    return {"ssl.ca.location": value} if name == "ssl.truststore.location" else {}


def _keystore(value: str, store_type: str | None, where: str) -> dict[str, str]:
    if store_type is None or store_type.upper() == "PKCS12":  # what librdkafka means by the same name
        return {"ssl.keystore.location": value}
    if store_type.upper() == "PEM":  # one file holds the chain and the key
        return {"ssl.certificate.location": value, "ssl.key.location": value}
    raise UserError(
        f"{where}: ssl.keystore.location: a {store_type} key store is Java's own format; convert it with "
        "'keytool -importkeystore -deststoretype PKCS12' and set ssl.keystore.type=PKCS12"
    )
