"""What every command shares: errors a person can read, exit codes, Ctrl-C."""

from __future__ import annotations

import argparse
import difflib
import gc
import os
import re
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from beam_jobs.errors import UserError, one_line, without_credentials

EXIT_FAILED = 1  # the command ran and failed: a bug, or a runner that gave up
EXIT_USAGE = 2  # the user can fix it: the message says how
EXIT_INTERRUPTED = 130  # 128 + SIGINT, the shell's convention
EXIT_UNREAD = 141  # 128 + SIGPIPE: whoever read on, such as head, has enough
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, a supervisor, a closed terminal

_SWITCH = re.compile(r"(--\w+)=(true|false)", re.IGNORECASE)
_TOLD = re.compile(r"beam_jobs\.errors\.UserError: ([^\n]+)")
_WHILE_RUNNING = re.compile(r" \[while running '[^']*'\]")  # Beam's addition, of use with --verbose only


class Parser(argparse.ArgumentParser):
    """Takes no abbreviations; an option without a value is not given; ``UserError``, one line, for what is wrong."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        started = sys.argv[0]
        if started.startswith("highbeam ") and str(settings.get("prog")).startswith("python -m "):
            settings["prog"] = started  # beam_jobs/__main__.py: as it was typed
        super().__init__(*args, **{"allow_abbrev": False, **settings})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        _refuse_credentials(words)
        return super().parse_known_args(without_empty(words, self._option_string_actions), namespace)

    def error(self, message: str) -> NoReturn:
        message = message.replace("invalid loads value", "no JSON")  # argparse's word for Beam's json.loads
        raise UserError(f"{message}; --help lists the options")


def _refuse_credentials(argv: Sequence[str]) -> None:
    """UserError for a password in an address: every process of the machine may read it, and pipelines carry options."""
    before = ""
    for word in argv:
        flag, _, value = word.partition("=") if word.startswith("--") else (before, "", word)
        if " " not in value and without_credentials(value) != value:
            raise UserError(
                f"{flag or 'an address'} has a password in its URL: credentials do not belong in an address; put them, "
                "as references, into the file of --kafka_config (docs/security.md)"
            )
        before = word if word.startswith("-") else ""


def without_empty(argv: Sequence[str], known: Mapping[str, argparse.Action]) -> list[str]:
    """A command line without the known options whose value is empty (``--until=``, ``--until ""``): not given.

    Templates, forms and scripts send each option they have, filled in or not.
    """
    words: list[str] = []
    for word in argv:
        flag, separator, value = word.partition("=")
        if separator and not value.strip() and flag in known:
            continue
        if words and not word.strip() and words[-1] in known and known[words[-1]].nargs != 0:
            words.pop()
            continue
        words.append(word)
    return words


def as_flags(argv: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """Empty options left out, ``--raw=true`` as ``--raw``, ``--raw=false`` as its opposite or not at all.

    Templates give each flag a value.
    """
    actions = parser._option_string_actions
    words = []
    for word in without_empty(argv, actions):
        value = _SWITCH.fullmatch(word)
        action = actions.get(value[1]) if value else None
        if value is None or action is None or action.nargs != 0:
            words.append(word)
            continue
        stored = action.const == (value[2].lower() == "true")
        same = (f for f, other in actions.items() if other.dest == action.dest and other.const is stored)
        words += [value[1]] if stored == action.const else list(same)[:1]
    return words


def refuse_unknown(rest: Sequence[str], parser: argparse.ArgumentParser, known: Iterable[str]) -> None:
    """``UserError`` for the words that ``parser`` has left over, unless they are ``known`` options and their values."""
    flags = [word.split("=", 1)[0] for word in rest if word.startswith("-")]
    if not flags:
        if rest:
            raise UserError(f"{rest[0]!r} is not an option; options start with --, as in --use_case car_sensors")
        return
    known = {*parser._option_string_actions, *known}
    for flag in flags:
        if flag not in known and "--template_location" in flags:
            say(f"unknown option {flag} left out")  # the Flex Template launcher's own, newer than this Beam
        elif flag not in known:
            near = difflib.get_close_matches(flag, [*parser._option_string_actions, *known], 1)
            hint = f"did you mean {near[0]}?" if near else "--help lists the options"
            raise UserError(f"unknown option {flag}; {hint}")


def require(values: Mapping[str, Any], *names: str) -> None:
    """Checks that each of the named options has a value.

    Raises:
      UserError: naming every missing flag.
    """
    missing = [f"--{name}" for name in names if values.get(name) in (None, "")]
    if missing:
        raise UserError(f"missing {', '.join(missing)}; --help explains {'it' if len(missing) == 1 else 'them'}")


def run(main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> NoReturn:
    """Runs ``main(argv)`` and exits with its status.

    A ``UserError``, wherever in the chain of causes it sits, is printed as one line on stderr with status 2; any
    other exception as one line with status 1. ``--verbose`` among the arguments adds the stack trace.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # beam_jobs/__init__.py
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status = main(args) or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
    except Exception as error:
        if "--verbose" in args:
            for line in traceback.format_exc().splitlines():
                say(line)
        user_error = find_user_error(error)
        if user_error is not None:
            say(f"error: {user_error}")
            status = EXIT_USAGE
        elif isinstance(error, BrokenPipeError) and _nobody_reads():
            status = EXIT_UNREAD
        else:
            summary = one_line(error, 500)
            hint = "" if "--verbose" in args else " (--verbose shows the stack trace)"
            say(f"error: {type(error).__name__}: {summary}{hint}")
            status = EXIT_FAILED
    finally:
        gc.freeze()  # the interpreter would walk through all modules once more before it ends: half a second
    sys.exit(status)


def _nobody_reads() -> bool:
    """Whether stdout is a pipe that was closed; then nothing more is flushed into it."""
    try:
        sys.stdout.flush()
        asked = select.poll()
        asked.register(sys.stdout.fileno(), 0)  # errors are told unasked
        closed = bool(asked.poll(0))
    except BrokenPipeError:
        closed = True
    except (OSError, ValueError):  # no file, as in tests
        return False
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return closed


def find_user_error(error: BaseException | None) -> UserError | None:
    """The first ``UserError`` in the chain of causes, or the one a runner in another process tells of in its text."""
    seen: set[int] = set()
    text = str(error)
    while error is not None and id(error) not in seen:
        if isinstance(error, UserError):
            said = str(error)
            return UserError(_WHILE_RUNNING.sub("", said))
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    told = _TOLD.findall(text)
    return UserError(_WHILE_RUNNING.sub("", told[-1])) if told else None


def say(text: str) -> None:
    """One line for the person at the terminal, on stderr; in the place of a status line that stands there."""
    line = one_line(text)
    print(f"\r\033[K{line}" if sys.stderr.isatty() else line, file=sys.stderr, flush=True)
