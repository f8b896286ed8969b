"""What every address is, ``kafka://host:9092/topic`` as well as ``pubsub://project/name``; each bus has its own."""

from __future__ import annotations

from typing import Protocol


class Address(Protocol):
    """A topic, or whatever a bus calls it; frozen and picklable, without secrets. ``str()`` gives the URI back."""

    @property
    def topic(self) -> str:
        """Its name on the bus."""

    @property
    def place(self) -> str:
        """Who is asked about it: bootstrap servers, the name of a service."""
