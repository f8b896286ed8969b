"""Checks that a change of the schemas breaks nobody: against the newest release, and against golden data.

    python -m schemas.check             the schemas that ship here and with the use cases
    python -m schemas.check my_case     the .avsc files of a folder of yours
    python -m schemas.check --record    keeps sample data of today's schemas, once they are released

A schema is compared with the same file at the newest release tag before this commit and with every version under
``golden/``, in both directions; then the golden files themselves are read with today's schema. Exit status 1 if
anything breaks.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beam_jobs.codec.schema import parse_record
from beam_jobs.codec.valid import check_valid
from beam_jobs.errors import UserError
from beam_jobs.terminal.cli import run
from beam_jobs.terminal.commands import SCHEMAS
from schemas import contract, files, golden
from schemas.contract import OLD_DATA, OLD_READERS, Finding

RELEASE = re.compile(r"v?\d+\.\d+(\.\d+)?")  # tags that are releases; release candidates and others are not


@dataclass(frozen=True)
class Release:
    """An earlier state of the repository that a folder is in."""

    root: Path  # of the work tree
    ref: str  # a tag, or what --base named

    def schemas(self, folder: Path) -> dict[str, dict[str, Any]]:
        """The schemas the folder had, by file name without .avsc."""
        inside = folder.relative_to(self.root).as_posix()
        listed = _git(self.root, "ls-tree", "--name-only", "-z", self.ref, f"{inside}/" if inside != "." else "./")
        paths = [path for path in (listed or "").split("\0") if path.endswith(".avsc")]
        found = {}
        for path in paths:
            text = _git(self.root, "show", f"{self.ref}:{path}") or ""
            found[Path(path).stem] = files.parse(text, f"{path} of {self.ref}")
        return found


def newest_release(folder: Path, base: str | None) -> tuple[Release | None, str]:
    """The release a folder is compared with, and a sentence about it.

    Args:
      folder: inside a git work tree, or not.
      base: a commit, branch or tag to take instead of the newest release tag; None: the newest.

    Raises:
      UserError: ``base`` is nothing git knows.
    """
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top is None:
        if base:
            raise UserError(f"--base {base}: {folder} is in no git work tree, or git is not installed; leave it out")
        return None, f"{folder}: no git work tree, so compared with golden data only"
    root = Path(top.strip()).resolve()
    if base:
        if _git(root, "rev-parse", "--verify", "--quiet", f"{base}^{{tree}}") is None:
            raise UserError(f"--base {base}: git knows no such commit, branch or tag; git fetch --tags, or correct it")
        return Release(root, base), f"compared with {base}"
    here = set((_git(root, "tag", "--points-at", "HEAD") or "").split())  # a release is compared with the one before
    tags = (_git(root, "tag", "--merged", "HEAD", "--sort=-version:refname") or "").split()
    releases = [tag for tag in tags if RELEASE.fullmatch(tag) and tag not in here]
    if not releases:
        return None, "no release tag before this commit (a shallow clone has none), so compared with golden data only"
    return Release(root, releases[0]), f"compared with the release {releases[0]}"


def _git(folder: Path, *arguments: str) -> str | None:
    """What git answers; None if it is not there or refuses."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=False)  # noqa: S603, S607
    except OSError:
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def check_folder(folder: Path, release: Release | None) -> dict[tuple[str, Finding], list[str]]:
    """What the changes in a folder do to others: (schema, finding), each with the versions it is found against."""
    today = {path.stem: files.read(path) for path in files.schema_files(folder)}
    for name, schema in today.items():  # a wrong one is reported before anything is compared
        try:
            check_valid(parse_record(schema))
        except UserError as e:
            raise UserError(f"{folder / name}.avsc: {e}") from e
    found: dict[tuple[str, Finding], list[str]] = {}
    for name, earlier in release.schemas(folder).items() if release else ():
        for finding in _against(today.get(name), earlier):
            found.setdefault((name, finding), []).append(release.ref if release else "")
    for name in sorted({*today, *_recorded(folder)}):
        for path in golden.files(folder, name):
            for finding in _against_golden(today.get(name), path):
                found.setdefault((name, finding), []).append(f"{golden.FOLDER}/{name}/{path.name}")
    return found


def unrecorded(folder: Path) -> list[str]:
    """The schemas of a folder whose golden data is of an earlier version, or missing."""
    schemas = {path.stem: files.read(path) for path in files.schema_files(folder)}
    return [name for name, schema in schemas.items() if _newest_version(folder, name) != _essence(schema)]


def _recorded(folder: Path) -> list[str]:
    return [path.name for path in (folder / golden.FOLDER).glob("*") if path.is_dir()]


def _against(schema: Mapping[str, Any] | None, earlier: Mapping[str, Any]) -> list[Finding]:
    if schema is None:
        return [Finding(OLD_DATA, "the schema is gone, and with it the way to read its data: put the file back")]
    return contract.compare(schema, earlier)


def _against_golden(schema: Mapping[str, Any] | None, path: Path) -> list[Finding]:
    writer = golden.writer_schema(path)
    found = _against(schema, writer)
    if schema is None:
        return found
    if not golden.is_version(path):  # somebody else's: its data have to be read, nobody reads ours with it
        found = []
    return found + [Finding(OLD_DATA, f"{text}: keep the file readable") for text in golden.problems(path, schema)]


def _newest_version(folder: Path, name: str) -> Any:
    versions = [path for path in golden.files(folder, name) if golden.is_version(path)]
    return _essence(golden.writer_schema(versions[-1])) if versions else None


def _essence(schema: Any) -> Any:
    """A schema without what says nothing of its values: documentation."""
    if isinstance(schema, list):
        return [_essence(item) for item in schema]
    if isinstance(schema, Mapping):
        return {key: _essence(value) for key, value in schema.items() if key != "doc"}
    return schema


def record(folder: Path) -> list[Path]:
    """Writes golden files of the schemas that differ from their newest version, as the next version."""
    written = []
    for name in unrecorded(folder):
        numbers = [int(file.stem) for file in golden.files(folder, name) if golden.is_version(file)]
        schema = files.read(folder / f"{name}.avsc")
        written.append(golden.record(folder, name, schema, str(max(numbers, default=0) + 1)))
    return written


def _record_foreign(given: Sequence[Path], writer: Path, name: str) -> Path:
    """Golden data of somebody else's schema, called like its file."""
    homes = [folder for folder in given if (folder / f"{name}.avsc").is_file()]
    if not homes:
        raise UserError(f"--of {name}: no folder has a {name}.avsc; name one of the schemas, or its folder")
    if writer.stem.isdigit():
        raise UserError(f"--writer {writer}: a name of digits is a version of our own; rename the file")
    return golden.record(homes[0], name, files.read(writer), writer.stem, nulls=False)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command line's to a parser."""
    parser.description = (__doc__ or "").strip()
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="folders with .avsc files; see above")
    parser.add_argument("--base", metavar="REF", help="compare with this commit, branch or tag, not the newest release")
    parser.add_argument(
        "--level",
        choices=["FULL", "BACKWARD"],
        default="FULL",
        help="BACKWARD: what old readers cannot read is a note only, where all are updated before the writers "
        "(default FULL)",
    )
    parser.add_argument("--record", action="store_true", help="write golden data of the schemas that changed")
    parser.add_argument(
        "--writer", type=Path, metavar="AVSC", help="with --record: of this schema, which somebody else writes with"
    )
    parser.add_argument("--of", metavar="NAME", help="with --writer: the schema that has to read it, as car_sensor")
    parser.add_argument("--verbose", action="store_true", help="show stack traces")


def main(argv: Sequence[str]) -> int:
    """Parses, checks or records, reports."""
    args = SCHEMAS["schemas check"].parser().parse_args(argv)
    if (args.writer is None) != (args.of is None) or (args.writer and not args.record):
        raise UserError("--writer and --of go together, and with --record")
    folders = files.folders(args.folders)
    if args.record:
        if args.writer:
            written = [_record_foreign(folders, args.writer, args.of)]
        else:
            written = [path for folder in folders for path in record(folder)]
        print("\n".join(f"wrote {path} and .json" for path in written) or "every schema has golden data already")
        return 0
    broken = 0
    for folder in folders:
        release, sentence = newest_release(folder, args.base)
        print(f"{folder.name}/: {sentence}")
        for (name, finding), against in check_folder(folder, release).items():
            breaks = finding.breaks and not (args.level == "BACKWARD" and finding.direction == OLD_READERS)
            broken += breaks
            print(f"  {'BREAKS' if breaks else 'note'} {name} ({', '.join(against)}): {finding}")
        for name in unrecorded(folder):
            print(f"  note {name}: no golden data of today's schema yet; --record it when it is released")
    print("nothing breaks: old data and old readers go on" if not broken else f"{broken} changes break somebody")
    return 1 if broken else 0


if __name__ == "__main__":
    run(main)
