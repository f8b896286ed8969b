"""The walk over the syntax tree of a query: each node goes to its handler, what has none is refused with the reason."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NoReturn

import polars as pl
from sqlglot import exp

from beam_jobs.errors import UserError
from beam_jobs.preprocessing.fields import Field, Kind
from beam_jobs.preprocessing.pii import Protected
from beam_jobs.preprocessing.query.intervals import to_text
from beam_jobs.preprocessing.query.types import BOOLEAN, DOUBLE, INTEGER, NULL, TEXT, Type, common, constant, converted
from beam_jobs.preprocessing.windows.frames import Frame, is_tiled

_NONE: frozenset[str] = frozenset()
DEEPEST = 24  # operators inside one another in one expression of Polars


@dataclass(frozen=True, eq=False)
class Step:
    """An intermediate column of the frame, made before the expressions that read it."""

    column: str  # no Avro name has a colon
    expr: pl.Expr


@dataclass(frozen=True)
class Compiled:
    """One expression, ready to run on a frame that has its steps."""

    expr: pl.Expr
    type: Type
    text: str  # canonical form, independent of spelling and of sqlglot's version; goes into the fingerprint
    columns: frozenset[str] = _NONE  # fields it reads
    raw_pii: frozenset[str] = _NONE  # tagged fields it reads outside the functions that protect them (personal.py)
    constant: Any = None  # its value if it is the same in every row, and not NULL; of an exact number times 10^scale
    steps: tuple[Step, ...] = ()  # each reads columns of those before it
    depth: int = 0  # operators inside one another, since the last step

    @property
    def kind(self) -> Kind:
        return self.type.kind


def with_steps(frame: pl.DataFrame, values: Iterable[Compiled]) -> pl.DataFrame:
    """The frame and the intermediate columns that the values need."""
    for step in dict.fromkeys(step for value in values for step in value.steps):
        frame = frame.with_columns(step.expr.alias(step.column))
    return frame


@dataclass(frozen=True)
class WindowFeature:
    """``function(argument) OVER (PARTITION BY key ORDER BY event_time RANGE …)``."""

    function: str  # one of windows.frames.FUNCTIONS
    argument: Compiled | None  # what it aggregates, a double; None: the time of each row
    frame: Frame
    column: str  # of the frame that holds its values; no Avro name has a colon
    text: str  # canonical form, as in Compiled
    by: str | None = None  # field whose rows it is about; None: the key
    labels: bool = False  # it reads the label, and is about rows whose label is known
    share: Fraction = Fraction(0)  # of a quantile: which one

    @property
    def tiled(self) -> bool:
        return is_tiled(self.function, self.frame)


def roots(value: Compiled) -> set[str]:
    """Columns of the frame that an expression needs: fields, what stands for them, windows."""
    made = {step.column for step in value.steps}
    return {name for expr in (value.expr, *(s.expr for s in value.steps)) for name in expr.meta.root_names()} - made


class Compiler:
    """Compiles the expressions of one query; collects the windows and the protected fields it meets."""

    def __init__(
        self,
        handlers: Handlers,
        fields: Mapping[str, Field],
        sql: str,
        source: str,
        key: str,
        event_time: str,
        label_us: int = 0,
    ) -> None:
        self.handlers = handlers
        self.fields = fields
        self.names: Mapping[str, Field | Compiled] = fields  # what expressions may read
        self.sql = sql
        self.source = source
        self.key = key
        self.event_time = event_time
        self.label_us = label_us  # how long a label may take; 0: it is not said
        self.tables = {"events"}
        self.stage = 0  # SELECTs with windows, further in
        self.windows: dict[str, WindowFeature] = {}  # of this SELECT, by canonical text: each is computed once
        self.named_windows: dict[str, exp.Window] = {}  # of the WINDOW clause, by name in lower case
        self.protected: set[Protected] = set()  # what it reads of fields under a key
        self.second_keys: set[str] = set()  # fields other than the key that windows are by
        self._labels = False
        self._unseen = ""  # why not
        self._steps = 0

    def compile(self, node: Any) -> Compiled:
        entry = self.handlers.get(type(node))
        if entry is None:
            self.refuse(node)
        handler, allowed = entry
        for name, value in node.args.items():
            if value and name not in allowed:  # even a flag: NOT LIKE is LIKE with one
                self.fail(node, f"{name.rstrip('_').upper()} is not supported in {_name(node)}")
        compiled = handler(self, node)
        # The time Polars takes grows with the square of the depth, and its stack ends somewhere.
        return compiled if compiled.depth < DEEPEST and compiled.columns else self.once(compiled)

    def fail(self, node: Any, message: str) -> NoReturn:
        """Raises the UserError ``message`` with the place of ``node`` in the SQL in front, if it is known."""
        starts = [part.meta["start"] for part in node.walk() if "start" in part.meta] if node is not None else []
        raise UserError(f"{place(self.source, self.sql, min(starts, default=None))}: {message}")

    def number(self, node: Any, operand: Compiled | None = None) -> Compiled:
        """A number of any type; NULL is the integer it is in DuckDB. ``operand`` is the node compiled, if it is."""
        operand = self._typed(node, "number", "a number", operand)
        return operand if operand.type != NULL else self._null(operand, INTEGER)

    def double(self, node: Any) -> Compiled:
        return self.convert(self.number(node), DOUBLE, node)

    def string(self, node: Any) -> Compiled:
        return self._null(self._typed(node, "string", "a text"), TEXT)

    def boolean(self, node: Any) -> Compiled:
        return self._null(self._typed(node, "boolean", "true or false (a comparison)"), BOOLEAN)

    def _typed(self, node: Any, kind: Kind, wanted: str, operand: Compiled | None = None) -> Compiled:
        operand = operand or self.compile(node)
        if operand.kind not in (kind, "null"):
            self.fail(node, f"{sql_of(node)} is {a_kind(operand.kind)}; {sql_of(node.parent)} needs {wanted}")
        return operand

    def _null(self, operand: Compiled, type_: Type) -> Compiled:
        """The operand, typed if it is NULL."""
        return replace(operand, expr=operand.expr.cast(type_.dtype), type=type_) if operand.type == NULL else operand

    def convert(self, operand: Compiled, to: Type, node: Any) -> Compiled:
        """The operand in another type, one that types.common() found for it; ``node`` is for errors."""
        if operand.type in (to, NULL):
            return operand if to == NULL else self._null(operand, to)
        if operand.constant is None:
            return replace(operand, expr=converted(operand.expr, operand.type, to), type=to)
        value = constant(operand.constant, operand.type, to)
        if to.exact and abs(value) > to.bound:
            self.fail(node, f"{sql_of(node)} has too many digits for what it is used with; write it with an exponent")
        text = operand.text if to.exact else repr(value)
        return replace(operand, expr=pl.lit(value, to.dtype), type=to, text=text, constant=value)

    def same_kind(self, nodes: Sequence[Any]) -> list[Compiled]:
        """Operands that must have one type, brought to it."""
        return self.alike([self.compile(node) for node in nodes], nodes)

    def alike(self, operands: Sequence[Compiled], nodes: Sequence[Any]) -> list[Compiled]:
        """The operands, of ``nodes``, in the type that all of them have or can be brought to."""
        kinds = dict.fromkeys(operand.kind for operand in operands if operand.kind != "null")
        if len(kinds) > 1:
            parts = ", ".join(f"{sql_of(n)} is {a_kind(o.kind)}" for n, o in zip(nodes, operands, strict=True))
            self.fail(nodes[0], f"{sql_of(nodes[0].parent)} mixes types: {parts}; use CAST")
        if "other" in kinds:
            self.fail(nodes[0], f"{sql_of(nodes[0].parent)} uses a field whose type the SQL can't handle")
        type_ = common(operand.type for operand in operands)
        return [self.convert(operand, type_, node) for operand, node in zip(operands, nodes, strict=True)]

    def once(self, operand: Compiled) -> Compiled:
        """The operand as a column, or a literal if it is constant: what uses it twice would compute it twice."""
        if operand.depth == 0:
            return operand
        if not operand.columns:
            value = with_steps(pl.DataFrame({"": [0]}), [operand]).select(operand.expr).item()
            return replace(operand, expr=pl.lit(value, operand.type.dtype), constant=value, steps=(), depth=0)
        self._steps += 1
        step = Step(f"step:{self._steps}", operand.expr)
        return replace(operand, expr=pl.col(step.column), steps=(*operand.steps, step), depth=0)

    def whole_number(self, node: Any, what: str, low: int, high: int, default: int | None = None) -> int:
        """A literal argument such as the decimals of ROUND."""
        if node is None and default is not None:
            return default
        text = node.sql().replace(" ", "") if node is not None else "nothing"
        if not re.fullmatch(r"-?\d+", text) or not low <= int(text) <= high:
            self.fail(node, f"{what} got {text}; it needs a whole number from {low} to {high}")
        return int(text)

    def column(self, node: exp.Column) -> Field:
        """The field a column is."""
        name, found = self.lookup(node)
        if not isinstance(found, Field):
            self.fail(node, f"{name} is computed in the sub-select; use a field")
        return found

    def lookup(self, node: exp.Column) -> tuple[str, Field | Compiled]:
        """What a column is, and its name; without quotes the case may differ, as in SQL."""
        if node.args.get("table") and node.table.lower() not in self.tables:
            self.fail(node, f"{sql_of(node)}: nested fields are not supported; use top-level fields of the schema")
        name = node.name
        if name not in self.names and not node.this.args.get("quoted"):
            matches = [known for known in self.names if known.lower() == name.lower()]
            name = matches[0] if len(matches) == 1 else name
        found = self.names.get(name)
        if found is None:
            self.fail(node, f"unknown column {node.name}{did_you_mean(node.name, self.names)}")
        if isinstance(found, Field) and found.label and not self._labels:
            ends = f"at least {to_text(self.label_us)} before now" if self.label_us else "as long ago as labels take"
            self.fail(
                node,
                f"{found.name} is the label: unknown when an event is scored{self._unseen}; remove it from the SQL, or "
                f"read it in a window that ends {ends} (BETWEEN INTERVAL '37' DAY PRECEDING AND INTERVAL '7' DAY "
                "PRECEDING)",
            )
        return name, found

    @contextmanager
    def seeing_labels(self, seen: bool, why_not: str = "") -> Iterator[None]:
        """While it is open the label may be read, if ``seen``: of rows so old that theirs are known."""
        before = self._labels, self._unseen
        self._labels, self._unseen = seen, why_not
        try:
            yield
        finally:
            self._labels, self._unseen = before

    def refuse(self, node: Any) -> NoReturn:
        name = _name(node)
        function = node.name.lower() if isinstance(node, exp.Anonymous) else name.lower()
        if isinstance(node, exp.Query | exp.Subquery | exp.Exists):
            self.fail(node, "a subquery is not supported but in FROM: a row must be computed from its own fields")
        if isinstance(node, exp.Star):
            self.fail(node, "* is not supported: name each feature, their order is the model's contract")
        if _UNSTABLE.fullmatch(function) or name.startswith("Current"):
            self.fail(node, f"{sql_of(node)} gives another value on each replay; use the fields of the event")
        if isinstance(node, exp.AggFunc | exp.IgnoreNulls | exp.RespectNulls | exp.Filter) or _ORDERED.fullmatch(
            function
        ):
            self.fail(
                node,
                f"{sql_of(node)} depends on other rows, so on how they were cut into blocks; "
                "only OVER (PARTITION BY key ORDER BY event_time RANGE ...) defines which rows are meant",
            )
        if isinstance(node, exp.Anonymous):
            self.fail(node, f"unknown function {node.name}{did_you_mean(node.name.lower(), FUNCTIONS)}")
        if isinstance(node, exp.Func) and not isinstance(node, exp.Binary):
            self.fail(node, f"{sql_of(node)}: this function is not supported; use one of {', '.join(FUNCTIONS)}")
        self.fail(node, f"{sql_of(node)} is not supported; see docs/preprocessing.md for the SQL that is")


Handler = Callable[[Compiler, Any], Compiled]
Handlers = Mapping[type[Any], tuple[Handler, Sequence[str]]]
"""By node type: the handler and the arguments of the node it reads."""


def place(source: str, sql: str, start: int | None) -> str:
    """ "preprocess.sql line 2, column 8" of a character of the SQL; only the source if it is not known."""
    if start is None:
        return source
    line = sql.count("\n", 0, start) + 1
    return f"{source} line {line}, column {start - (sql.rfind(chr(10), 0, start) + 1) + 1}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=1, cutoff=0.6)
    if close:
        return f"; did you mean {next(n for n in names if n.lower() == close[0])}?"
    return f"; use one of {', '.join(names)}"


def _name(node: Any) -> str:
    return type(node).__name__


def a_kind(kind: Kind) -> str:
    """What a value is, for errors."""
    return {"other": "of a type the SQL can't handle", "interval": "an interval", "null": "NULL"}.get(kind, f"a {kind}")


def sql_of(node: Any) -> str:
    text = str(node.sql(dialect="duckdb", comments=False))
    return text if len(text) <= 60 else text[:57] + "..."


def join(name: str, type_: Type, expr: pl.Expr, *operands: Compiled) -> Compiled:
    """The expression made of the operands; its text tells the types apart in which ``name`` means different things."""
    return Compiled(
        expr,
        type_,
        f"({name} {' '.join(o.text for o in operands)})",
        frozenset().union(*(o.columns for o in operands)),
        frozenset().union(*(o.raw_pii for o in operands)),
        steps=tuple(dict.fromkeys(step for o in operands for step in o.steps)),
        depth=1 + max((o.depth for o in operands), default=0),
    )


FUNCTIONS = (
    *("abs", "sqrt", "exp", "ln", "log", "log10", "power", "sign", "floor", "ceil", "round", "mod"),
    *("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "radians", "degrees", "pi"),
    *(
        "least",
        "greatest",
        "coalesce",
        "nullif",
        "cast",
        "extract",
        "epoch",
        "date_diff",
        "lower",
        "upper",
        "length",
        "substring",
        "concat",
    ),
    *("pseudonymize", "encrypt", "generalize", "truncate"),
)
"""Functions the SQL may use, beside operators, CASE, BETWEEN, IN, LIKE and IS."""

# Only for the wording of the refusal: whatever has no handler is refused.
_UNSTABLE = re.compile(r"(gen_)?rand.*|.*uuid.*|setseed|now|today|local.*|.*timestamp|txid_current|nextval|currval")
_ORDERED = re.compile(r"row_?number|(dense|percent)?_?rank|cume_?dist|ntile|lag|lead|(first|last|nth)_?(value)?")
