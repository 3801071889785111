"""`dfine weights`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from dfine_lib.errors import DfineError
from dfine_tools.cli.options import image_size_of


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add what looks into weights files and converts them."""
    weights = commands.add_parser(
        "weights",
        help="describe a weights file, or convert it to another format",
        description="SOURCE is a .safetensors or .pth file, a folder of Hugging Face's, or the name of a published "
        "file such as dfine_l_coco, which is downloaded. Of a training checkpoint the EMA weights are taken.",
        epilog="example: dfine weights dfine_l_coco --to my_l.safetensors",
    )
    weights.add_argument("source", metavar="SOURCE")
    weights.add_argument(
        "--to", type=Path, metavar="OUT",
        help="convert: NAME.safetensors (ours), NAME.pth (the authors'), else a folder (Hugging Face's)",
    )  # fmt: skip
    weights.add_argument("--recipe", metavar="NAME", help="the model, where the file does not tell it")
    weights.add_argument(
        "--names", metavar="FILE",
        help="class names in the order of the class rows, where the file does not hold them: a text file, one name a "
        "line, or A,B,…; an empty name is of a row that stands for no class, and is left out",
    )  # fmt: skip
    weights.add_argument("--image-size", metavar="S", help="input size, where the file does not hold it (default: 640)")
    weights.add_argument("--half", action="store_true", help="16-bit numbers, half the file (ours only)")
    weights.set_defaults(call=_weights, after_interrupt="")


def _weights(arguments: argparse.Namespace) -> None:
    from dfine_tools.weights.conversion import convert_weights, describe_weights

    if arguments.to is None:
        for name, value in describe_weights(arguments.source).items():
            print(f"{name:12} {value:,}" if isinstance(value, int) else f"{name:12} {value}")
        return
    names = _names(arguments.names) if arguments.names else ()
    size = image_size_of(arguments.image_size)
    print(convert_weights(
        arguments.source, arguments.to, recipe=arguments.recipe, names=names, image_size=size, half=arguments.half
    ))  # fmt: skip


def _names(value: str) -> list[str]:
    """Those of a text file, one a line, or those between commas."""
    is_file = os.path.isfile(value)  # a list of names may be longer than a path can be, which is an OSError to pathlib
    if not is_file and "," not in value and Path(value).suffix:
        raise DfineError(f"{value}: no such file. --names wants a text file with one class name a line, or A,B,…")
    names = Path(value).read_text(encoding="utf-8-sig").splitlines() if is_file else value.split(",")
    return [name.strip() for name in names]
