"""What every address is, ``kafka://host:9092/topic`` as well as ``pubsub://project/name``; each bus has its own."""

from __future__ import annotations

from typing import Protocol

from beam_jobs.errors import UserError


class Address(Protocol):
    """A topic, or whatever a bus calls it; frozen and picklable, without secrets. ``str()`` gives the URI back."""

    @property
    def topic(self) -> str:
        """Its name on the bus."""

    @property
    def place(self) -> str:
        """Who is asked about it: bootstrap servers, the name of a service."""


def without_scheme(uri: str, scheme: str, example: str, credentials: str) -> str:
    """What an address names behind ``scheme://``.

    Args:
      example: an address of the bus, for errors.
      credentials: where they belong instead, for errors.

    Raises:
      UserError: another scheme, or credentials inside the URI.
    """
    found, separator, rest = uri.partition("://")
    if not separator or found.lower() != scheme:
        raise UserError(f"address {uri!r}: expected {example}")
    if "@" in rest:
        raise UserError(
            f"address {scheme}://…@{rest.rpartition('@')[2]}: credentials do not belong in an address; {credentials}"
        )
    return rest
