"""What every command shares: errors a person can read, exit codes, Ctrl-C."""

from __future__ import annotations

import argparse
import gc
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from beam_jobs.errors import UserError, one_line

EXIT_FAILED = 1  # the command ran and failed: a bug, or a runner that gave up
EXIT_USAGE = 2  # the user can mend it: the message says how
EXIT_INTERRUPTED = 130  # 128 + SIGINT, the shell's convention
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, a supervisor, a closed terminal

_TOLD = re.compile(r"beam_jobs\.errors\.UserError: ([^\n]+)")
_WHILE_RUNNING = re.compile(r" \[while running '[^']*'\]")  # Beam's addition, of use with --verbose only


class Parser(argparse.ArgumentParser):
    """Takes no abbreviations; an option without a value is not given; ``UserError``, one line, for what is wrong."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **settings})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(without_empty(words, self._option_string_actions), namespace)

    def error(self, message: str) -> NoReturn:
        message = message.replace("invalid loads value", "no JSON")  # argparse's word for Beam's json.loads
        raise UserError(f"{message}; --help lists the options")


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
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
    except Exception as error:
        if "--verbose" in args:
            traceback.print_exc()
        user_error = find_user_error(error)
        if user_error is not None:
            print(f"error: {user_error}", file=sys.stderr)
            status = EXIT_USAGE
        else:
            summary = one_line(error, 500)
            hint = "" if "--verbose" in args else " (--verbose shows the stack trace)"
            print(f"error: {type(error).__name__}: {summary}{hint}", file=sys.stderr)
            status = EXIT_FAILED
    finally:
        gc.freeze()  # the interpreter would walk through all modules once more before it ends: half a second
    sys.exit(status)


def find_user_error(error: BaseException | None) -> UserError | None:
    """The first ``UserError`` in the chain of causes, or the one a runner in another process tells of in its text."""
    seen: set[int] = set()
    text = str(error)
    while error is not None and id(error) not in seen:
        if isinstance(error, UserError):
            return UserError(_WHILE_RUNNING.sub("", str(error)))
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    told = _TOLD.findall(text)
    return UserError(_WHILE_RUNNING.sub("", told[-1])) if told else None


def say(text: str) -> None:
    """One line for the person at the terminal, on stderr."""
    print(text, file=sys.stderr, flush=True)
