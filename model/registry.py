"""Model versions in a folder.

    REGISTRY/NAME/versions/V/   model.keras saved_model/ network.npz golden.parquet manifest.json report/ logs/
    REGISTRY/NAME/aliases.json  {"champion": "V", "challenger": "V"}

A version never changes once it is there: it is written beside its place and renamed into it, so nobody sees half of one
and two trainers don't disturb each other. Version names sort by time. An alias is what moves; a change replaces the
file in one step, under a lock.

    python -m model.registry list DIR
    python -m model.registry show DIR[@alias|@version]
    python -m model.registry promote DIR@VERSION [--alias champion]
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from beam_jobs import cli
from beam_jobs.errors import UserError
from model import manifest
from model.manifest import Manifest

CHAMPION = "champion"  # what jobs score with unless they are told otherwise
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class ModelVersion:
    """Where a version is."""

    name: str  # of the model
    version: str
    path: Path  # folder of the version
    alias: str | None  # it was asked for by this alias
    manifest: Manifest


def resolve(spec: str, use_case: str | None = None) -> ModelVersion:
    """Finds the version ``spec`` means.

    Args:
      spec: ``DIR``, ``DIR@alias`` or ``DIR@version``; without @ the champion. DIR is a registry, a model in it, or the
        folder of one version.
      use_case: which model is meant when DIR is a registry; may be None if it holds only one.

    Raises:
      UserError: no such folder, model, alias or version; it says which ones there are.
    """
    folder, _, wanted = spec.rpartition("@") if "@" in Path(spec).name else (spec, "", "")
    path = _local(folder)
    if not path.is_dir():
        raise UserError(f"--model {folder}: no such folder; train one with `python -m model.train --registry {folder}`")
    if (path / manifest.FILE_NAME).is_file():
        if wanted and wanted != path.resolve().name:
            raise UserError(f"--model {spec}: {folder} already is one version; leave out @{wanted}")
        return _version(path.resolve(), None)
    model = _model_folder(path, use_case)
    if wanted in versions(model):
        return _version(model / "versions" / wanted, None)
    alias = wanted or CHAMPION
    known = aliases(model)
    if alias not in known:
        there = ", ".join([*known, *versions(model)]) or "nothing yet"
        raise UserError(f"--model {spec}: {model.name} has no alias or version {alias!r}; it has {there}")
    version = model / "versions" / known[alias]
    if not version.is_dir():
        raise UserError(f"--model {spec}: {alias} is version {known[alias]}, which is missing in {version.parent}")
    return _version(version, alias)


def _version(path: Path, alias: str | None) -> ModelVersion:
    described = manifest.read(path)
    return ModelVersion(described.name, described.version, path, alias, described)


def versions(model: Path) -> list[str]:
    """Versions in a model's folder, oldest first."""
    folder = model / "versions"
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if (p / manifest.FILE_NAME).is_file() and p.name[0] != ".")


def aliases(model: Path) -> dict[str, str]:
    """Alias to version of a model's folder."""
    path = model / "aliases.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read ({error}); mend it or promote a version again") from error
    if not isinstance(known, dict) or not all(isinstance(v, str) for v in known.values()):
        raise UserError(f'{path}: not an object of names such as {{"champion": "VERSION"}}; promote a version again')
    return known


def promote(model: Path, version: str, alias: str = CHAMPION, only_if_absent: bool = False) -> str | None:
    """Points an alias at a version, in one step.

    Returns:
      the version the alias pointed at before, None if there was none. With ``only_if_absent`` an alias that is there
      stays.

    Raises:
      UserError: there is no such version, a bad alias, or no permission.
    """
    if version not in versions(model):
        raise UserError(f"{model.name} has no version {version!r}; it has {', '.join(versions(model)) or 'none'}")
    if not _NAME.fullmatch(alias) or alias in versions(model):
        raise UserError(f"--alias {alias!r} is no name for an alias; use letters, digits, '.', '_' and '-'")
    path = model / "aliases.json"
    with _writing(model), (model / ".aliases.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
        known = aliases(model) if only_if_absent or path.exists() else {}
        before = known.get(alias)
        if before is not None and only_if_absent:
            return before
        text = json.dumps({**known, alias: version}, indent=2, sort_keys=True) + "\n"
        _replace(path, text)
        return before


@dataclass(frozen=True)
class Draft:
    """A version in the making."""

    model: Path  # folder of the model
    version: str  # name it will have
    path: Path  # folder to write into


@contextmanager
def new_version(registry: str, name: str) -> Iterator[Draft]:
    """A folder to write a version into; it becomes the version when the block ends, or vanishes with an exception.

    Raises:
      UserError: no permission to write, or a registry that isn't a local folder.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"model name {name!r}: use letters, digits, '.', '_' and '-'")
    model = _local(registry) / name
    with _writing(model):
        (model / "versions").mkdir(parents=True, exist_ok=True)
        draft = _reserve(model)
    try:
        yield draft
        with _writing(model):
            for path in draft.path.rglob("*"):
                if path.is_file():
                    path.chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
            draft.path.rename(model / "versions" / draft.version)
    except BaseException:
        shutil.rmtree(draft.path, ignore_errors=True)
        raise


def _reserve(model: Path) -> Draft:
    while True:
        version = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        path = model / "versions" / f".partial-{version}"
        if (model / "versions" / version).exists():
            continue
        try:
            path.mkdir()  # whoever makes it has the name
        except FileExistsError:
            continue
        return Draft(model, version, path)


def _model_folder(path: Path, use_case: str | None) -> Path:
    """The model's folder, given it or a registry."""
    if (path / "versions").is_dir():
        return path
    names = sorted(p.name for p in path.iterdir() if (p / "versions").is_dir())
    if use_case in names:
        return path / str(use_case)
    if use_case is None and len(names) == 1:
        return path / names[0]
    there = f"it holds {', '.join(names)}" if names else "it holds no model; train one with `python -m model.train`"
    wanted = f"no model {use_case!r}" if use_case else "several models" if names else "no model"
    raise UserError(f"--model {path}: {wanted} in this registry; {there}")


def _local(folder: str) -> Path:
    scheme, separator, rest = folder.partition("://")
    if not separator:
        return Path(folder)
    if scheme == "file":
        return Path(rest)
    raise UserError(f"{folder}: {scheme}:// is not supported yet as a model registry; use a local folder")


@contextmanager
def _writing(model: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--registry {model}: can't be written ({error.strerror}); use a folder you may write to"
        ) from error


def _replace(path: Path, text: str) -> None:
    """Writes a whole file in one step: readers see the old or the new one."""
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def main(argv: Sequence[str]) -> None:
    """``list``, ``show`` and ``promote``."""
    parser = argparse.ArgumentParser(prog="python -m model.registry", description="Model versions and their aliases.")
    commands = parser.add_subparsers(dest="command", required=True)
    for command, text in (
        ("list", "versions, oldest first, with their aliases"),
        ("show", "what a version was made of, and how it did"),
        ("promote", "point an alias at a version"),
    ):
        sub = commands.add_parser(command, help=text, description=text)
        sub.add_argument(
            "dir", metavar="DIR", help="registry or model folder; with @alias or @version where one is meant"
        )
        sub.add_argument("--use_case", help="which model, when DIR is a registry with several")
        sub.add_argument("--verbose", action="store_true", help="stack traces with errors")
        if command == "show":
            sub.add_argument("--json", action="store_true", help="the whole manifest")
        if command == "promote":
            sub.add_argument("--alias", default=CHAMPION, help="default: %(default)s")
    args = parser.parse_args(argv)
    if args.command == "list":
        _list(args.dir, args.use_case)
        return
    if args.command == "promote" and "@" not in Path(args.dir).name:
        raise UserError(f"promote {args.dir}: say which version, as in {args.dir}@VERSION")
    found = resolve(args.dir, args.use_case)
    if args.command == "show":
        print(found.manifest.to_json() if args.json else found.manifest.summary(), end="")
        return
    before = promote(found.path.parent.parent, found.version, args.alias)
    print(f"{found.name}: {args.alias} is {found.version} now" + (f", was {before}" if before else ""))


def _list(folder: str, use_case: str | None) -> None:
    path = _local(folder)
    if not path.is_dir():
        raise UserError(f"{folder}: no such folder; name a registry or a model in it")
    models: list[Path]
    if use_case is not None or (path / "versions").is_dir():
        models = [_model_folder(path, use_case)]
    else:
        models = sorted(p for p in path.iterdir() if (p / "versions").is_dir())
    for model in models:
        names: Mapping[str, str] = aliases(model)
        for version in versions(model):
            there = manifest.read(model / "versions" / version)
            marks = " ".join(alias for alias, target in sorted(names.items()) if target == version)
            print(f"{model.name}  {version}  threshold {there.threshold:.4g}  {marks}".rstrip())


if __name__ == "__main__":
    cli.run(main)
