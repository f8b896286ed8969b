"""Writes the tables of docs/schemas.md from the .avsc files.

python -m schemas.docs              rewrites what is between the page's two marks
python -m schemas.docs --check      exit status 1 if that would change anything
python -m schemas.docs my_case      prints the tables of a folder of yours
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import schemas
from beam_jobs.codec.schema import AvroType, parse_record
from beam_jobs.errors import UserError
from beam_jobs.terminal.cli import run
from beam_jobs.terminal.commands import SCHEMAS
from schemas import files

PAGE = files.ROOT / "docs" / "schemas.md"
BEGIN, END = "<!-- tables: python -m schemas.docs -->", "<!-- end of the tables -->"
_HEAD = "| Field | Type | Unit | Range | Personal data | |\n|---|---|---|---|---|---|\n"


def tables(folders: Sequence[Path]) -> str:
    """Markdown: a section for each schema of the folders, in it a table for each record."""
    return "\n".join(_section(path) for folder in folders for path in files.schema_files(folder))


def _section(path: Path) -> str:
    schema = files.read(path)
    where = path.name
    if path.is_relative_to(files.ROOT):
        inside = path.relative_to(files.ROOT).as_posix()
        where = f"[{inside}](../{inside})"
    return f"### {path.stem}\n{where}: {schema.get('doc', '')}\n" + "".join(_records(schema))


def _records(schema: Mapping[str, Any]) -> Iterator[str]:
    """The table of a record, then those of the records in its fields."""
    record = parse_record(schema)
    rows = []
    for field, entry in zip(schema["fields"], record.fields, strict=True):
        tags = schemas.tags(field)
        notes = [field.get("doc", "")]
        if tags.get("label"):
            notes.append("*The label.*")
        if aliases := field.get("aliases"):
            notes.append("Also read as " + ", ".join(f"`{alias}`" for alias in aliases) + ".")
        limits = _range(tags.get("min"), tags.get("max"))
        unit, pii, kind = _cell(tags.get("unit", "")), tags.get("pii", ""), _type(entry.type)
        default = f", default `{json.dumps(field['default'], ensure_ascii=False)}`" if "default" in field else ""
        rows.append(f"| `{entry.name}` | {kind}{default} | {unit} | {limits} | {pii} | {_cell(' '.join(notes))} |\n")
    yield "\n" + _HEAD + "".join(rows)
    for field in schema["fields"]:
        for inner in _inner(field["type"]):
            yield f"\n`{inner['name']}`: {inner.get('doc', '')}\n"
            yield from _records(inner)


def _inner(kind: Any) -> Iterator[Mapping[str, Any]]:
    """The records a field's type defines, not those within them."""
    if isinstance(kind, list):
        for branch in kind:
            yield from _inner(branch)
    elif isinstance(kind, Mapping):
        if kind["type"] == "record":
            yield kind
        else:
            for key in ("type", "items", "values"):
                yield from _inner(kind.get(key))


def _type(avro: AvroType) -> str:
    if avro.kind == "union":
        return " or ".join(_type(branch) for branch in sorted(avro.branches, key=lambda branch: branch.kind == "null"))
    if avro.kind in ("array", "map"):
        return f"{avro.kind} of {_type(avro.item)}"
    if avro.kind == "enum":
        return "enum " + ", ".join(avro.symbols)
    if avro.logical == "decimal":
        return f"decimal({avro.precision}, {avro.scale})"
    if avro.kind == "fixed":
        return f"{avro.size} bytes"
    return avro.logical or avro.name.rpartition(".")[2] or avro.kind


def _range(low: float | None, high: float | None) -> str:
    if low is None:
        return "" if high is None else f"at most {high}"
    return f"at least {low}" if high is None else f"{low} to {high}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def renewed(page: str, content: str) -> str:
    """The text of a page with ``content`` between its marks.

    Raises:
      UserError: the page has not both marks, once each and in that order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in after:
        raise UserError(f"the page has not the marks {BEGIN} and {END}, once each; put them where the tables belong")
    return f"{before}{begin}\n\n{content}\n{end}{after}"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command line's to a parser."""
    parser.description = (__doc__ or "").strip()
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="print the tables of these folders")
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE", help=f"default {PAGE.name} of the checkout")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit status 1 if the page is not up to date"
    )
    parser.add_argument("--verbose", action="store_true", help="show stack traces")


def main(argv: Sequence[str]) -> int:
    """Parses, writes or compares."""
    args = SCHEMAS["schemas docs"].parser().parse_args(argv)
    content = tables(files.folders(args.folders))
    if args.folders:
        print(content)
        return 0
    try:
        page = args.page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"--page {args.page} cannot be read ({e}); it is a file of a checkout") from e
    wanted = renewed(page, content)
    if args.check and wanted != page:
        print(f"{args.page} is not what the .avsc files say: run python -m schemas.docs")
        return 1
    if wanted != page:
        args.page.write_text(wanted, encoding="utf-8")
    print(f"{args.page} is up to date")
    return 0


if __name__ == "__main__":
    run(main)
