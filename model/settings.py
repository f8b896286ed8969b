"""What a use case says of its model: the section ``model`` of use_case.yaml."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from beam_jobs.errors import UserError
from model.kinds import KINDS


@dataclass(frozen=True)
class ModelSettings:
    """Settings that any kind of model has, and those of the kind."""

    kind: str = "autoencoder"  # one of ``model.kinds.KINDS``
    alert_budget: float = 1e-4  # share of sound events that may raise an alert, between 0 and 1
    seed: int = 7  # of weights and shuffling
    baseline: str | None = None  # a kind that is trained as well, with its defaults, for the report to compare
    own: Mapping[str, Any] = field(default_factory=dict)  # the kind's, as far as they are given; they are right

    @classmethod
    def of(cls, section: Mapping[str, Any], where: str) -> ModelSettings:
        """Checks a section; ``where`` begins the errors.

        Raises:
          UserError: a key or value that won't do, or a kind that is not there.
        """
        names = [f.name for f in fields(cls) if f.name != "own"]
        given = {name: section[name] for name in names if name in section}
        for name, (right, wanted) in _RULES.items():
            if name in given and not right(given[name]):
                raise UserError(f"{where}: model.{name} is {given[name]!r}; use {wanted}")
        settings = cls(**given, own={name: value for name, value in section.items() if name not in names})
        try:
            known = [f.name for f in fields(KINDS.get(settings.kind).settings)]
            if settings.baseline is not None:
                KINDS.get(settings.baseline)
        except UserError as error:
            raise UserError(f"{where}: model: {error}") from error
        for name in settings.own:
            if name not in known:
                raise UserError(f"{where}: model: unknown key {name!r}; it is one of {', '.join([*known, *names])}")
        try:
            settings.of_kind()
        except ValueError as error:
            raise UserError(f"{where}: model.{error}") from error
        return settings

    def of_kind(self, **changes: Any) -> Any:
        """The kind's own settings; ``changes`` go before those of the use case."""
        return KINDS.get(self.kind).settings(**{**self.own, **changes})


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1


def _is_seed(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "kind": (lambda x: isinstance(x, str), "the name of a model kind, such as autoencoder"),
    "alert_budget": (_is_share, "a share between 0 and 1, such as 0.001"),
    "seed": (_is_seed, "a whole number of at least 0"),
    "baseline": (lambda x: x is None or isinstance(x, str), "the name of a model kind"),
}
