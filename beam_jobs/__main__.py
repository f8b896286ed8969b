"""highbeam: one command for all there is; ``python -m beam_jobs`` is the same.

A wrong command line is refused before what the command needs is imported, which takes seconds.
"""

# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

import difflib
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import argcomplete
from argcomplete.shell_integration import shellcode

from beam_jobs import __version__
from beam_jobs.errors import UserError
from beam_jobs.terminal.cli import Parser, run
from beam_jobs.terminal.commands import COMMANDS, DEMO, GROUPS, Command
from beam_jobs.terminal.hidden import look_here_first

_SHELLS = {  # what `highbeam completion SHELL` prints has to be run by the shell
    "bash": 'eval "$(highbeam completion bash)"  # in ~/.bashrc',
    "zsh": 'eval "$(highbeam completion zsh)"  # in ~/.zshrc, after compinit',
    "fish": "highbeam completion fish > ~/.config/fish/completions/highbeam.fish",
}


def overview(prefix: str = "") -> str:
    """The commands by their groups; those whose names begin with ``prefix``."""
    lines = ["usage: highbeam COMMAND [OPTIONS]", "", "Events in, anomalies and fraud alerts out, on Apache Beam.", ""]
    width = max(map(len, COMMANDS)) + 4
    for title, commands in GROUPS.items():
        shown = [command for command in commands.values() if command.name.startswith(prefix)]
        if shown:
            lines += [title + ":"]
        for command in shown:
            lines += textwrap.wrap(
                command.summary,
                max(60, min(shutil.get_terminal_size().columns, 120)),
                initial_indent=f"  {command.name:<{width - 2}}",
                subsequent_indent=" " * width,
            )
    lines += [
        "",
        "highbeam COMMAND --help says what a command takes, with an example",
        "highbeam --version",
        f"highbeam completion {'|'.join(_SHELLS)} prints what makes that shell complete commands and options:",
        *(f"  {line}" for line in _SHELLS.values()),
    ]
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Finds the command, checks its command line and runs it.

    Raises:
      UserError: no such command, or a command line that it refuses.
    """
    words = list(argv)
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0
    if words[0] == "--version":
        print(f"highbeam {__version__}")
        return 0
    if words[0] == "completion":
        return _completion(words[1:])
    command = _named(words)
    if command is None:
        return _no_command(words)
    rest = words[len(command.name.split()) :]
    _find_demo(command)
    sys.argv = [f"highbeam {command.name}", *rest]  # as if it had been started itself
    command.check(rest)
    return command.main()(rest) or 0


def console() -> NoReturn:
    """The console script: it does not look where it is started, but PYTHONPATH may name what hides our packages."""
    look_here_first()
    if "_ARGCOMPLETE" in os.environ:
        line = os.environ.get("COMP_LINE", "").encode()[: int(os.environ.get("COMP_POINT", "0"))]
        _complete(line.decode(errors="ignore"))
    run(main)


def _no_command(words: Sequence[str]) -> int:
    name = words[0]
    if any(command.startswith(f"{name} ") for command in COMMANDS) and (not words[1:] or words[1] in ("-h", "--help")):
        print(overview(f"{name} "))
        return 0
    wanted = " ".join(word for word in words[:2] if not word.startswith("-"))
    near = difflib.get_close_matches(wanted, COMMANDS, 1) or difflib.get_close_matches(name, COMMANDS, 1)
    raise UserError(f"no command {wanted!r}; " + (f"did you mean {near[0]}?" if near else "--help lists them"))


def _find_demo(command: Command) -> None:
    """Lets the demo be imported, which is not installed but in the checkout that this package is in."""
    if command.name not in DEMO:
        return
    home = Path(__file__).resolve().parent.parent
    if not (home / "demo").is_dir():
        raise UserError("the demo is in Highbeam's repository, not in the installed package; run it in a checkout")
    if str(home) not in sys.path:
        sys.path.append(str(home))


def _completion(argv: Sequence[str]) -> int:
    parser = Parser(prog="highbeam completion", description="Prints what a shell has to run to complete commands.")
    parser.add_argument("shell", choices=sorted(_SHELLS))
    print(shellcode(["highbeam"], shell=parser.parse_args(argv).shell))
    return 0


def _complete(line: str) -> None:
    """Answers the shell, and exits: the options of the command in ``line``, which ends at the cursor, or commands."""
    done = line.split()[1:] if line[-1:].isspace() else line.split()[1:-1]
    names = [name.split() for name in (*COMMANDS, "completion")]
    nexts = {name[len(done)] for name in names if name[: len(done)] == done and len(name) > len(done)}
    command = _named(done)
    if command is not None:
        _find_demo(command)
        parser, skipped = command.parser(), len(command.name.split())
    else:
        parser, skipped = Parser(prog="highbeam", add_help=False), len(done)
    if nexts:  # of "demo" too, which is a command itself
        parser.add_argument("next", choices=sorted(nexts))
    os.environ["_ARGCOMPLETE"] = str(int(os.environ["_ARGCOMPLETE"]) + skipped)  # words that the parser is not to see
    argcomplete.autocomplete(parser)


def _named(words: Sequence[str]) -> Command | None:
    """The command that a command line begins with."""
    return COMMANDS.get(" ".join(words[:2])) or COMMANDS.get(" ".join(words[:1]))


if __name__ == "__main__":
    console()
