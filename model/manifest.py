"""What a model version says about itself: ``manifest.json``."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import UserError, one_line, shown
from beam_jobs.preprocessing.preprocessor import Preprocessor
from model.alert_rate import AlertRate, ThresholdFit
from model.outliers.groups import LeftOut
from model.outliers.sentinels import Sentinel

FILE_NAME = "manifest.json"
SIGNATURE = "manifest.sig"  # beside it, of who vouches for it (signature.py)
# Alerts expected among the held-out normal rows: with fewer the threshold lies beyond all that was seen, and that there
# is no alert among the test rows says nothing.
LEAST_EXPECTED = 1.0
FORMAT = 1  # of the file; raised when a reader of the old one would go wrong
MAX_BYTES = 4 << 20  # of the file
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")  # of a model, a version, an alias: one part of a path

_LONGEST = 100_000  # characters of a line of the summary
_MAX_FILES = 10_000
_MAX_PATH = 1000  # characters of a file's path in the version's folder
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NOT_LOADED = {FILE_NAME, SIGNATURE, "report", "logs"}  # in a version's folder


@dataclass(frozen=True)
class DataSummary:
    """The data a model was trained on."""

    source: str  # folder or gs:// prefix the files' names are relative to
    files: int  # how many; training_files.json beside the manifest names them, with sha256 and rows
    sha256: str  # of the files' own sha256, in the order of that list
    rows: int  # events read
    training_rows: int  # the network learnt from: neither failures nor left out
    start: str | None  # --from and --until, ISO 8601, UTC; None: without
    until: str | None
    first_event_time: str  # of the rows that could be used
    last_event_time: str
    seed: int  # of the order of the rows, the split and the weights


@dataclass(frozen=True)
class Manifest:
    """Everything a job must know before it lets a model score its rows."""

    name: str  # of the model: the folder in the registry
    version: str
    created_at: str  # ISO 8601, UTC
    use_case: str
    features: tuple[str, ...]  # order of the model's inputs
    units: tuple[str | None, ...]  # of the features; None: no unit
    preprocessing_fingerprint: str  # Preprocessor.fingerprint of the rows it was trained on
    schema_fingerprint: str  # of the event schema
    threshold: float  # scores above it are alerts
    alert_budget: float  # share of normal rows expected above it
    score_quantiles: tuple[tuple[float, float], ...]  # (level, score) of normal rows, both ascending
    data: DataSummary
    network: Mapping[str, Any]  # settings of the kind and of the training
    metrics: Mapping[str, Any]  # the kind and, where one was trained, "baseline": Evaluation.to_json
    libraries: Mapping[str, str]  # name to version, of what trained it
    files: Mapping[str, str]  # path in the version's folder to sha256, of all that is loaded
    threshold_fit: ThresholdFit | None = None  # where the threshold comes from; None: of a version made before
    test_alerts: AlertRate | None = None  # what it does on the test rows; None: they were not there to count
    made_from: str | None = None  # version whose network and scores it has, by model.threshold; None: it was trained
    left_out: LeftOut | None = None  # training rows the network did not learn from; None: of a version made before
    sentinels: tuple[Sentinel, ...] = ()  # values in the data that looked like sentinels
    normal: tuple[str, ...] = ()  # conditions in SQL: rows a person called normal, which were not left out
    kind: str = "autoencoder"  # one of model.kinds.KINDS; versions made before there were others do not name it

    def percentile(self, score: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Per cent of normal rows that score lower, float32 [n], 0..100; beyond 1 in 10 million it reads 99.99999."""
        levels, scores = np.array(self.score_quantiles, np.float64).T
        return (np.interp(score, scores, levels) * 100).astype(np.float32)

    @property
    def promise(self) -> str:
        """What the threshold is expected to do."""
        return str(self.threshold_fit or f"expected to alert on {self.alert_budget:g} of normal rows")

    @property
    def few_rows(self) -> str:
        """ "" or a sentence: the threshold comes from too few rows for anybody to know what it does."""
        fit = self.threshold_fit
        expected = 0.0 if fit is None else fit.rows * self.alert_budget
        if fit is None or expected >= LEAST_EXPECTED:
            return ""
        enough = math.ceil(self.data.rows * LEAST_EXPECTED / max(expected, 1e-9))
        step = 10 ** (len(str(enough)) - 1)
        enough = math.ceil(enough / step) * step  # one digit of it
        return (
            f"{self.name} {self.version} has learnt from {self.data.training_rows:,} rows; of the {fit.rows:,} that "
            f"its threshold comes from {expected:.2g} are expected above it: nobody knows whether it keeps its alert "
            f"budget of {self.alert_budget:g}; train on {enough:,} rows or more, or with a larger budget"
        )

    def to_json(self) -> str:
        """The text of ``manifest.json``."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2, ensure_ascii=False) + "\n"

    def summary(self) -> str:
        """What a person wants to know first, a line each."""
        data, judged = self.data, self.metrics.get(self.kind, {})
        asked = "".join(f", {word} {time}" for word, time in (("from", data.start), ("until", data.until)) if time)
        judged = {name: value for name, value in judged.items() if value is not None}
        figures = ("roc_auc", "average_precision", "recall", "precision", "false_alert_share")
        files = f"{data.files:,} file{'s'[: data.files != 1]} of {data.source or '?'}"
        lines = {
            "version": f"{self.name} {self.version}, made {self.created_at}"
            + (f" from {self.made_from} with another threshold" if self.made_from else ""),
            "kind": self.kind,
            "data": f"{files}{asked}, sha256 {data.sha256[:12]}",
            "rows": f"{data.rows:,} read, {data.training_rows:,} trained on, seed {data.seed}",
            "left out": "" if self.left_out is None else str(self.left_out),
            "sentinels": "; ".join(str(sentinel) for sentinel in self.sentinels),
            "called normal": "; ".join(self.normal),
            "event times": f"{data.first_event_time} to {data.last_event_time}",
            "threshold": f"{self.threshold:.4g}, {self.promise}",
            "test alerts": "" if self.test_alerts is None else str(self.test_alerts),
            "warning": "" if self.test_alerts is None else self.test_alerts.warning,
            "few rows": self.few_rows,
            "held out": ", ".join(f"{name.replace('_', ' ')} {judged[name]:.4g}" for name in figures if name in judged),
            "features": ", ".join(self.features),
            "preprocessing": self.preprocessing_fingerprint,
            "libraries": ", ".join(f"{name} {version}" for name, version in self.libraries.items()),
        }
        return "".join(f"{name:<15}{one_line(text, _LONGEST)}\n" for name, text in lines.items() if text)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Raises ValueError, saying what is wrong, for a text that is no manifest of this format.

        Whoever wrote it may mean harm: no name in it leads out of a folder, what scores is of the right type.
        """
        try:
            value = json.loads(text)
        except RecursionError:
            raise ValueError("no manifest nests so deeply") from None
        if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
            raise ValueError(f"not a manifest of format {FORMAT}")
        missing = [f.name for f in fields(cls) if f.default is MISSING and f.name not in value]
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
        known = {f.name: value[f.name] for f in fields(cls) if f.name in value}
        try:
            data = known["data"]
            if isinstance(data["files"], list):  # written before the files had a list of their own
                late = {"source": "", "start": None, "until": None, "seed": known["network"]["seed"]}
                data = {**late, **data, "files": len(data["files"])}
            known["data"] = DataSummary(**data)
            known["features"], known["units"] = tuple(known["features"]), tuple(known["units"])
            known["score_quantiles"] = tuple((float(a), float(b)) for a, b in known["score_quantiles"])
            known["sentinels"] = tuple(Sentinel(**each) for each in known.get("sentinels", ()))
            known["normal"] = tuple(known.get("normal", ()))
            for name, read in _READERS.items():
                if known.get(name) is not None:
                    known[name] = read(known[name])
            made = cls(**known)
            made._check()
            made.summary()  # what can't be told is none
            made.to_json().encode()  # nor what can't be written: half a character pair
        except (TypeError, KeyError, AttributeError, OverflowError) as error:
            raise ValueError(str(error)) from error
        except RecursionError:  # what has been read may nest too deeply to be copied or written
            raise ValueError("no manifest nests so deeply") from None
        return made

    def _check(self) -> None:
        for what in ("name", "version", "use_case", "kind"):
            if not (isinstance(found := getattr(self, what), str) and NAME.fullmatch(found)):
                raise ValueError(f"{what} {shown(found)} is no name of letters, digits, '.', '_' and '-'")
        for what in ("network", "metrics", "libraries", "files"):
            if not isinstance(getattr(self, what), dict):
                raise ValueError(f"{what} is no object of names and values")
        if not all(isinstance(name, str) for name in (*self.features, self.preprocessing_fingerprint)):
            raise ValueError("features and preprocessing_fingerprint are not all text")
        if not self.features or len(set(self.features)) < len(self.features) or len(self.units) != len(self.features):
            raise ValueError("features are missing or named twice, or their units are not as many")
        quantiles = np.array(self.score_quantiles, np.float64).reshape(-1, 2)
        ascending = np.isfinite(quantiles).all() and (np.diff(quantiles, axis=0) >= 0).all() and len(quantiles) > 0
        if not math.isfinite(self.threshold) or not 0 < self.alert_budget < 1 or not ascending:
            raise ValueError("threshold, alert_budget or score_quantiles are not numbers that a model can have")
        if len(self.files) > _MAX_FILES:
            raise ValueError(f"it names {len(self.files):,} files, {_MAX_FILES:,} at most are accepted")
        for name, digest in self.files.items():
            if not is_inside(name):
                raise ValueError(f"it names a file outside the version's folder, or none: {shown(name)}")
            if not (isinstance(digest, str) and _SHA256.fullmatch(digest)):
                raise ValueError(f"sha256 of {name} is {shown(digest)}")


def is_inside(name: str) -> bool:
    """Whether a path names one file in a version's folder that is loaded, on any system."""
    parts = name.split("/")
    return (
        len(name) <= _MAX_PATH
        and name.isprintable()
        and not set("\\:") & set(name)
        and not {"", ".", ".."} & set(parts)
        and parts[0] not in _NOT_LOADED
    )


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "threshold_fit": lambda value: ThresholdFit(**value),
    "test_alerts": lambda value: AlertRate(**value),
    "left_out": LeftOut.from_json,
}


def read(folder: Path, digest: str | None = None) -> Manifest:
    """The manifest of a version's folder.

    Args:
      digest: the sha256 that the file has to have; None: any.

    Raises:
      UserError: it can't be read, or is another one.
    """
    path = folder / FILE_NAME
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; name a model version's folder, or its registry with @version or @alias"
        ) from error
    if digest not in (None, hashlib.sha256(data).hexdigest()):
        raise UserError(f"{path} has changed since the job was started; versions are immutable: restore it")
    return parse(data, str(path))


def parse(data: bytes, path: str) -> Manifest:
    """What a manifest.json holds; UserError if it is none."""
    if len(data) > MAX_BYTES:
        raise UserError(f"{path}: more than {MAX_BYTES:,} bytes; train the model again")
    try:
        return Manifest.from_json(data.decode("utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: {one_line(error)}; train the model again") from error


def file_hashes(folder: Path) -> dict[str, str]:
    """sha256 of what is loaded from a version's folder: everything but the manifest, the report and the logs.

    Raises:
      UserError: something there is no file whose bytes could be hashed: a folder elsewhere, a pipe, a device.
    """
    return {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(_loaded(folder))}


def _loaded(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        here = Path(where)
        if here == folder:
            folders[:], names = ([name for name in found if name not in _NOT_LOADED] for found in (folders, names))
        for path in (here / name for name in (*folders, *names)):
            if not (path.is_file() or (path.is_dir() and not path.is_symlink())):
                raise UserError(f"{path} is neither a file nor a folder of the version; replace it by a copy")
        yield from (here / name for name in names)


def check_files(path: Path, described: Manifest) -> None:
    """UserError unless a version's folder holds what its manifest names, and nothing else that is loaded."""
    found = file_hashes(path)
    for name, wanted in described.files.items():
        if name not in found:
            raise UserError(f"{path / name} is missing; copy the version again or train a new one")
        if found[name] != wanted:
            raise UserError(
                f"{path / name} has changed since it was trained (sha256); versions are immutable: restore it"
            )
    added = sorted(set(found) - set(described.files))
    if added:
        raise UserError(f"{path / added[0]} is not in the manifest; remove it, or train a new version")


def sha256(path: Path) -> str:
    """Of one file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_fingerprint(model: Manifest, preprocessor: Preprocessor) -> None:
    """Refuses a model that was trained on the output of another preprocessing."""
    if model.preprocessing_fingerprint != preprocessor.fingerprint:
        settings = "window settings (window_lateness, window_delay, window_clock_skew)"
        what, old = ("SQL, schema", "SQL") if not preprocessor.windows else (f"SQL, schema, {settings}", "ones")
        raise UserError(
            f"model {model.name} {model.version} was trained on preprocessing {model.preprocessing_fingerprint[:12]}, "
            f"but the {what} and PII policy of the use case are now {preprocessor.fingerprint[:12]}; "
            f"train a new version with highbeam train, or restore the old {old}"
        )
