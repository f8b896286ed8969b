"""The documentation tells the truth about files, commands and flags."""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import re
import subprocess
import sys
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from unittest import mock

import pytest

import beam_jobs
from beam_jobs.errors import REASONS
from beam_jobs.terminal.commands import COMMANDS
from chaos.scenarios import SCENARIOS

ROOT = Path(beam_jobs.__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "templates/README.md"])
CURRENT = [page for page in PAGES if page.name != "CHANGELOG.md"]  # which tells of commands that are gone
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
COMMAND = re.compile(r"python -m ((?:beam_jobs|model|schemas|demo|bench|chaos|templates)[\w.]*)((?:[^\n`]|\\\n)*)")
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")
NO_HELP = {"bench", "bench.decode", "bench.preprocess", "bench.model_choices"}  # they take no options
BEAM = {
    "--runner",
    "--job_endpoint",
    "--flink_master",
    "--environment_type",
    "--prism_location",
    "--project",
    "--region",
    "--temp_location",
}


@cache
def flags(module: str, subcommand: str) -> set[str]:
    """The options that --help of a command, or of its subcommand ("" for none), names."""
    package = (ROOT / module.replace(".", "/") / "__main__.py").exists()
    command = importlib.import_module(f"{module}.__main__" if package else module).main
    words = [*([subcommand] if subcommand else []), "--help"]
    out = io.StringIO()
    with redirect_stdout(out), pytest.raises(SystemExit, match="0"), mock.patch.object(sys, "argv", [module, *words]):
        command(*([words] if inspect.signature(command).parameters else []))
    return set(FLAG.findall(out.getvalue()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    missing = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.name)
def test_commands_know_their_flags(page: Path) -> None:
    for module, rest in COMMAND.findall(page.read_text()):
        module = module.rstrip(".")
        used = set(FLAG.findall(rest)) - BEAM
        if module in NO_HELP:
            assert not used, f"{module} takes no options"
        elif used:
            first = rest.split()[0]
            assert used <= flags(module, "" if first.startswith("-") else first), f"python -m {module} {rest.strip()}"


def test_every_module_a_page_names_exists() -> None:
    for page in CURRENT:
        for module, _ in COMMAND.findall(page.read_text()):
            path = ROOT / module.rstrip(".").replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), f"{page.name}: {module}"


def test_files_and_folders_a_page_names_exist() -> None:
    """Paths in backticks, but for placeholders (NAME), patterns and what only a build or a run makes."""
    named = re.compile(r"`((?:beam_jobs|model|schemas|tests|docs|templates|demo|bench|chaos|use_cases)/[\w./-]*)`")
    paths = [(page.name, path) for page in CURRENT for path in named.findall(page.read_text())]
    assert len(paths) > 50
    assert [(page, path) for page, path in paths if "NAME" not in path and not (ROOT / path).exists()] == []


def test_make_targets_a_page_names_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        prose, *fenced = re.split(r"^```", page.read_text(), flags=re.MULTILINE)
        blocks, prose = fenced[::2], "".join([prose, *fenced[1::2]])
        spans = re.findall(r"`(make [^`\n]+)`", prose) + re.findall(r"^(make .+)$", "\n".join(blocks), re.MULTILINE)
        for span in spans:
            for word in span.partition("#")[0].split()[1:]:
                if not re.fullmatch(r"[a-z-]+", word):
                    break  # variables, and what belongs to them
                assert word in targets, f"{page.name}: {span}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_shell_commands_are_shell(page: Path) -> None:
    for block in re.findall(r"^```(?:ba)?sh\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        checked = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, ""), block


def test_python_of_a_page_imports_what_there_is() -> None:
    """Every block of Python parses, and the names it imports from this project exist."""
    for page in PAGES:
        for block in re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
            for node in ast.walk(ast.parse(block, page.name)):
                if isinstance(node, ast.ImportFrom) and (ROOT / str(node.module).partition(".")[0]).is_dir():
                    module = importlib.import_module(str(node.module))
                    missing = [name.name for name in node.names if not hasattr(module, name.name)]
                    assert missing == [], f"{page.name}: from {node.module} import {', '.join(missing)}"


def test_commands_of_highbeam_exist() -> None:
    """``highbeam NAME``, at the beginning of a line or of a span of code, with options that NAME knows."""
    typed = re.compile(r"(?:^|`)highbeam ([a-z][a-z-]*(?: [a-z]+)?)((?:[^\n`]|\\\n)*)", re.MULTILINE)
    firsts = {name.split()[0] for name in COMMANDS} | {"completion"}
    for page in CURRENT:
        for words, rest in typed.findall(page.read_text()):
            name = words if words in COMMANDS else words.split()[0]
            assert name.split()[0] in firsts, f"{page.name}: highbeam {words}"
            if name in COMMANDS and (used := set(FLAG.findall(rest)) - BEAM):
                assert used <= set(FLAG.findall(COMMANDS[name].parser().format_help())), (
                    f"{page.name}: highbeam {name}{rest}"
                )


def test_make_help_names_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony
    explained = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    assert set(phony[1].split()) == explained


def test_reliability_names_tests_that_exist() -> None:
    """Every row of its tables of faults names a test or a scenario, and each that is named is there."""
    page = (ROOT / "docs/reliability.md").read_text()
    named = set(re.findall(r"`(tests/[\w/]+\.py)((?:::\w+)*)`", page))
    assert len(named) > 20
    for path, names in sorted(named):
        assert (ROOT / path).exists(), path
        code = (ROOT / path).read_text()
        for name in filter(None, names.split("::")):
            assert re.search(rf"^ *(?:def|class) {name}\b", code, re.MULTILINE), f"{path}{names}"
    scenarios = set(re.findall(r"`chaos ([\w-]+)`", page)) - {"NAME"}
    assert scenarios == {scenario.name for scenario in SCENARIOS}
    tables = [table.split("\n\n")[0].splitlines()[2:] for table in page.split("\n| fault |")[1:]]
    assert len(tables) > 3
    unshown = [row for table in tables for row in table if not re.search("`tests/|`chaos ", row.split(" | ")[-1])]
    assert unshown == []


def test_operations_lists_the_reasons_of_dead_letters() -> None:
    table = (ROOT / "docs/operations.md").read_text().partition("| step | reasons |")[2].partition("\n\n")[0]
    listed = {}
    for line in table.splitlines()[2:]:
        step, reasons = line.strip("| ").split(" | ")
        listed[step] = tuple(re.findall("`(.*?)`", reasons))
    assert listed == dict(REASONS)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation as ``make docs-site`` builds it; a missing link, anchor or page fails the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def test_the_site_has_every_page_and_file_that_is_linked(site: Path) -> None:
    pages = {path.stem for path in PAGES if path.parent.name != "templates"} - {"README"} | {"index", "templates"}
    assert pages <= {path.stem for path in site.glob("*.html")}
    assert (site / "source/schemas/alert.avsc.txt").read_text() == (ROOT / "schemas/alert.avsc").read_text()
    assert "source/schemas/dead_letter.avsc.txt" in (site / "operations.html").read_text()
    link = re.compile(r"<a\b[^>]*?href=\"?([^\s\"#:>]+)(?=[\s\"#>])")
    for page in site.glob("*.html"):
        linked = link.findall(page.read_text())
        assert [to for to in linked if not (page.parent / to).exists() and page.name != "404.html"] == [], page.name


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    """No fonts, scripts, styles or pictures of other servers; the search works from a folder, without a server."""
    loads = re.compile(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"?([^\s\">]+)")
    for page in site.rglob("*.html"):
        loaded = [url for url in loads.findall(page.read_text()) if not url.startswith("data:")]
        assert [url for url in loaded if "//" in url] == []
        assert [url for url in loaded if not (page.parent / url).exists() and page.name != "404.html"] == []
    assert "sentinel" in (site / "search/search_index.js").read_text()
    assert (site / "assets/worker.js").read_text().startswith("const code = ")


def test_lists_and_tables_of_the_site_are_such(site: Path) -> None:
    """Where no empty line is before it, a site shows a list as text; GitHub does not."""
    text = re.compile(r"<p>((?:(?!</p>).)*\n(?:- |\* |\d\. |\| )(?:(?!</p>).)*)</p>", re.DOTALL)
    assert [(page.name, found) for page in site.glob("*.html") for found in text.findall(page.read_text())] == []
