"""Makes installed distributions, as pip leaves them: for tests of what is added from outside the package."""

from collections.abc import Mapping
from pathlib import Path


def install(folder: Path, name: str, code: str, groups: Mapping[str, Mapping[str, str]]) -> str:
    """Writes a distribution of one module into ``folder``, which is to be put on ``sys.path`` (or ``PYTHONPATH``).

    Args:
      name: of the distribution and of its module.
      code: of the module.
      groups: of entry points: group to name to "module:attribute".
    """
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / f"{name}.py").write_text(code, encoding="utf-8")
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    (about / "RECORD").write_text(f"{name}.py,,\n", encoding="utf-8")
    lines = [
        line
        for group, points in groups.items()
        for line in (f"[{group}]", *(f"{point} = {value}" for point, value in points.items()))
    ]
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder)
