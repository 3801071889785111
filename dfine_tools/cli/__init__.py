"""The command `dfine`: parses, builds a recipe, calls one function. What takes long to import is imported on use.

A file here is a group of commands. Each has `add_commands(commands)`, and its commands set `call`, the function that
does the work, and `after_interrupt`, what to say after Ctrl-C.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from dfine_lib import __version__
from dfine_lib.errors import DfineError
from dfine_tools.cli import bench, compare, data, doctor, export, predict, recipes, training, waiting, weights
from dfine_tools.cli.remedies import RemedyFormatter, with_remedy

GROUPS = (training, compare, predict, export, bench, doctor, weights, data, recipes)
USERS_ERROR, INTERRUPTED, UNREAD = 2, 130, 141
# What a person can put right about a file or a folder; any other OSError keeps its traceback.
_ABOUT_FILES = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EROFS}
_ABOUT_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_ABOUT_FILES |= _ABOUT_ROOM


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 1 where `dfine doctor` has found errors, or an export is not what its weights are; 2 for what the caller can
        put right, reported on stderr without a traceback; 130 after Ctrl-C, 141 where nobody reads on. Everything else
        leaves as the exception that it is.
    """
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse, after --help or a wrong argument
        return int(stop.code or 0)
    arguments.words = list(sys.argv[1:] if argv is None else argv)
    if "OMP_WAIT_POLICY" not in os.environ:  # read when torch is loaded: waiting threads spin for a moment, then sleep
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    handler = logging.StreamHandler()
    handler.setFormatter(RemedyFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    word = waiting.start(arguments.command)
    try:
        status = arguments.call(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        try:
            print(flush=True)
        except BrokenPipeError:  # whoever reads what we print has seen enough, as `head` has
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return UNREAD
        raise
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":  # of several processes, all are interrupted, and rank zero says so
            print(f"\ndfine {arguments.command}: interrupted.{arguments.after_interrupt}", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError) as error:
        message = _message_to_the_caller(error)
        if message is None:
            raise
        print(f"dfine {arguments.command}: {message}", file=sys.stderr)
        return USERS_ERROR
    finally:
        word.cancel()
    return status or 0


class _Help(argparse.HelpFormatter):
    """Wraps all but the example, which is copied into a shell as one line."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return indent + text if text.startswith(("example: ", "Example: ")) else super()._fill_text(text, width, indent)


class _Parser(argparse.ArgumentParser):
    """One that names the command whose option is unknown, and the options that look like it; so are its commands'."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Help, **options)

    def parse_known_args(self, args=None, namespace=None):
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            known = [name for name in self._option_string_actions if name.startswith("--")]
            near = [difflib.get_close_matches(word.split("=")[0], known, n=1) for word in unknown if word[:1] == "-"]
            hint = ", ".join(name for names in near for name in names)
            self.error(f"unrecognized arguments: {' '.join(unknown)}" + (f" (did you mean {hint}?)" if hint else ""))
        return namespace, unknown


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="dfine", description="D-FINE from data to detector: prepare, train, evaluate, predict, export, measure.",
        epilog="example: dfine train --recipe n_custom --data my_set",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"dfine {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for group in GROUPS:
        group.add_commands(commands)
    return parser


def _message_to_the_caller(error: ValueError | OSError) -> str | None:
    """The error in words if the caller can put it right, None if it is a bug of the code.

    The caller's are `DfineError`, and files and folders that are not there, not to be written, or full.
    """
    if isinstance(error, OSError):
        if error.errno not in _ABOUT_FILES:
            return None
        place = error.filename  # of a copy it is the source, which is not what is full
        if error.errno in _ABOUT_ROOM and error.filename2:
            place = error.filename2
        return f"{place}: {error.strerror}" if place else (error.strerror or str(error))
    return with_remedy(error) if isinstance(error, DfineError) else None
