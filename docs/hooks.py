"""What mkdocs lacks for this repository: pages outside ``docs/``, links to code, and a search that works from a folder.

Relative links of the pages are right in the repository. In the site a link to a page leads to its page, one to another
file to a copy of its text; one to a folder becomes plain text.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PAGES = {  # file of the repository -> page of the site; those of docs/ are pages anyway
    "README.md": "index.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "templates/README.md": "templates.md",
}
_LINK = re.compile(r"\[([^\[\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")
_WORKER_SHIM = "https://unpkg.com/iframe-worker/shim"  # what the offline plugin loads for that


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages from outside ``docs/``, and the text of each file that a page links to."""
    for source, page in PAGES.items():
        if (ROOT / source).exists():
            files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    linked = {target for file in files.documentation_pages() for target in _targets(file)}
    for target in sorted(linked):
        if (ROOT / target).is_file() and _page(target) is None:
            files.append(File.generated(config, f"source/{target}.txt", abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links as they lead somewhere in the site."""

    def moved(link: re.Match[str]) -> str:
        text, target, anchor = link[1], _resolved(page.file, link[2]), link[3] or ""
        there = _page(target) or f"source/{target}.txt"
        if files.get_file_from_path(there) is None:
            return text if (ROOT / target).is_dir() else link[0]
        return f"[{text}]({posixpath.relpath(there, posixpath.dirname(page.file.src_uri) or '.')}{anchor})"

    return _LINK.sub(moved, markdown)


def on_post_build(config: Any) -> None:
    """The search without a content server: browsers start no worker from a ``file:``, but one from a text they have."""
    site = Path(config.site_dir)
    (worker,) = site.glob("assets/javascripts/workers/search.*.min.js")
    (site / "assets/worker.js").write_text(
        f"const code = {json.dumps(worker.read_text(encoding='utf-8'))};\n"
        "window.Worker = class extends Worker { constructor() { super(URL.createObjectURL(new Blob([code]))) } };\n",
        encoding="utf-8",
    )
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        own = Path(os.path.relpath(site / "assets/worker.js", page.parent)).as_posix()
        page.write_text(text.replace(_WORKER_SHIM, own), encoding="utf-8")


def _targets(file: File) -> set[str]:
    text = Path(file.abs_src_path or "").read_text(encoding="utf-8")
    return {_resolved(file, link[2]) for link in _LINK.finditer(text)}


def _resolved(file: File, link: str) -> str:
    """The path in the repository that a link of a page names."""
    here = next((source for source, page in PAGES.items() if page == file.src_uri), f"docs/{file.src_uri}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(here), link))


def _page(path: str) -> str | None:
    """The page of the site that shows a file of the repository, or the file of ``docs/`` it is; this one is code."""
    own = path.startswith("docs/") and not path.endswith(".py")
    return PAGES.get(path) or (path.removeprefix("docs/") if own else None)
