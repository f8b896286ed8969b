"""What can be chosen about an average of kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beam_jobs.errors import UserError
from model.kinds import KINDS
from model.kinds.protocol import learns_from_labels, named_features

MOST = 8  # kinds
_WANTED = "a list of 2 to 8 kinds with their settings, such as [{kind: tail_probability}, {kind: isolation_forest}]"


@dataclass(frozen=True)
class AverageSettings:
    """Keys of the section ``model`` of a use case; ValueError, naming the field, for a value that won't do."""

    of: tuple[Mapping[str, Any], ...] = ({"kind": "tail_probability"}, {"kind": "isolation_forest"})

    def __post_init__(self) -> None:
        right = isinstance(self.of, list | tuple) and 2 <= len(self.of) <= MOST
        if not right or not all(isinstance(one, Mapping) and isinstance(one.get("kind"), str) for one in self.of):
            raise ValueError(f"of is {self.of!r}; use {_WANTED}")
        object.__setattr__(self, "of", tuple(self.of))
        for one in self.of:
            if one["kind"] == "average":
                raise ValueError(f"of is {self.of!r}; use {_WANTED}, and no average of averages")
            try:
                settings_of(one)
            except (UserError, TypeError, ValueError) as error:
                raise ValueError(f"of is {one!r}; use right settings of a kind: {error}") from error

    @property
    def members(self) -> Sequence[tuple[str, Any]]:
        """Kinds and their settings."""
        return [(one["kind"], settings_of(one)) for one in self.of]

    @property
    def labels(self) -> bool:
        """Whether one of them learns from labels."""
        return any(learns_from_labels(own) for _, own in self.members)

    @property
    def named(self) -> Sequence[tuple[str, str]]:
        """Fields of all of them, and features they name."""
        return [(f"of.{field}", name) for _, own in self.members for field, name in named_features(own)]


def settings_of(member: Mapping[str, Any]) -> Any:
    """Of a kind, as the use case has them."""
    return KINDS.get(member["kind"]).settings(**{name: value for name, value in member.items() if name != "kind"})
