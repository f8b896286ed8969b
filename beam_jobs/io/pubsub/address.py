"""Pub/Sub's addresses: ``pubsub://project/name``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from beam_jobs.errors import UserError
from beam_jobs.io.address import without_scheme

EXAMPLE = "pubsub://my-project/name"
PLACE = "pubsub"  # there is one service
_PROJECT = re.compile(r"([a-z0-9.-]+\.[a-z]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]")  # with the domain of old organisations
_RESOURCE = re.compile(r"[A-Za-z][A-Za-z0-9._~+%-]{2,254}")


@dataclass(frozen=True)
class PubSubAddress:
    """A topic of Pub/Sub to write to, or a subscription to read from; ``str()`` gives the URI back."""

    project: str
    topic: str  # the name; as an input it may be a subscription's

    def __str__(self) -> str:
        return f"pubsub://{self.project}/{self.topic}"

    @property
    def place(self) -> str:
        """Who is asked about it."""
        return PLACE

    @property
    def topic_path(self) -> str:
        """As the API names it."""
        return f"projects/{self.project}/topics/{self.topic}"

    @property
    def subscription_path(self) -> str:
        """As the API names it."""
        return f"projects/{self.project}/subscriptions/{self.topic}"

    @staticmethod
    def parse(uri: str) -> PubSubAddress:
        """The address a URI names.

        Raises:
          UserError: another scheme, a bad project or name, or credentials inside the URI.
        """
        credentials = "name their file in GOOGLE_APPLICATION_CREDENTIALS"
        rest = without_scheme(uri, "pubsub", EXAMPLE, credentials)
        project, _, name = rest.partition("/")
        if not _PROJECT.fullmatch(project):
            raise UserError(
                f"address {uri!r}: {project!r} is not a project id (6 to 30 lower-case letters, digits or '-', a "
                f"letter first); expected {EXAMPLE}"
            )
        if not _RESOURCE.fullmatch(name) or name.lower().startswith("goog"):
            raise UserError(
                f"address {uri!r}: {name!r} is not the name of a topic or a subscription (3 to 255 letters, digits or "
                f"-._~+%, a letter first, not goog…); expected {EXAMPLE}"
            )
        return PubSubAddress(project, name)
