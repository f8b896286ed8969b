"""A broker, a Schema Registry and a simulated fleet on this machine, to try things on: ``highbeam broker``."""

from __future__ import annotations

import signal
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from beam_jobs.errors import UserError
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.client import ensure_topic
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.sandbox.cars import EventProducer, EventSender, send_past
from beam_jobs.sandbox.fleet import Fleet
from beam_jobs.sandbox.process import Tansu, listens
from beam_jobs.terminal.cli import STOP_SIGNALS, run
from beam_jobs.terminal.commands import BEGIN
from schemas.registry.server import RegistryServer

_CARS = 200
_PARTITIONS = 4
_BAD_RATE = 0.001  # share of the records that are cut short: dead letters to look at
_PREVALENCE = 0.05  # share of the cars that fail
_SPAN_S = 120.0  # within so many seconds
_LOOK_S = 0.5


def main(argv: Sequence[str]) -> int:
    """Runs all of it until Ctrl-C."""
    given = BEGIN["broker"].parser().parse_args(argv)
    _check(given)
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in STOP_SIGNALS}
    try:
        serve(given, stop, lambda line: print(line, flush=True))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def serve(given: Namespace, stop: threading.Event, say: Callable[[str], None]) -> None:
    """Starts what the command line asks for, says where it is, and ends it when ``stop`` is set.

    Raises:
      UserError: the broker is not installed, a port is taken, or the broker has ended by itself.
    """
    with ExitStack() as stack:
        registry = stack.enter_context(RegistryServer(port=given.registry_port))
        broker = stack.enter_context(Tansu(given.port))
        producer = None
        say(f"broker     kafka://localhost:{broker.port}, in memory: what it holds ends with it")
        say("           it names the start of a partition's last batch as its end: --until latest stops there")
        say(f"registry   http://localhost:{registry.port}")
        if given.past or given.rate:
            address = KafkaAddress.parse(f"kafka://{broker.bootstrap_servers}/{given.topic}")
            producer = _drive(given, address, registry.url, stop)
            shown = f"kafka://localhost:{broker.port}/{given.topic}"
            more = f", and {given.rate:g} a second" if given.rate else ""
            say(f"events     {shown}: {given.past:,} of a fleet's past{more}")
            say(f"next       highbeam init {shown} --schema_registry http://localhost:{registry.port} --output cars")
        say("Ctrl-C ends it all")
        while not stop.wait(_LOOK_S):
            if broker.ended:
                raise UserError(f"the broker has ended by itself: {broker.last_words()}")
            if producer is not None and producer.error is not None:
                raise producer.error
        if producer is not None:
            producer.stop()
    say("ended")


def _drive(given: Namespace, address: KafkaAddress, registry_url: str, stop: threading.Event) -> EventProducer | None:
    """Puts the past on the topic, and lets a fleet drive on; None: it is not to."""
    ensure_topic(address, KafkaConfig.from_file(None), partitions=_PARTITIONS)
    sender = EventSender(address, registry_url, _BAD_RATE, seed=1)
    if given.past:
        for _ in send_past(sender, given.past, 2, _PARTITIONS):
            if stop.is_set():
                return None
    if not given.rate:
        sender.close()
        return None
    fleet = Fleet(
        _CARS,
        seed=1,
        prevalence=_PREVALENCE,
        start_time=int(time.time() * 1000),
        interval=_CARS / given.rate,
        span=_SPAN_S,
    )
    producer = EventProducer(sender, fleet.step)
    producer.start()
    return producer


def _check(given: Namespace) -> None:
    for name in ("past", "rate"):
        if not 0 <= getattr(given, name) < float("inf"):
            raise UserError(f"--{name} {getattr(given, name)}: expected a number from 0 on")
    for name in ("port", "registry_port"):
        if not 0 < getattr(given, name) < 65536:
            raise UserError(f"--{name} {getattr(given, name)}: expected a port, 1 to 65535")
        if listens(getattr(given, name)):
            raise UserError(f"--{name} {getattr(given, name)}: something listens there already; name another one")


if __name__ == "__main__":
    run(main)
