"""How a query was compiled, for people: what is read and checked, which rows are kept, what each column is made of.

A plan is a list of steps, in the order in which a row passes them. Whoever adds a step to what jobs do adds it here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from beam_jobs.errors import one_line
from beam_jobs.preprocessing.fields import Field
from beam_jobs.preprocessing.preprocessor import Output, Preprocessor
from beam_jobs.preprocessing.query.compiler import Compiled, WindowFeature
from beam_jobs.preprocessing.query.intervals import to_text
from beam_jobs.preprocessing.stages import reach_of
from beam_jobs.preprocessing.windows.frames import QUANTILES, Frame

_LONGEST = 20_000  # characters of an entry
_POLARS = "Polars, on the columns of a block, in the job's process"
_KERNEL = "a compiled loop, row by row in the order of the log, in the job's process"
_AS_IT_IS = "as the record has it: nothing is computed"


@dataclass(frozen=True)
class Entry:
    """A line of a step: a field, an expression or a window."""

    name: str  # of the column; "where" of a condition
    type: str
    text: str  # what it is made of, in canonical form; "": it is read
    notes: Sequence[str] = ()  # what else is worth knowing, a phrase each


@dataclass(frozen=True)
class Step:
    """What happens to a row at one place."""

    name: str
    runs: str  # where it runs
    facts: Sequence[str]  # a sentence each, without the full stop
    entries: Sequence[Entry]


@dataclass(frozen=True)
class Plan:
    """How a query was compiled."""

    source: str  # of the SQL: its file
    steps: Sequence[Step]
    fingerprint: str  # of all that decides which values come out

    def lines(self, width: int) -> Iterator[str]:
        """The plan as printable text, no line longer than ``width`` where a word allows it."""
        yield f"plan of {one_line(self.source)}"
        for number, step in enumerate(self.steps, 1):
            yield f"{number}. {step.name}"
            yield from _wrapped(f"runs in {step.runs}", 3, width)
            for fact in step.facts:
                yield from _wrapped(fact, 3, width)
            for entry in step.entries:
                made = f"  = {entry.text}" if entry.text else ""
                yield from _wrapped(f"{entry.name}  {entry.type}{made}", 5, width)
                for note in entry.notes:
                    yield from _wrapped(note, 9, width)
        yield f"fingerprint {self.fingerprint}"


def plan_of(preprocessor: Preprocessor, fields: Mapping[str, Field], source: str) -> Plan:
    """The plan of a compiled query.

    Args:
      fields: all there are of the schema, by name.
      source: what errors call the SQL.
    """
    p, steps = preprocessor, []
    names = {window.text: window.column for window in p.windows}
    steps.append(_decode(p, fields))
    for number, stage in enumerate(p.stages):
        if stage.by is not None and p.stages[number - 1].by is None:
            steps.append(_repartition(p, stage.by))
        steps.append(_stage(p, number, names))
    entries = [] if p.where is None else [_where(p.where, names)]
    entries += _plain(p.outputs)
    entries += [
        _output(output, names) for output in p.outputs if output.field is None or output.field.name != output.name
    ]
    facts = ["the WHERE lets through rows for which it is true; the others are filtered, and are no dead letters"]
    facts = facts if p.where is not None else ["all rows are let through"]
    facts.append("a feature that is null (null_feature) or not finite (not_finite) makes its row a dead letter")
    steps.append(Step("the columns of the result", _POLARS, facts, entries))
    return Plan(source, steps, p.fingerprint)


def _decode(p: Preprocessor, fields: Mapping[str, Field]) -> Step:
    unread = len(fields) - len(p.inputs)
    facts = [f"{unread:,} of the schema's {len(fields):,} fields are not decoded"] if unread else []
    facts.append("a row that fails a check is a dead letter (out_of_range, not_finite, null_key, null_event_time)")
    facts.append("checks come before any WHERE: a broken record is never silently filtered")
    return Step(
        "decode and check",
        "the decoder and Arrow, on the columns of a block, in the job's process",
        facts,
        [Entry(field.name, f"{_type_of(field)}{_limits_of(field)}", "", _about(field, p)) for field in p.inputs],
    )


def _stage(p: Preprocessor, number: int, names: Mapping[str, str]) -> Step:
    stage = p.stages[number]
    history = stage.history(p.lateness)
    key = stage.by or p.key
    alike = [before for before in p.stages[: number + 1] if before.by == stage.by]
    reach_us = reach_of((before, before.history(p.lateness).reach_us) for before in alike)
    by_row = [window.frame.reach_us for window in stage.windows if not window.tiled]
    tiled = len(by_row) < len(stage.windows)
    which = "longest window that holds every row" if tiled else "longest window"
    longest = f"as long as the {which}, {to_text(max(by_row))}, and " if by_row else ""
    lateness = p.lateness.of_labels() if stage.labels else p.lateness
    late = to_text(lateness.late_ms * 1000)
    facts = [
        f"rows are kept by {key}, {longest}{late} for late ones, at most {p.lateness.key_rows:,} of one {key}",
        f"a row takes {history.row_bytes:g} bytes, a key {history.key_bytes:,} more; all windows here share the rows",
        f"a job that starts again reads the log from {to_text(reach_us)} before its first record on",
    ]
    if tiled:
        hops = f"older ones are known by hops to windows in hop form: {history.tile_bytes} bytes a {key} and hop"
        facts.insert(1, hops)
    if stage.labels:
        facts.insert(0, "windows that read the label are made of the rows whose label is known, and of no others")
    entries = [] if stage.where is None else [_where(stage.where, names)]
    entries += [_window(window, names) for window in stage.windows]
    return Step(f"windows{f', stage {number + 1}' if len(p.stages) > 1 else ''}", _KERNEL, facts, entries)


def _repartition(p: Preprocessor, second: str) -> Step:
    """Where rows go from the partitions of the key to those of another one."""
    legs = p.legs()
    facts = [
        f"rows are written to a topic whose records have {second} as their key, and the same job reads them there",
        f"they come to {second} in the order of their partitions' clocks, whichever partition was read faster",
        "beside where the row stood they hold what is needed behind it, and of personal data what may leave",
    ]
    columns = [Entry(f["doc"], _avro_name(f["type"]), "goes along") for f in legs.schema["fields"] if "doc" in f]
    return Step(f"repartition by {second}", "Kafka: --repartition_topic", facts, columns)


def _avro_name(type_: Any) -> str:
    if isinstance(type_, list):
        return " or ".join(_avro_name(each) for each in type_)
    return str(type_.get("logicalType", type_["type"])) if isinstance(type_, dict) else str(type_)


def _window(window: WindowFeature, names: Mapping[str, str]) -> Entry:
    of = "rows" if window.argument is None else _named(window.argument.text, names)
    share = f", {float(window.share):g}" if window.function in QUANTILES else ""
    text = f"{window.function}({of}{share}) {frame_text(window.frame)}"
    notes = [] if window.argument is None else _computed(window.argument)
    return Entry(window.column, "double", text, notes)


def frame_text(frame: Frame) -> str:
    """Which rows a frame holds, as a phrase."""
    start = to_text(frame.start_us)
    if frame.hop_us:
        since = f"since the full {to_text(frame.hop_us)} that was {start} ago"
        return f"{since}, to {to_text(frame.end_us)} ago" if frame.end_us else since
    if frame.end_us:
        return f"from {start} to {to_text(frame.end_us)} ago"
    return f"of the last {start}{', without the row itself' if frame.exclude_current else ''}"


def _where(where: Compiled, names: Mapping[str, str]) -> Entry:
    return Entry("where", "boolean", _named(where.text, names), _computed(where))


def _plain(outputs: Sequence[Output]) -> Iterator[Entry]:
    """The fields that come out as they are, under their names: of those a query may have many."""
    for is_feature, role in ((False, "no feature"), (True, "feature, float32")):
        alike = [output.name for output in outputs if output.is_feature == is_feature and _is_plain(output)]
        if alike:
            yield Entry(f"{len(alike):,} field{'s'[: len(alike) != 1]}", role, ", ".join(alike), [_AS_IT_IS])


def _is_plain(output: Output) -> bool:
    return output.field is not None and output.field.name == output.name


def _output(output: Output, names: Mapping[str, str]) -> Entry:
    role = f"feature, float32 of {output.value.type}" if output.is_feature else "no feature"
    if output.field is not None:
        return Entry(output.name, role, f'"{output.field.name}"', [_AS_IT_IS])
    return Entry(output.name, role, _named(output.value.text, names), _computed(output.value))


def _computed(value: Compiled) -> list[str]:
    notes = [f"reads {', '.join(sorted(value.columns))}"] if value.columns else []
    if value.constant is not None or (not value.columns and not value.text.startswith("(over:")):
        notes.append("the same in every row")
    if value.steps:
        notes.append(f"{len(value.steps):,} intermediate column{'s'[: len(value.steps) != 1]}, computed once each")
    if "(pseudonymize" in value.text:
        notes.append("pseudonyms are made once for each different value of a block, HMAC-SHA256 under the key of pii")
    if "(encrypt" in value.text:
        notes.append("each different value of a block is encrypted once, AES-SIV under the key of pii")
    return notes


def _named(text: str, names: Mapping[str, str]) -> str:
    """A canonical text with the columns of windows in place of their definitions; outer ones hold inner ones."""
    for definition, column in sorted(names.items(), key=lambda known: -len(known[0])):
        text = text.replace(definition, f"[{column}]")
    return text


def _type_of(field: Field) -> str:
    branches = field.type if isinstance(field.type, list) else [field.type]
    said = [str(b.get("logicalType") or b.get("type")) if isinstance(b, dict) else str(b) for b in branches]
    return " or ".join(said)


def _limits_of(field: Field) -> str:
    low = "" if field.minimum is None else f" from {field.minimum:g}"
    high = "" if field.maximum is None else f" to {field.maximum:g}"
    return f"{low}{high}{f' {field.unit}' if field.unit else ''}"


def _about(field: Field, p: Preprocessor) -> list[str]:
    notes = []
    if field.name in (p.key, p.event_time):
        notes.append("the key" if field.name == p.key else "the event time")
    if field.pii:
        notes.append(
            f"personal data (pii: {field.pii}): leaves as a pseudonym, encrypted, generalized, truncated, or not at all"
        )
    if field.label:
        notes.append("the label: read only in frames that end before now")
    return notes


def _wrapped(text: str, indent: int, width: int) -> list[str]:
    """Lines that no terminal obeys: units and texts of the SQL may hold anything."""
    return wrap(
        one_line(text, _LONGEST),
        max(width, indent + 20),
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )
