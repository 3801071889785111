"""`dfine weights`."""

from __future__ import annotations

import argparse
from pathlib import Path

from dfine_lib.recipes import changed, get_recipe


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add what looks into weights files and converts them."""
    weights = commands.add_parser(
        "weights",
        help="look into a weights file, or write it in another form",
        description="SOURCE is a .safetensors or .pth file, a folder of Hugging Face's, or the name of a published "
        "file such as dfine_l_coco, which is downloaded. Of a training checkpoint the averaged weights are taken.",
        epilog="example: dfine weights dfine_l_coco --to my_l.safetensors",
    )
    weights.add_argument("source", metavar="SOURCE")
    weights.add_argument(
        "--to", type=Path, metavar="OUT",
        help="write them: NAME.safetensors (ours), NAME.pth (the authors'), else a folder (Hugging Face's)",
    )  # fmt: skip
    weights.add_argument("--recipe", metavar="NAME", help="the model, where the file does not tell it")
    weights.add_argument("--names", metavar="A,B,…", help="class names in order, where the file does not hold them")
    weights.add_argument("--image-size", metavar="S", help="input size, where the file does not hold it (default: 640)")
    weights.add_argument("--half", action="store_true", help="16-bit numbers, half the file (ours only)")
    weights.set_defaults(call=_weights, after_interrupt="")


def _weights(arguments: argparse.Namespace) -> None:
    from dfine_lib.model.conversion import convert_weights, describe_weights

    if arguments.to is None:
        for name, value in describe_weights(arguments.source).items():
            print(f"{name:12} {value:,}" if isinstance(value, int) else f"{name:12} {value}")
        return
    names = [name.strip() for name in (arguments.names or "").split(",") if name.strip()]
    size = None
    if arguments.image_size is not None:
        size = changed(get_recipe("l_coco"), {"data.image_size": arguments.image_size}).data.image_size
    print(convert_weights(
        arguments.source, arguments.to, recipe=arguments.recipe, names=names, image_size=size, half=arguments.half
    ))  # fmt: skip
