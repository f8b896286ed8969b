"""Questions to brokers, registries and Pub/Sub before a job starts, where this machine may not reach them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from apache_beam.options.pipeline_options import PipelineOptions

from beam_jobs.errors import UnreachableError
from beam_jobs.target import target_of
from beam_jobs.terminal import options
from beam_jobs.terminal.cli import say

_STRICT_S, _REACHABLE_S = 8.0, 4.0  # who needs longer than this to answer is considered unavailable

T = TypeVar("T")


class Preflight:
    """How much is asked before the start: ``--preflight``.

    Only questions may be skipped. What a job has to know (its model, its SQL), and what was asked to be done (a
    topic created, a subscription set to a time), is never put to :meth:`ask`.
    """

    def __init__(self, parsed: PipelineOptions) -> None:
        self.parsed = parsed
        default = "strict" if target_of(parsed).describe().here else "reachable"
        self._level = parsed.view_as(options.ConnectionOptions).preflight or default
        self._silent: set[str] = set()
        self._said: set[str] = set()
        if self._level == "off":
            say("--preflight off: brokers, registry and Pub/Sub are not asked; workers meet what is wrong there")

    def say(self, text: str) -> None:
        """Tells the user a line."""
        say(text)

    def say_once(self, text: str) -> None:
        """A line that several steps of the checks come to."""
        if text not in self._said:
            self._said.add(text)
            say(text)

    @property
    def timeout_s(self) -> float:
        """How long an answer is waited for, seconds."""
        return _STRICT_S if self._level == "strict" else _REACHABLE_S

    def is_silent(self, place: str) -> bool:
        """Whether a place has not answered a question before."""
        return place in self._silent

    def ask(self, place: str, what: str, question: Callable[[], T]) -> T | None:
        """The answer; None where none is to be had from here, which is reported, a line each.

        Args:
          place: who is asked: bootstrap servers, a URL. Who did not answer is not asked again.
          what: is asked about, "topic alerts".

        Raises:
          UnreachableError: nobody answers, and ``--preflight`` is strict.
          UserError: who answers refuses, or what is asked about is not there.
        """
        if self._level == "off":
            return None
        if place in self._silent:
            say(f"not checked from here: {what}, for the same reason")
            return None
        try:
            return question()
        except UnreachableError as error:
            if self._level == "strict":
                raise
            self._silent.add(place)
            say(f"not checked from here: {what}; workers will meet what is wrong there ({error})")
            return None
