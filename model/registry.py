"""Model versions in a folder, on this machine or in a bucket.

    REGISTRY/NAME/versions/V/   model.keras saved_model/ network.npz golden.parquet manifest.json [manifest.sig]
                                report/ logs/
    REGISTRY/NAME/aliases.json  {"champion": "V", "challenger": "V"}

A version never changes once it is there, and nobody sees half of one: locally it is written beside its place and
renamed into it; in a bucket its manifest comes last, and without a manifest it does not count. Version names sort by
time. An alias is what moves; a change replaces the file in one step, and of two changes at once none is lost.

    highbeam models list DIR
    highbeam models show DIR[@alias|@version]
    highbeam models promote DIR@VERSION [--alias champion]
    highbeam models sign DIR@VERSION --signing_key env:KEY
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from beam_jobs.errors import UserError, one_line
from beam_jobs.storage import files
from beam_jobs.terminal import cli, flags
from beam_jobs.terminal.commands import MODELS
from model import manifest
from model.local_copy import local_copy
from model.manifest import Manifest
from model.signature import MODEL_KEY, SIGNATURE_BYTES, SIGNING_KEY, Signer, Verifier

CHAMPION = "champion"  # what jobs score with unless told otherwise

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # what only writing meets

Folder = str | os.PathLike[str]  # of a model: a local path, or gs://


@dataclass(frozen=True)
class ModelVersion:
    """Where a version is. Picklable: a worker finds its own copy of the files."""

    name: str  # of the model
    version: str
    folder: str  # of the version: a local path, or gs://
    alias: str | None  # it was asked for by this alias
    manifest: Manifest
    digest: str  # sha256 of manifest.json

    @property
    def path(self) -> Path:
        """The version's folder on this machine: where it is or, from a bucket, a copy that is made once."""
        if files.is_local(self.folder):
            return Path(self.folder)
        return local_copy(self.folder, self.version, self.digest, self.manifest.files)


def resolve(spec: str, use_case: str | None = None, model_key: str | None = None) -> ModelVersion:
    """Finds the version ``spec`` means.

    Args:
      spec: ``DIR``, ``DIR@alias`` or ``DIR@version``; without @ the champion. DIR is a registry, a model in it, or the
        folder of one version; local or ``gs://``.
      use_case: which model is meant when DIR is a registry; may be None if it holds only one.
      model_key: reference to the public keys of which one must have signed the version; None: any version will do.

    Raises:
      UserError: no such folder, model, alias or version; it says which ones there are. A manifest that is none, is of
        another version, or is not signed.
    """
    verifier = None if model_key is None else Verifier(model_key)
    folder, _, wanted = spec.rpartition("@") if "@" in _last(spec) else (spec, "", "")
    root = files.root_of(folder)
    files.check_access(root)
    if files.is_local(root) and not os.path.isdir(root):
        raise UserError(f"--model {folder}: no such folder; train one with `highbeam train --registry {folder}`")
    if files.list_files(f"{root}/{manifest.FILE_NAME}"):
        root = os.path.realpath(root) if files.is_local(root) else root
        if wanted and wanted != _last(root):
            raise UserError(f"--model {spec}: {folder} already is one version; leave out @{wanted}")
        return _version(root, None, verifier)
    model = _model_folder(root, use_case)
    there = versions(model)
    if wanted in there:
        return _version(f"{model}/versions/{wanted}", None, verifier)
    alias = wanted or CHAMPION
    known = aliases(model)
    if alias not in known:
        listed = ", ".join([*known, *there]) or "nothing yet"
        raise UserError(f"--model {spec}: {_last(model)} has no alias or version {alias!r}; it has {listed}")
    if known[alias] not in there:
        raise UserError(f"--model {spec}: {alias} is version {known[alias]}, which is missing in {model}/versions")
    return _version(f"{model}/versions/{known[alias]}", alias, verifier)


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _version(folder: str, alias: str | None, verifier: Verifier | None = None) -> ModelVersion:
    path = f"{folder}/{manifest.FILE_NAME}"
    data = _first_bytes(path, manifest.MAX_BYTES + 1)
    if data is None:
        raise UserError(f"{path} is missing; copy the version again")
    if verifier is not None:  # before anything is believed of what it says
        verifier.verify(data, _first_bytes(f"{folder}/{manifest.SIGNATURE}", SIGNATURE_BYTES + 1), folder)
    described = manifest.parse(data, path)
    if described.version != _last(folder):
        raise UserError(
            f"{path} is of version {described.version}, its folder is called {_last(folder)}; a version's folder has "
            "its name: rename it back, or copy the version again"
        )
    return ModelVersion(described.name, described.version, folder, alias, described, hashlib.sha256(data).hexdigest())


def _first_bytes(path: str, most: int) -> bytes | None:
    """None: there is no such file."""
    try:
        with files.open_file(path) as file:
            return file.read(most)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror or error}); put it there again") from error


def versions(model: Folder) -> list[str]:
    """Versions in a model's folder, oldest first."""
    found = files.list_files(f"{os.fspath(model)}/versions/*/{manifest.FILE_NAME}")
    return sorted(name for name in (path.split("/")[-2] for path in found) if name[0] != ".")


def aliases(model: Folder) -> dict[str, str]:
    """Alias to version of a model's folder."""
    path = f"{os.fspath(model)}/aliases.json"
    data = _first_bytes(path, manifest.MAX_BYTES + 1)
    return {} if data is None else _aliases(path, data)


def _aliases(path: str, data: bytes) -> dict[str, str]:
    if len(data) > manifest.MAX_BYTES:
        raise UserError(f"{path}: more than {manifest.MAX_BYTES:,} bytes; remove it and promote a version again")
    try:
        known = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read ({error}); remove it and promote a version again") from error
    if not isinstance(known, dict) or not all(isinstance(v, str) for v in known.values()):
        raise UserError(
            f'{path}: not an object of names such as {{"champion": "VERSION"}}; remove it and promote a version again'
        )
    return known


def promote(model: Folder, version: str, alias: str = CHAMPION, only_if_absent: bool = False) -> str | None:
    """Points an alias at a version, in one step.

    Returns:
      the version the alias pointed at before, None if there was none. With ``only_if_absent`` an alias that is there
      stays.

    Raises:
      UserError: there is no such version, a bad alias, or no permission.
    """
    model = os.fspath(model)
    there = versions(model)
    if version not in there:
        raise UserError(f"{_last(model)} has no version {version!r}; it has {', '.join(there) or 'none'}")
    check_alias(alias, there)
    path = f"{model}/aliases.json"

    def change(old: bytes | None) -> bytes | None:
        known = {} if old is None else _aliases(path, old)
        if only_if_absent and alias in known:
            return None
        return (json.dumps({**known, alias: version}, indent=2, sort_keys=True) + "\n").encode()

    with files.writing(f"--registry {model}", begun=False):
        old = files.update(path, change)
    return None if old is None else _aliases(path, old).get(alias)


def sign(spec: str, signing_key: str, use_case: str | None = None) -> ModelVersion:
    """Signs a version that is there; its files are what its manifest says.

    Args:
      spec, use_case: as for :func:`resolve`.
      signing_key: reference to the private key.

    Raises:
      UserError: no such version or key, a file that was changed, or no permission to write.
    """
    signer, found = Signer(signing_key), resolve(spec, use_case)
    manifest.check_files(found.path, manifest.read(found.path, found.digest))
    with files.writing(f"--registry {found.folder}"):
        files.write_bytes(
            f"{found.folder}/{manifest.SIGNATURE}", signer.signature((found.path / manifest.FILE_NAME).read_bytes())
        )
    return found


def check_alias(alias: str, there: Sequence[str]) -> None:
    """UserError for what can't be an alias, or is one of the versions that are ``there``."""
    if not manifest.NAME.fullmatch(alias) or alias in there:
        raise UserError(f"--alias {alias!r} is no name for an alias; use letters, digits, '.', '_' and '-'")


@dataclass(frozen=True)
class Draft:
    """A version in the making."""

    model: str  # folder of the model
    version: str  # name it will have
    path: Path  # folder to write into, on this machine

    @property
    def name(self) -> str:
        """Of the model."""
        return _last(self.model)

    @property
    def folder(self) -> str:
        """Where the version will be."""
        return f"{self.model}/versions/{self.version}"


@contextmanager
def new_version(registry: str, name: str) -> Iterator[Draft]:
    """A folder to write a version into; it becomes the version when the block ends, or vanishes with an exception.

    Raises:
      UserError: no permission to write, or no room.
    """
    if not manifest.NAME.fullmatch(name):
        raise UserError(f"model name {name!r}: use letters, digits, '.', '_' and '-'")
    root = files.root_of(registry)
    files.check_access(root)
    model = f"{root}/{name}"
    with files.writing(f"--registry {model}", begun=False):
        draft = _reserve(model)
    try:
        with _filling(f"--registry {model}"):
            yield draft
        with files.writing(f"--registry {model}", begun=False):
            _publish(draft)
    finally:
        shutil.rmtree(draft.path, ignore_errors=True)


def _reserve(model: str) -> Draft:
    version = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    if not files.is_local(model):
        return Draft(model, version, Path(tempfile.mkdtemp(prefix="highbeam-model-")))
    folder = Path(model, "versions")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".partial-{version}"
    try:
        path.mkdir()  # whoever makes it has the name
    except FileExistsError:
        return _reserve(model)
    return Draft(model, version, path)


def _publish(draft: Draft) -> None:
    written = sorted(path for path in draft.path.rglob("*") if path.is_file())
    if files.is_local(draft.model):
        for path in written:
            path.chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
        draft.path.rename(draft.folder)
        return
    targets = {path: f"{draft.folder}/{path.relative_to(draft.path).as_posix()}" for path in written}
    described = draft.path / manifest.FILE_NAME
    try:
        for path, target in targets.items():
            if path != described:
                files.patiently(partial(files.upload, path, target))
        files.patiently(partial(files.upload, described, targets[described]))  # last: now it counts
    except BaseException:
        files.remove(targets.values())
        raise


def _model_folder(root: str, use_case: str | None) -> str:
    """The model's folder, given it or a registry."""
    if versions(root):
        return root
    models = _models(root)
    names = [_last(model) for model in models]
    if use_case in names:
        return f"{root}/{use_case}"
    if use_case is None and len(models) == 1:
        return models[0]
    there = f"it holds {', '.join(names)}" if names else "it holds no model; train one with `highbeam train`"
    wanted = f"no model {use_case!r}" if use_case else "several models" if names else "no model"
    raise UserError(f"--model {root}: {wanted} in this registry; {there}")


def _models(root: str) -> list[str]:
    """Folders of the models in a registry that have a version."""
    found = files.list_files(f"{root}/*/versions/*/{manifest.FILE_NAME}")
    return sorted({path.rsplit("/", 3)[0] for path in found})


@contextmanager
def _filling(where: str) -> Iterator[None]:
    """Around what writes a version: a folder that takes nothing more is one line, whoever writes there.

    What else goes wrong is let through: not all that a training reads and writes is in the registry.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number = getattr(error, "errno", None)
        full = next((n for n in _FULL if n == number or (number is None and os.strerror(n) in str(error))), None)
        if full is None:
            raise
        with files.writing(where):
            raise OSError(full, os.strerror(full)) from error


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command line's to a parser: ``list``, ``show``, ``promote`` and ``sign``."""
    commands = parser.add_subparsers(dest="command", required=True)
    for command, text in (
        ("list", "versions, oldest first, with their aliases"),
        ("show", "what a version was made of, and how it did"),
        ("promote", "point an alias at a version"),
        ("sign", "vouch for a version: sign its manifest, with the sha256 of all its files"),
    ):
        sub = commands.add_parser(command, help=text, description=text)
        sub.add_argument(
            "dir", metavar="DIR", help="registry or model folder; with @alias or @version where one is meant"
        )
        sub.add_argument("--use_case", help="which model, when DIR is a registry with several")
        sub.add_argument("--gcs_anonymous", action="store_true", help="read a public gs:// bucket without credentials")
        sub.add_argument("--verbose", action="store_true", help="stack traces with errors")
        if command == "show":
            sub.add_argument("--json", action="store_true", help="the whole manifest")
        if command == "promote":
            sub.add_argument("--alias", default=CHAMPION, help="default: %(default)s")
        if command in ("show", "promote"):
            sub.add_argument(MODEL_KEY, metavar="REFERENCE", help=flags.MODEL_KEY_HELP)
        if command == "sign":
            sub.add_argument(SIGNING_KEY, metavar="REFERENCE", required=True, help=flags.SIGNING_KEY_HELP)


def main(argv: Sequence[str]) -> None:
    """Does what the sub-command says."""
    args = MODELS["models"].parser().parse_args(argv)
    files.configure(args.gcs_anonymous)
    if args.command == "list":
        _list(args.dir, args.use_case)
        return
    if args.command in ("promote", "sign") and "@" not in _last(args.dir):
        raise UserError(f"{args.command} {args.dir}: say which version, as in {args.dir}@VERSION")
    if args.command == "sign":
        signed = sign(args.dir, args.signing_key, args.use_case)
        print(f"{signed.name}: {signed.version} is signed")
        return
    found = resolve(args.dir, args.use_case, args.model_key)
    if args.command == "show":
        print(found.manifest.to_json() if args.json else found.manifest.summary(), end="")
        return
    if found.manifest.few_rows:
        cli.say(f"warning: {found.manifest.few_rows}")
    before = promote(found.folder.rsplit("/", 2)[0], found.version, args.alias)
    print(f"{found.name}: {args.alias} is {found.version} now" + (f", was {before}" if before else ""))


def _list(folder: str, use_case: str | None) -> None:
    root = files.root_of(folder)
    files.check_access(root)
    if files.is_local(root) and not os.path.isdir(root):
        raise UserError(f"{folder}: no such folder; name a registry or a model in it")
    models = [_model_folder(root, use_case)] if use_case is not None or versions(root) else _models(root)
    for model in models:
        names: Mapping[str, str] = aliases(model)
        for version in versions(model):
            try:
                told = f"threshold {_version(f'{model}/versions/{version}', None).manifest.threshold:.4g}"
            except UserError as error:  # the others are there all the same
                told = f"can't be used: {error} "
            marks = " ".join(alias for alias, target in sorted(names.items()) if target == version)
            print(f"{one_line(_last(model))}  {one_line(version)}  {told}  {marks}".rstrip())


if __name__ == "__main__":
    cli.run(main)
