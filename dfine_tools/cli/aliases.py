"""Names that options had in earlier versions: still understood, not shown by `--help`."""

from __future__ import annotations

import argparse


def old_name(parser: argparse._ActionsContainer, old: str, option: argparse.Action) -> None:
    """Let `parser` also take `option` under the name `old`."""
    hidden = parser.add_argument(old, dest=option.dest, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    hidden.type, hidden.choices, hidden.nargs, hidden.metavar = (
        option.type,
        option.choices,
        option.nargs,
        option.metavar,
    )


def add_image_files(parser: argparse._ActionsContainer) -> None:
    """The option that says how image files come into the folder to make."""
    option = parser.add_argument(
        "--image-files", default="link", choices=("link", "copy", "none"),
        help="link (default): hard links, copies where the disk has none; copy; none: annotations only",
    )  # fmt: skip
    old_name(parser, "--pictures", option)
