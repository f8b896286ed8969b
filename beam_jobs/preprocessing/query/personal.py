"""The functions through which personal data may leave: the policies of a field that is tagged."""

from __future__ import annotations

import json
import re

import polars as pl
from sqlglot import exp

from beam_jobs.preprocessing import grid
from beam_jobs.preprocessing.fields import Field
from beam_jobs.preprocessing.pii import MAX_CHARACTERS, MAX_DECIMALS, MIN_METRES, Protected
from beam_jobs.preprocessing.query.compiler import Compiled, Compiler, sql_of
from beam_jobs.preprocessing.query.numbers import rounded
from beam_jobs.preprocessing.query.types import DOUBLE, TEXT, TIMESTAMP, by_numpy, column, converted

UNITS = {"minute": "1m", "hour": "1h", "day": "1d", "week": "1w", "month": "1mo", "year": "1y"}
"""Of truncate, and what Polars calls them; weeks begin on Monday."""
_GRID = re.compile(r"(\d+(?:\.\d+)?) ?(m|km)")
_DEGREES = ("°", "deg", "degree", "degrees")  # units of a schema


def own_function(c: Compiler, node: exp.Anonymous) -> Compiled:
    handler = _FUNCTIONS.get(node.name.lower())
    if handler is None:
        c.refuse(node)
    return handler(c, node)


def unit_of(text: str, name: str) -> str | None:
    """The unit that a time was cut to, by the canonical text of what it is; None: it is something else."""
    return next((unit for unit in UNITS if text == f"(truncate:{unit} {json.dumps(name)})"), None)


def _plain_argument(c: Compiler, node: exp.Anonymous, counts: tuple[int, ...], example: str) -> Field:
    if len(node.expressions) not in counts or not isinstance(node.expressions[0], exp.Column):
        c.fail(node, f"{sql_of(node)}: write it as {example}, on a plain column")
    return c.column(node.expressions[0])


def _not_direct(c: Compiler, node: exp.Anonymous, field: Field) -> None:
    if field.pii == "direct":
        c.fail(node, f"{sql_of(node)}: {field.name} identifies a person directly; pseudonymize, encrypt or drop it")


def _pseudonymize(c: Compiler, node: exp.Anonymous) -> Compiled:
    """pseudonymize(column), or pseudonymize(column, 'id') under another key than the first."""
    field = _plain_argument(c, node, (1, 2), "pseudonymize(column)")
    key_id = None
    if len(node.expressions) == 2:
        named = node.expressions[1]
        if not (isinstance(named, exp.Literal) and named.is_string):
            c.fail(node, f"{sql_of(node)}: the id of the key is a text in quotes")
        key_id = named.name
    return _under_a_key(c, node, field, Protected(field.name, key_id=key_id))


def _encrypt(c: Compiler, node: exp.Anonymous) -> Compiled:
    field = _plain_argument(c, node, (1,), "encrypt(column)")
    return _under_a_key(c, node, field, Protected(field.name, "encrypt"))


def _under_a_key(c: Compiler, node: exp.Anonymous, field: Field, protected: Protected) -> Compiled:
    if field.kind != "string":
        c.fail(node, f"{sql_of(node)}: {field.name} is a {field.kind}; {protected.how} needs a text; use generalize")
    c.protected.add(protected)
    return Compiled(pl.col(protected.column), TEXT, protected.text, frozenset({field.name}))


def _generalize(c: Compiler, node: exp.Anonymous) -> Compiled:
    field = _plain_argument(c, node, (2,), "generalize(column, 1)")
    _not_direct(c, node, field)
    if field.kind == "number":
        digits = c.whole_number(node.expressions[1], f"generalize({field.name}, ...)", -9, MAX_DECIMALS)
        type_, expr = DOUBLE, rounded(converted(*column(field), DOUBLE), DOUBLE, digits)
    elif field.kind == "string":
        digits = c.whole_number(node.expressions[1], f"generalize({field.name}, ...)", 1, MAX_CHARACTERS)
        type_, expr = TEXT, pl.col(field.name).str.slice(0, digits)
    else:
        remedy = "; truncate cuts times" if field.kind == "timestamp" else ""
        c.fail(node, f"{sql_of(node)}: {field.name} is a {field.kind}; generalize needs a number or a text{remedy}")
    return Compiled(expr, type_, f"(generalize:{digits} {json.dumps(field.name)})", frozenset({field.name}))


def _truncate(c: Compiler, node: exp.Anonymous) -> Compiled:
    """A time to the start of its hour, a position to the edge of its cell."""
    field = _plain_argument(
        c, node, (2, 3), "truncate(column, 'hour'), truncate(column, 1) or truncate(column, '5 km')"
    )
    _not_direct(c, node, field)
    how = node.expressions[1]
    written = how.name if isinstance(how, exp.Literal) and how.is_string else None
    if len(node.expressions) == 3 and (field.kind != "number" or written is None):
        c.fail(
            node, f"{sql_of(node)}: only the cell of a longitude needs a latitude: truncate(column, '5 km', latitude)"
        )
    if field.kind == "timestamp":
        if written is None or written.lower() not in UNITS:
            c.fail(node, f"{sql_of(node)}: {field.name} is a time; its unit is one of {', '.join(UNITS)}, in quotes")
        unit = written.lower()
        expr = converted(*column(field), TIMESTAMP).dt.truncate(UNITS[unit])
        return Compiled(expr, TIMESTAMP, f"(truncate:{unit} {json.dumps(field.name)})", frozenset({field.name}))
    if field.kind != "number":
        c.fail(
            node, f"{sql_of(node)}: {field.name} is a {field.kind}; truncate needs a time or a number; use generalize"
        )
    number = converted(*column(field), DOUBLE)
    if written is None:
        digits = c.whole_number(how, f"truncate({field.name}, ...)", -9, MAX_DECIMALS)
        expr = by_numpy(lambda x: grid.to_decimals(x, digits), DOUBLE, number)
        return Compiled(expr, DOUBLE, f"(truncate:{digits} {json.dumps(field.name)})", frozenset({field.name}))
    metres = _metres(c, node, field, written)
    if len(node.expressions) == 2:
        expr = by_numpy(lambda x: grid.latitude(x, metres), DOUBLE, number)
        return Compiled(expr, DOUBLE, f"(truncate:{metres:g}m {json.dumps(field.name)})", frozenset({field.name}))
    if not isinstance(node.expressions[2], exp.Column):
        c.fail(node, f"{sql_of(node)}: write it as truncate(longitude, '5 km', latitude), on plain columns")
    at = c.column(node.expressions[2])
    if at.kind != "number":
        c.fail(node, f"{sql_of(node)}: {at.name} is a {at.kind}; the cell of a longitude needs its latitude")
    _metres(c, node, at, written)
    names = f"{json.dumps(field.name)} {json.dumps(at.name)}"
    expr = by_numpy(lambda x, y: grid.longitude(x, metres, y), DOUBLE, number, converted(*column(at), DOUBLE))
    return Compiled(expr, DOUBLE, f"(truncate:{metres:g}m {names})", frozenset({field.name, at.name}))


def _metres(c: Compiler, node: exp.Anonymous, field: Field, written: str) -> float:
    """How large the cells of a grid are."""
    found = _GRID.fullmatch(written.strip())
    metres = float(found[1]) * (1000 if found[2] == "km" else 1) if found else 0.0
    if not MIN_METRES <= metres <= 1e7:
        c.fail(
            node,
            f"{sql_of(node)}: {field.name} is a number; cut it to decimals (at most {MAX_DECIMALS}), or to cells of "
            f"{MIN_METRES / 1000:g} km or more, such as '5 km'",
        )
    if field.unit is not None and field.unit not in _DEGREES:
        c.fail(node, f"{sql_of(node)}: {field.name} is in {field.unit}; cells in km are of degrees, use decimals")
    return metres


_FUNCTIONS = {
    "pseudonymize": _pseudonymize,
    "encrypt": _encrypt,
    "generalize": _generalize,
    "truncate": _truncate,
}
