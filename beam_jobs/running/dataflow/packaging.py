"""The Highbeam that runs here as a package that workers install: the same code, not a version with the same number."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import beam_jobs
from beam_jobs.errors import UserError, one_line

NAME = "highbeam"
HOME = Path(beam_jobs.__file__).resolve().parent.parent  # a checkout, or where packages are installed

# What pip notes about this installation, not about the package; the address it came from may hold a password.
_OF_THIS_INSTALLATION = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")


def package(folder: Path) -> Path:
    """Puts the package into ``folder``: an sdist of the checkout this runs from, else a wheel of what is installed.

    Raises:
      UserError: neither can be made.
    """
    return _sdist(HOME, folder) if (HOME / "setup.py").is_file() else _wheel(HOME, folder)


def _sdist(checkout: Path, folder: Path) -> Path:
    # From links to the checkout: setuptools leaves files where it builds, and would take up those of an earlier build.
    source = folder / "source"
    source.mkdir()
    for entry in checkout.iterdir():
        if not entry.name.startswith(".") and entry.name not in ("build", "dist") and entry.suffix != ".egg-info":
            (source / entry.name).symlink_to(entry)
    command = [sys.executable, "setup.py", "--quiet", "sdist", "--formats=gztar", "--dist-dir", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)  # noqa: S603
    made = list(folder.glob(f"{NAME}-*.tar.gz"))
    if done.returncode or len(made) != 1:
        reason = one_line(done.stderr[-300:])
        raise UserError(
            f"no package can be made of {checkout} ({reason}); pip install setuptools, or name an image that has "
            "Highbeam with --sdk_container_image"
        )
    return made[0]


def _wheel(site: Path, folder: Path) -> Path:
    # There, and nowhere else on the path: another one may be an older version, or a link to a checkout.
    installed = next(iter(metadata.distributions(name=NAME, path=[str(site)])), None)
    if installed is None:
        raise UserError(
            f"Highbeam in {site} is neither a checkout nor installed by pip: workers can't be given this code; pip "
            "install it, or name an image that has it with --sdk_container_image"
        )
    wheel = folder / f"{NAME}-{installed.version}-py3-none-any.whl"
    record = ""
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as out:
        for file in installed.files or []:
            if ".." in file.parts or file.suffix == ".pyc" or file.name in _OF_THIS_INSTALLATION:
                continue
            data = Path(str(file.locate())).read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record += f"{file},sha256={digest},{len(data)}\n"
            out.writestr(str(file), data)
        name = f"{NAME}-{installed.version}.dist-info/RECORD"
        out.writestr(name, f"{record}{name},,\n")
    return wheel
