"""Makes a use case of what is there, a file, a topic or a registry's subject: ``highbeam init``.

The folder gets an Avro schema, preprocess.sql and use_case.yaml, all to be edited.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

import pyarrow as pa

from beam_jobs.archives.event_files import read_events
from beam_jobs.archives.rows import archive_schema
from beam_jobs.block import MAX_BLOCK_ROWS
from beam_jobs.codec.avro.file import write_avro
from beam_jobs.codec.csv.dialect import Dialect
from beam_jobs.codec.schema import arrow_schema
from beam_jobs.errors import UserError, one_line
from beam_jobs.preprocessing.fields import fields_of
from beam_jobs.samples.draft import Draft, Wishes, draft
from beam_jobs.samples.found import Found, Options, look
from beam_jobs.storage.files import local_path
from beam_jobs.terminal.cli import run
from beam_jobs.terminal.commands import BEGIN
from beam_jobs.use_case import UseCase, load_use_case


def write(made: Draft, output: Path, overwrite: bool, events_of: Path | None = None) -> list[str]:
    """Writes the folder, or nothing where something of it is refused; returns the names of what is in it.

    Args:
      events_of: a file whose rows are to be events as well, in the folder's ``events/``.

    Raises:
      UserError: the folder is there and ``overwrite`` is not set, or it is no use case's; or the use case is refused.
    """
    if output.exists() and not overwrite:
        raise UserError(f"--output {output} is there already; name a new folder, or write over it with --overwrite")
    if output.exists() and not (output / "use_case.yaml").is_file() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output {output} is no use case, it is not written over; name a new folder")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".init-") as scratch:
            folder = Path(scratch) / output.name
            folder.mkdir()
            texts = {
                f"{made.name}.avsc": json.dumps(made.schema, indent=2, ensure_ascii=False) + "\n",
                "preprocess.sql": made.sql,
                "use_case.yaml": made.settings,
            }
            for name, text in texts.items():
                (folder / name).write_text(text, encoding="utf-8")
            use_case = load_use_case(str(folder))
            use_case.preprocessor()  # what it refuses is said now
            names = list(texts)
            if events_of is not None and fields_of(use_case.schema)[use_case.key].pii:
                raise UserError(
                    f"--events: the key, {use_case.key}, looks like personal data, which no archive of events holds; "
                    "leave --events out, or name another --key"
                )
            if events_of is not None:
                (folder / "events").mkdir()
                _write_events(folder / "events/part-0.avro", events_of, use_case)
                names.append("events/")
            _move(folder, output)
    except OSError as error:
        raise UserError(f"--output {output}: {error.strerror or error}; name a folder you may write to") from error
    return names


def _move(folder: Path, output: Path) -> None:
    """All at once where nothing is there; else file by file, over those of the same name."""
    if not output.exists():
        folder.rename(output)
        return
    for path in sorted(folder.iterdir(), reverse=True):  # use_case.yaml first: what it names is there a moment later
        if path.is_dir():
            shutil.rmtree(output / path.name, ignore_errors=True)
        path.replace(output / path.name)


def _write_events(path: Path, source: Path, use_case: UseCase) -> None:
    """The rows as an archive of events has them: from one partition, in the order of their times."""
    schema = archive_schema(use_case, "events")
    arrow = arrow_schema(schema)
    names = [field["name"] for field in use_case.schema["fields"]]
    wanted = [name for name in names if name in arrow.names]
    rows = pa.Table.from_batches([decoded.rows for decoded in read_events(source, use_case, wanted)])
    rows = rows.sort_by(use_case.event_time)
    n = rows.num_rows
    own = {
        "source_topic": pa.repeat(use_case.name, n),
        "source_partition": pa.repeat(0, n),
        "source_offset": pa.array(range(n), pa.int64()),
        "source_timestamp": rows.column(use_case.event_time),
        "source_key": rows.column(use_case.key).cast(pa.string()).cast(pa.binary()),
    }
    columns = [own[f.name] if f.name in own else rows.column(f.name) for f in arrow]
    table = pa.table([column.cast(f.type) for column, f in zip(columns, arrow, strict=True)], schema=arrow)
    write_avro(path, schema, table.combine_chunks().to_batches(MAX_BLOCK_ROWS))


def _say(found: Found, made: Draft, names: Sequence[str], output: Path, source: str, registry: str | None) -> None:
    for what, how in [("looked at", found.what), *made.said, ("wrote", f"{output}/: {', '.join(names)}")]:
        print(f"{what:<11} {one_line(how)}")
    given = f" --schema_registry {registry}" if registry else ""
    if found.rows is not None:
        named = f"--use_case {quote(str(output))} --input {quote(source)}"  # to be copied into a shell
        print(f"{'next':<11} highbeam preview {named}{given}")


def main(argv: Sequence[str]) -> int:
    """Parses, looks, writes, and says what was taken for what."""
    given = BEGIN["init"].parser().parse_args(argv)
    output = local_path(given.output)
    if not re.fullmatch(r"[A-Za-z_]\w*", output.name, re.ASCII):
        raise UserError(f"--output {output}: name the folder with letters, digits and _, as the use case is called")
    if output.exists() and not given.overwrite:
        raise UserError(f"--output {output} is there already; name a new folder, or write over it with --overwrite")
    Dialect(given.delimiter, times=given.time_format)  # what it refuses is said first
    if given.events and "://" in given.source and not given.source.lower().startswith("file:"):
        raise UserError(
            "--events makes events of a file's rows, and what is on a topic are events already; leave it out"
        )
    options = Options(given.schema_registry, given.kafka_config, given.delimiter, given.time_format)
    found = look(given.source, options)
    made = draft(output.name, found, Wishes(given.key, given.event_time, given.label))
    names = write(made, output, given.overwrite, local_path(given.source) if given.events else None)
    _say(found, made, names, output, given.source, given.schema_registry)
    return 0


if __name__ == "__main__":
    run(main)
