"""Options of several commands; names that options had in earlier versions: still understood, not shown by `--help`."""

from __future__ import annotations

import argparse

from dfine_lib.config import parse_hw


def old_name(parser: argparse._ActionsContainer, old: str, option: argparse.Action) -> None:
    """Let `parser` also take `option` under the name `old`."""
    parser._option_string_actions[old] = option


def add_image_files(parser: argparse._ActionsContainer) -> None:
    """The option that says how image files come into the folder to make."""
    option = parser.add_argument(
        "--image-files", default="link", choices=("link", "copy", "none"),
        help="link (default): hard links, copies where the disk has none; copy; none: annotations only",
    )  # fmt: skip
    old_name(parser, "--pictures", option)


def image_size_of(words: str | None) -> int | tuple[int, int] | None:
    """`--image-size` as a side or (height, width); None stays None."""
    if words is None:
        return None
    height, width = parse_hw(words)
    return height if height == width else (height, width)
