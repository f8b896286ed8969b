"""What a training is to do: the command line and the use case, checked before a row is read."""

from __future__ import annotations

import importlib.util
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from beam_jobs.errors import UserError
from beam_jobs.use_case import UseCase, load_use_case
from model.kinds import KINDS
from model.kinds.protocol import ModelKind, learns_from_labels, named_features
from model.known_labels import known_labels
from model.rows import Bools, Floats
from model.signature import Signer
from model.training import data as training_data
from model.training import normal
from model.training.data import Source
from model.training.normal import Condition


@dataclass(frozen=True)
class Settings:
    """What the command line says; None: what the use case says."""

    use_case: str
    data: str
    registry: str
    start: str | None = None  # --from
    until: str | None = None
    epochs: int | None = None
    alert_budget: float | None = None
    seed: int | None = None
    limit: int | None = None
    validation_fraction: float = 0.2
    split: str = "auto"
    alias: str | None = None
    signing_key: str | None = None  # reference to the private key; None: the version is not signed
    logdir: str | None = None
    baseline: bool = True
    on_outlier: str = "leave_out"  # or "refuse"
    normal: Sequence[str] = ()  # conditions, or names of groups
    labels: str | None = None  # folder of labels that came later
    window_lateness: str | None = None
    window_delay: str | None = None
    window_clock_skew: str | None = None
    window_key_rows: int | None = None
    peers: bool = True  # False, which no option says: for those who train many times and look at no report


@dataclass(frozen=True)
class Plan:
    """All that is known, and all that can be refused, before a row is read."""

    settings: Settings
    use_case: UseCase
    kind: ModelKind[Any]
    own: Any  # the kind's settings
    labels: bool  # it, or the kind it is compared with, learns from labels
    seed: int
    budget: float
    source: Source
    signer: Signer | None
    normal: Sequence[Condition]
    is_normal: Callable[[Floats], Bools] | None

    @classmethod
    def of(cls, settings: Settings) -> Plan:
        """UserError for settings that won't do."""
        use_case = load_use_case(settings.use_case).with_lateness(vars(settings))
        model = use_case.model
        budget = model.alert_budget if settings.alert_budget is None else settings.alert_budget
        _check(settings, budget)
        kind = KINDS.get(model.kind)
        _check_modules(kind)
        source = training_data.source(settings.data, settings.start, settings.until)
        if settings.labels is not None:
            if use_case.label is None:
                raise UserError(f"--labels {settings.labels}: the schema of {use_case.name} has no field tagged label")
            source = replace(source, labels=known_labels(settings.labels))
        conditions = normal.conditions(use_case, settings.normal, settings.registry)
        own = _own(settings, use_case)
        return cls(
            settings=settings,
            use_case=use_case,
            kind=kind,
            own=own,
            labels=_labels(settings, use_case, own),
            seed=model.seed if settings.seed is None else settings.seed,
            budget=budget,
            source=source,
            signer=None if settings.signing_key is None else Signer(settings.signing_key),
            normal=conditions,
            is_normal=normal.compile_normal(conditions, use_case.preprocessor().features),
        )


def _check(settings: Settings, budget: float) -> None:
    if not 0 < budget < 1:
        raise UserError(f"--alert_budget {budget} is not a share between 0 and 1, such as 0.0001")
    if not 0 < settings.validation_fraction < 0.5:
        raise UserError(f"--validation_fraction {settings.validation_fraction} is not between 0 and 0.5; use 0.2")
    for name, value in (("epochs", settings.epochs), ("limit", settings.limit)):
        if value is not None and value < 1:
            raise UserError(f"--{name} {value} is not at least 1")


def _check_modules(kind: ModelKind[Any]) -> None:
    ours = type(kind).__module__.startswith("model.")
    for module in ("matplotlib", "sklearn", *kind.modules):
        if importlib.util.find_spec(module) is None:
            remedy = "run pip install 'highbeam[train]'" if ours or module not in kind.modules else "install it"
            raise UserError(f"training needs {module}, which is not installed; {remedy}")


def _own(settings: Settings, use_case: UseCase) -> Any:
    model, features = use_case.model, use_case.preprocessor().features
    own = model.of_kind()
    if settings.epochs is not None:
        if "epochs" not in {each.name for each in fields(own)}:
            raise UserError(f"--epochs {settings.epochs}: a model of the kind {model.kind} has no epochs; leave it out")
        own = model.of_kind(epochs=settings.epochs)
    for setting, name in named_features(own):
        if name not in features:
            raise UserError(
                f"use_case.yaml: model.{setting} names {name!r}, no feature; the SQL selects {', '.join(features)}"
            )
    return own


def _labels(settings: Settings, use_case: UseCase, own: Any) -> bool:
    """Whether a kind to be trained learns from labels; UserError if there can't be any."""
    model = use_case.model
    compared = model.baseline if settings.baseline else None
    kinds = {model.kind: own} | ({compared: KINDS.get(compared).settings()} if compared else {})
    for name in (name for name, each in kinds.items() if learns_from_labels(each)):
        if use_case.label is None:
            raise UserError(
                f"use_case.yaml: a model of the kind {name} learns from labels, and no field of the schema is tagged "
                "label; tag one, or take a kind that needs none, such as tail_probability"
            )
        return True
    return False


def place(path: str) -> str:
    """A path without the folders of this machine: relative to the working directory, or else its last part."""
    if not os.path.isabs(path):
        return path
    relative = os.path.relpath(path)
    return os.path.basename(path.rstrip("/")) if relative.startswith("..") or relative == "." else relative


def without_folders(settings: Settings) -> Settings:
    """The settings with ``place`` for each path: for others to read."""
    return replace(
        settings,
        use_case=place(settings.use_case),
        data=place(settings.data),
        registry=place(settings.registry),
        logdir=settings.logdir and place(settings.logdir),
    )


def command(settings: Settings) -> str:
    """The command line that says so."""
    words = ["python", "-m", "model.train"]
    for each in fields(settings):
        value, flag = getattr(settings, each.name), "from" if each.name == "start" else each.name
        if each.name == "peers" or value == each.default:
            continue
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            for one in [value] if isinstance(value, str | int | float) else value:
                words += [f"--{flag}", str(one)]
    return shlex.join(words)
