"""The buses by the scheme of their addresses; a new one is a folder, and a line here or in another distribution.

A distribution's ``pyproject.toml`` adds one:

    [project.entry-points."highbeam.buses"]
    mqtt = "acme_mqtt:BUS"
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from beam_jobs.errors import UserError
from beam_jobs.io.address import Address
from beam_jobs.io.sink import Sink
from beam_jobs.io.source import Checks, Source, Wanted
from beam_jobs.plugins import Plugins


class Bus(Protocol):
    """A kind of broker, or a service."""

    @property
    def example(self) -> str:
        """An address, for errors."""

    def address(self, uri: str) -> Address:
        """The address that a URI of this bus names.

        Raises:
          UserError: it is none, or has credentials in it.
        """

    def source(self, uri: str, wanted: Wanted, checks: Checks) -> Source:
        """What a job reads there, once it is known to be there.

        Raises:
          UserError: it is not, or what is wanted can't be had.
        """

    def sink(self, uri: str, options: Mapping[str, Any]) -> Sink:
        """Where a job writes; nobody is asked yet.

        Args:
          options: of the command line, by name; a bus looks at its own.

        Raises:
          UserError: it is no address, or an option is wrong.
        """


BUSES = Plugins[Bus](
    "bus", "highbeam.buses", {"kafka": "beam_jobs.io.kafka.bus:BUS", "pubsub": "beam_jobs.io.pubsub.bus:BUS"}
)


def bus_of(uri: str) -> Bus:
    """The bus of an address, by its scheme.

    Raises:
      UserError: there is none.
    """
    scheme, separator, _ = uri.partition("://")
    if not separator or scheme.lower() not in BUSES.names():
        raise UserError(f"address {uri!r}: expected {' or '.join(BUSES.get(name).example for name in BUSES.names())}")
    return BUSES.get(scheme.lower())


def parse(uri: str) -> Address:
    """The address a URI names.

    Raises:
      UserError: no bus has its scheme, or it is no address there.
    """
    return bus_of(uri).address(uri)
