"""A use case is a folder: an event schema, the preprocessing SQL and the settings of the model; no Python.

    use_case.yaml    what is what; see SETTINGS
    preprocess.sql   features and filter
    *.avsc           the event schema, unless it is one that ships with Highbeam

>>> car_sensors = load_use_case("car_sensors")
>>> car_sensors.key, car_sensors.label, len(car_sensors.preprocessor().features)
('car_id', 'failure_occurred', 19)
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

import schemas
import use_cases
from beam_jobs.codec.csv.dialect import Dialect
from beam_jobs.codec.schema import parse_record
from beam_jobs.codec.valid import check_valid
from beam_jobs.credentials.references import FORMS
from beam_jobs.errors import UserError, one_line
from beam_jobs.preprocessing import PiiPolicy, Preprocessor, compile_sql
from beam_jobs.preprocessing.fields import fields_of
from beam_jobs.preprocessing.query.intervals import from_text
from beam_jobs.preprocessing.told import Told, told_of
from beam_jobs.preprocessing.windows.frames import DEFAULT_LATENESS, Lateness
from beam_jobs.storage import files
from model.settings import ModelSettings

_KEY_ROWS, _LABEL = "window_key_rows", "label_delay"
LATENESS = {
    "window_lateness": "late_ms",
    "window_delay": "delay_ms",
    "window_clock_skew": "clock_skew_ms",
    _KEY_ROWS: "key_rows",
    _LABEL: "label_ms",
}
"""Settings and options, and what Lateness calls them."""
SETTINGS = (
    "name",
    "schema",
    "sql",
    "key",
    "event_time",
    "csv",
    "pii",
    "normal",
    "story",
    *LATENESS,
    "label_schema",
    "model",
)
"""Keys of use_case.yaml:
name: what jobs and models are called; default: the folder's name.
schema: a shipped schema (car_sensor) or an .avsc file in the folder, or beside it: ../other/payment.avsc.
sql: SQL file in the folder; default: preprocess.sql.
key, event_time: fields of the schema.
csv: how CSV files are written, where it is not as usual: {delimiter: ";", decimal: ",", times: "%d.%m.%Y %H:%M"};
  the fields of codec/csv/dialect.py.
pii: {keys: {ID: REFERENCE, ...}} or {key: REFERENCE}, needed by pseudonymize() and encrypt(): env:NAME, file:PATH or
  secret://projects/P/secrets/S/versions/NUMBER. The first of keys is used, and its id stands before what it makes; the
  others, and key, which has no id, still count.
normal: conditions over the features, such as [speed = 0 AND current_draw < 1]; training learns rows that meet one,
  however rare they are.
story: how alerts tell of features, by feature: {says: "{} payments in 10 minutes", usual: count_30d / 4320, usual_says:
  "this card's mean is {}"}; the number stands for {}, usual is SQL over the features (docs/alerts.md).
window_lateness, window_delay, window_clock_skew: how late rows may be that windows of the SQL see (docs/windows.md);
  each an interval such as 10 minutes.
window_key_rows: the most rows of a key that windows hold, such as 100000.
label_delay: how long after its event a label may come, such as 7 days; windows that read the label end so long before
  now, or earlier (docs/windows.md).
label_schema: an .avsc file in the folder, of labels that come on a topic of their own; default: the events' schema.
model: the fields of ModelSettings, and settings of its kind: by default those of the autoencoder, NetworkConfig.
"""


@dataclass(frozen=True)
class UseCase:
    """Everything the jobs know about one kind of event; picklable, holds no secret."""

    name: str
    schema: dict[str, Any]  # the reader's Avro record schema
    sql: str
    key: str  # field that names the device or account
    event_time: str  # field with the time of the event
    label: str | None  # field tagged "label" in the schema, None: there is none
    pii: PiiPolicy = field(default_factory=PiiPolicy)
    model: ModelSettings = field(default_factory=ModelSettings)
    normal: tuple[str, ...] = ()  # conditions over the features: rows that meet one are learnt, however rare
    story: tuple[Told, ...] = ()  # how alerts tell of features
    csv: Dialect = field(default_factory=Dialect)  # how its CSV files are written
    lateness: Lateness = DEFAULT_LATENESS  # which late rows the windows of the SQL see
    label_schema: dict[str, Any] | None = None  # of labels on a topic of their own; None: that of the events
    source: str = "SQL"  # what errors call the SQL

    def with_lateness(self, given: Mapping[str, Any]) -> UseCase:
        """The use case with the LATENESS that options say, where they say any.

        Raises:
          UserError: an option is no interval.
        """
        texts = {name: given[name] for name in LATENESS if given.get(name) is not None}
        return replace(self, lateness=_lateness(texts, self.lateness, "--")) if texts else self

    def schema_of_labels(self, needed: Collection[str]) -> dict[str, Any]:
        """How records of labels are read: fields that are ``needed`` as those of events are, the others need not be.

        Raises:
          UserError: ``label_schema`` lacks one.
        """
        of_events = {field["name"]: field for field in self.schema["fields"]}
        schema = self.label_schema or self.schema
        lacking = sorted(set(needed) - {field["name"] for field in schema["fields"]})
        if lacking:
            raise UserError(
                f"{self.source}: windows that read the label need {', '.join(lacking)} of its event, and label_schema "
                f"({schema['name']}) has no such field; add it, or leave it out of them"
            )
        fields = [of_events[f["name"]] if f["name"] in needed else _optional(f) for f in schema["fields"]]
        return {**schema, "fields": fields}

    def preprocessor(self) -> Preprocessor:
        """The compiled SQL, the same object on each call; UserError if it can't be compiled."""
        return self._compiled

    @cached_property
    def _compiled(self) -> Preprocessor:
        return compile_sql(
            self.sql,
            self.schema,
            self.pii,
            key=self.key,
            event_time=self.event_time,
            lateness=self.lateness,
            source=self.source,
        )


def shipped() -> list[str]:
    """Names of the use cases that ship with Highbeam."""
    return sorted(folder.name for folder in resources.files(use_cases).iterdir() if _is_use_case(folder))


def load_use_case(name_or_folder: str) -> UseCase:
    """A shipped use case by name, or one of your own by its folder: a path, or gs://.

    Raises:
      UserError: no such use case, or a setting that is missing, unknown or wrong. The SQL is compiled, and judged,
        by ``preprocessor()``.
    """
    if name_or_folder in shipped():
        return _load(resources.files(use_cases) / name_or_folder, name_or_folder)
    if files.is_local(name_or_folder):
        return _load(files.local_path(name_or_folder), name_or_folder)
    with tempfile.TemporaryDirectory() as copies:
        return _load(_copied(name_or_folder, Path(copies)), name_or_folder)


def _copied(uri: str, copies: Path) -> Path:
    """The folder of a use case in a bucket, copied to this machine under its own name."""
    root = files.root_of(uri)
    files.check_access(root)
    copy = copies / root.rpartition("/")[2]
    copy.mkdir()
    for path in files.list_files(f"{root}/*"):
        files.download(path, copy / path.rpartition("/")[2])
    return copy


def _load(folder: Traversable, name_or_folder: str) -> UseCase:
    if not _is_use_case(folder):
        raise UserError(
            f"use case {name_or_folder!r} is neither one that ships ({', '.join(shipped())}) "
            "nor a folder with a use_case.yaml"
        )
    where = f"{name_or_folder}/use_case.yaml"
    settings = _settings(_read(folder, "use_case.yaml", where), where)
    schema = _schema(folder, settings, where)
    fields = fields_of(schema)
    for setting in ("key", "event_time"):
        if settings[setting] not in fields:
            raise UserError(
                f"{where}: {setting} is {settings[setting]!r}, not a field of the schema; it has {', '.join(fields)}"
            )
    labels = [f.name for f in fields.values() if f.label]
    if len(labels) > 1:
        raise UserError(f"{where}: the schema has the labels {', '.join(labels)}; tag one field with label")
    sql = settings.get("sql", "preprocess.sql")
    return UseCase(
        name=settings.get("name") or Path(folder.name or ".").resolve().name,
        schema=schema,
        sql=_read(folder, sql, f"{where}: sql"),
        key=settings["key"],
        event_time=settings["event_time"],
        label=labels[0] if labels else None,
        pii=_pii(settings.get("pii"), where),
        model=_model(settings.get("model"), where),
        normal=_normal(settings.get("normal"), where),
        story=told_of(settings.get("story"), where),
        csv=_csv(settings.get("csv"), where),
        lateness=_lateness(settings, DEFAULT_LATENESS, f"{where}: "),
        label_schema=_avsc(folder, settings["label_schema"], where) if "label_schema" in settings else None,
        source=f"{name_or_folder}/{sql}",
    )


def _is_use_case(folder: Traversable) -> bool:
    return folder.is_dir() and (folder / "use_case.yaml").is_file()


def _read(folder: Traversable, name: str, what: str) -> str:
    try:
        return (folder / name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{what}: {name} can't be read ({error}); put the file into the use case's folder") from error


def _settings(text: str, where: str) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not YAML: {one_line(error)}") from error
    settings = _mapping(settings, SETTINGS, where)
    for name in ("schema", "key", "event_time"):
        if name not in settings:
            raise UserError(f"{where}: {name} is missing; it needs schema, key and event_time")
    for name in ("name", "schema", "sql", "key", "event_time", "label_schema"):
        if name in settings and not (isinstance(settings[name], str) and settings[name]):
            raise UserError(f"{where}: {name} is {settings[name]!r}; use a text")
    return settings


def _mapping(value: Any, allowed: tuple[str, ...], where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: is {value!r}; use `key: value` lines with {', '.join(allowed)}")
    for key in value:
        if key not in allowed:
            raise UserError(f"{where}: unknown key {key!r}; it is one of {', '.join(allowed)}")
    return value


def _schema(folder: Traversable, settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    name = settings["schema"]
    if not name.endswith(".avsc"):
        try:
            return schemas.load(name)
        except UserError as error:
            raise UserError(f"{where}: {error}, or name an .avsc file in the folder") from error
    return _avsc(folder, name, where)


def _avsc(folder: Traversable, name: str, where: str) -> dict[str, Any]:
    try:
        schema: dict[str, Any] = json.loads(_read(folder, name, f"{where}: schema"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: schema {name} is not JSON: {error}") from error
    try:
        check_valid(parse_record(schema))
    except UserError as error:
        raise UserError(f"{where}: {name}: {error}") from error
    return schema


def _optional(field: dict[str, Any]) -> dict[str, Any]:
    """A field of a schema that may be null, or missing."""
    branches = field["type"] if isinstance(field["type"], list) else [field["type"]]
    return {**field, "type": ["null", *(branch for branch in branches if branch != "null")], "default": None}


def _csv(section: Any, where: str) -> Dialect:
    if section is None:
        return Dialect()
    names = tuple(Dialect.__dataclass_fields__)
    given = _mapping(section, names, f"{where}: csv")
    for name, value in given.items():
        if not isinstance(value, str):
            raise UserError(f"{where}: csv.{name} is {value!r}; use a text, in quotes")
    try:
        return Dialect(**given)
    except UserError as error:
        raise UserError(f"{where}: csv: {error}") from error


def _lateness(given: Mapping[str, Any], default: Lateness, where: str) -> Lateness:
    found = {}
    for name in LATENESS.keys() & given.keys():
        if name == _KEY_ROWS:
            if type(given[name]) is not int or not 1 <= given[name] <= _MOST_KEY_ROWS:
                raise UserError(
                    f"{where}{name} is {given[name]!r}; use a whole number of rows from 1 to {_MOST_KEY_ROWS}"
                )
            found[LATENESS[name]] = given[name]
            continue
        micros = from_text(given[name]) if isinstance(given[name], str) else None
        most, usual = (400, "7 days") if name == _LABEL else (31, "10 minutes or 1 hour")
        if micros is None or micros % 1000 or not 0 <= micros <= most * _DAY_US:
            raise UserError(f"{where}{name} is {given[name]!r}; use an interval such as {usual}, at most {most} days")
        found[LATENESS[name]] = micros // 1000
    return replace(default, **found)


_DAY_US = 86_400_000_000
_MOST_KEY_ROWS = 100_000_000


def _pii(section: Any, where: str) -> PiiPolicy:
    if section is None:
        return PiiPolicy()
    given = _mapping(section, ("key", "keys"), f"{where}: pii")
    key, keys = given.get("key"), given.get("keys")
    if key is not None and not isinstance(key, str):
        raise UserError(f"{where}: pii.key is not a reference; use {FORMS}")
    if keys is not None and not (isinstance(keys, dict) and keys):
        raise UserError(f"{where}: pii.keys is no `id: reference` lines; the first is used, the others still count")
    for key_id, reference in (keys or {}).items():
        if not isinstance(key_id, str):
            raise UserError(f"{where}: pii.keys: the id {key_id} is no text; put it in quotes")
        if not isinstance(reference, str):
            raise UserError(f"{where}: pii.keys.{key_id} is not a reference; use {FORMS}")
    try:
        return PiiPolicy(key, tuple((keys or {}).items()))
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _normal(section: Any, where: str) -> tuple[str, ...]:
    texts = [] if section is None else section if isinstance(section, list) else [section]
    for text in texts:
        if not (isinstance(text, str) and text.strip()):
            raise UserError(f"{where}: normal has {text!r}; use a list of conditions, such as ['speed = 0']")
    return tuple(texts)


def _model(section: Any, where: str) -> ModelSettings:
    if section is not None and not isinstance(section, dict):
        raise UserError(f"{where}: model: is {section!r}; use `key: value` lines, such as kind: autoencoder")
    return ModelSettings.of(section or {}, where)
