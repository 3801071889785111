"""Options of several commands; names that options had in earlier versions: still understood, not shown by `--help`."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

from dfine_lib.config import parse_hw
from dfine_lib.errors import DfineError

_OF_THE_PARSER = ("command", "kind", "step", "call", "after_interrupt", "words")


def parameters(arguments: argparse.Namespace, *without: str) -> dict[str, Any]:
    """The options of a command as the parameters of the function that does its work, which bear the same names."""
    left_out = (*_OF_THE_PARSER, *without)
    return {name: value for name, value in vars(arguments).items() if name not in left_out}


def old_name(parser: argparse._ActionsContainer, old: str, option: argparse.Action) -> None:
    """Let `parser` also take `option` under the name `old`."""
    parser._option_string_actions[old] = option


def add_places(parser: argparse._ActionsContainer, help: str | None, source: str = "SOURCE", out: str = "") -> None:
    """The folder or file to read, which `help` explains, and the folder to make."""
    parser.add_argument("source", type=Path, metavar=source, help=help)
    parser.add_argument("out", type=Path, metavar="OUT", help=out or f"folder to make, outside of {source}")


def add_follow_links(
    parser: argparse._ActionsContainer, help: str = "take images that are links out of their folder"
) -> None:
    """The option to leave the folder that is read."""
    parser.add_argument("--follow-links", action="store_true", help=help)


def add_image_files(parser: argparse._ActionsContainer) -> None:
    """The option that says how image files come into the folder to make."""
    option = parser.add_argument(
        "--image-files", default="link", choices=("link", "copy", "none"),
        help="link (default): hard links, copies where the disk has none; copy; none: annotations only",
    )  # fmt: skip
    old_name(parser, "--pictures", option)


def check_figure(option: str, path: Path | None) -> None:
    """Refuse, before the work, a figure of a format that is not drawn."""
    formats = (".png", ".svg", ".pdf")
    if path is not None and path.suffix.lower() not in formats:
        raise DfineError(f"{option} {path}: a figure is a {', '.join(formats)} file")


def write_figure(figure: Any, path: Path) -> None:
    """Write a figure of matplotlib's, in the format that the ending names, whole or not at all."""
    from dfine_lib.files import write_atomically

    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:].lower())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())


def names(words: str) -> tuple[str, ...]:
    """Names between commas, at least one: the `type` of an option."""
    found = tuple(name.strip() for name in words.split(",") if name.strip())
    if not found:
        raise argparse.ArgumentTypeError("names with commas between them, such as train,val")
    return found


def image_size_of(words: str | None) -> int | tuple[int, int] | None:
    """`--image-size` as a side or (height, width); None stays None."""
    if words is None:
        return None
    height, width = parse_hw(words)
    return height if height == width else (height, width)
