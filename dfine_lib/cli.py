"""The command `dfine`: parses, builds a recipe, calls one function. What takes long to import is imported on use."""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dfine_lib import __version__
from dfine_lib.config import Recipe
from dfine_lib.recipes import RECIPES, changed, flat, for_epochs, get_recipe, parent_of, scaled

_DATA_HELP = "folder with a train and a val split, or a JSON file that names the paths of both"
USERS_ERROR, INTERRUPTED = 2, 130
# What a person can put right about a file or a folder; any other OSError keeps its traceback.
_ABOUT_FILES = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EROFS}
_ABOUT_FILES |= {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 2 for what the caller can put right, told on stderr without a traceback; 130 after Ctrl-C. Everything else
        leaves as the exception that it is.
    """
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse, after --help or a wrong argument
        return int(stop.code or 0)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        arguments.call(arguments)
    except KeyboardInterrupt:
        print(f"\ndfine {arguments.command}: interrupted.{arguments.after_interrupt}", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError, ArithmeticError) as error:
        message = _message_to_the_caller(error)
        if message is None:
            raise
        print(f"dfine {arguments.command}: {message}", file=sys.stderr)
        return USERS_ERROR
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dfine", description="Train and evaluate D-FINE; look at its recipes.")
    parser.add_argument("--version", action="version", version=f"dfine {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    train = commands.add_parser(
        "train",
        help="train or fine-tune on a COCO-style folder",
        description="Train or fine-tune in one process. The same command again goes on where the run was left.",
    )
    train.add_argument("--recipe", required=True, metavar="NAME", help="see `dfine recipes`")
    train.add_argument("--data", required=True, type=Path, metavar="DIR", help=_DATA_HELP)
    train.add_argument("--out", type=Path, metavar="DIR", help="what the run writes (default: runs/NAME)")
    train.add_argument("--weights", type=Path, metavar="FILE", help="start from these instead of fresh weights")
    train.add_argument("--epochs", type=int, metavar="N", help="the second stage keeps its share of them")
    _add_input_size(train)
    train.add_argument("--batch-size", type=int, metavar="B", help="images a step; rates stay as the recipe has them")
    train.add_argument(
        "--scale-rates",
        action="store_true",
        help="with --batch-size: learning rates, warm-up and averaging follow the batch, as the published guide does",
    )
    train.add_argument("--precision", choices=("fp32", "bf16", "fp16"), help="losses are always in fp32")
    train.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    train.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on from what lies in the output folder (default), or refuse a folder that holds a run",
    )
    _add_settings(train)
    train.set_defaults(
        call=_train, after_interrupt=" The last whole epoch is saved: the same command goes on from there."
    )

    evaluate = commands.add_parser("eval", help="score a weights file on the val split of a folder")
    evaluate.add_argument("--weights", required=True, type=Path, metavar="FILE", help=".safetensors, or published .pth")
    evaluate.add_argument("--data", required=True, type=Path, metavar="DIR", help="folder with a val split")
    evaluate.add_argument("--recipe", metavar="NAME", help="needed where the file does not say what it is of (.pth)")
    evaluate.add_argument("--out", type=Path, metavar="FILE", help="write the numbers to this file too, as JSON")
    _add_input_size(evaluate)
    evaluate.add_argument("--batch-size", type=int, metavar="B", help="images a forward pass")
    _add_settings(evaluate, any_field=False)
    evaluate.set_defaults(call=_evaluate, after_interrupt="")

    result = commands.add_parser("result", help="what came out of a run: AP, and where its files lie")
    result.add_argument("run", type=Path, metavar="DIR", help="the run's folder")
    result.set_defaults(call=_result, after_interrupt="")

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

    recipes = commands.add_parser("recipes", help="list the recipes, or tell one as a difference from its parent")
    recipes.add_argument("name", nargs="?", metavar="NAME")
    recipes.set_defaults(call=_recipes, after_interrupt="")
    return parser


def _add_input_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--image-size", metavar="S", help="side of the input in pixels, or HEIGHT,WIDTH; multiples of 32"
    )


def _add_settings(parser: argparse.ArgumentParser, any_field: bool = True) -> None:
    parser.add_argument("--workers", type=int, metavar="N", help="processes that read images")
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:1, mps")
    if any_field:
        parser.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="FIELD=VALUE",
            help="any field of the recipe, as train.lr=1e-3; may be given again",
        )


def _train(arguments: argparse.Namespace) -> None:
    if "OMP_WAIT_POLICY" not in os.environ:  # read when torch is loaded: waiting threads spin for a moment, then sleep
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    recipe = _recipe_of(arguments)
    out = arguments.out or Path("runs") / recipe.name

    from dfine_lib.evaluate.saved import make_score
    from dfine_lib.train.trainer import train

    train(
        recipe,
        arguments.data,
        out,
        make_score=make_score,
        seed=arguments.seed,
        device=arguments.device,
        resume=arguments.resume,
        weights=arguments.weights,
    )
    _print_result(out)


def _evaluate(arguments: argparse.Namespace) -> None:
    recipe = get_recipe(arguments.recipe) if arguments.recipe else None
    settings = {
        "data.image_size": arguments.image_size,
        "data.eval_batch_size": arguments.batch_size,
        "data.num_workers": arguments.workers,
    }

    from dfine_lib.evaluate.saved import evaluate_weights

    metrics = evaluate_weights(
        arguments.weights, arguments.data, recipe=recipe, settings=_given(settings), device=arguments.device
    ).to_dict()
    per_class = metrics.pop("per_class")
    for name, value in metrics.items():
        print(f"{name:10} {_number(value)}")
    for name, value in per_class.items():
        print(f"  {_number(value):>5}  {name}")
    if arguments.out:
        content = json.dumps(metrics | {"per_class": per_class}, indent=1) + "\n"
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(content, encoding="utf-8")


def _result(arguments: argparse.Namespace) -> None:
    if not (arguments.run / "metrics.json").exists():
        raise ValueError(
            f"{arguments.run}: no metrics.json, so no finished run; the same command again goes on with it"
        )
    _print_result(arguments.run)


def _print_result(run: Path) -> None:
    """AP, best and last, and the files of a finished run that are there."""
    result = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    last = result["last"]
    print(
        f"AP {_number(result['ap'])} (best, epoch {result['best_epoch'] + 1} of {result['recipe']['train']['epochs']})"
    )
    print(f"last epoch: {_number(last['ema']['ap'])} averaged weights, {_number(last['raw']['ap'])} raw weights")
    for name, file in (("report", "report.html"), ("weights", "model.safetensors"), ("numbers", "metrics.json")):
        if (run / file).exists():
            print(f"{name:8} {run / file}")


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


def _recipes(arguments: argparse.Namespace) -> None:
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `dfine recipes | head` ends quietly
    if arguments.name:
        recipe = get_recipe(arguments.name)
        parent = parent_of(recipe)
        own, others = flat(recipe), flat(parent) if parent else {}
        differing = {name: value for name, value in own.items() if not parent or value != others[name]}
        print(f"{recipe.name}, told from {parent.name}:" if parent else f"{recipe.name}:")
        width = max(map(len, differing), default=0)
        for name, value in differing.items():
            print(f"  {name:{width}}  {value!r}" + (f"  (there {others[name]!r})" if parent else ""))
        return
    print(f"{'name':14}{'classes':>8}{'image':>7}{'epochs':>8}{'stage 2':>9}{'batch':>7}{'lr':>10}{'backbone lr':>13}")
    for recipe in RECIPES.values():
        model, data, train = recipe.model, recipe.data, recipe.train
        stage_2 = train.stop_epoch if train.stop_epoch < train.epochs else "-"
        print(
            f"{recipe.name:14}{model.num_classes:>8}{data.image_size!s:>7}{train.epochs:>8}{stage_2:>9}"
            f"{data.batch_size:>7}{train.lr:>10.3g}{train.backbone_lr:>13.3g}"
        )


def _recipe_of(arguments: argparse.Namespace) -> Recipe:
    """The recipe by name, with what the command line changes of it; `--set` has the last word."""
    recipe = get_recipe(arguments.recipe)
    if arguments.epochs is not None:
        recipe = for_epochs(recipe, arguments.epochs)
    if arguments.scale_rates and arguments.batch_size is None:
        raise ValueError("--scale-rates scales the rates to a batch: give --batch-size too")
    if arguments.scale_rates:
        recipe = scaled(recipe, arguments.batch_size)
    settings = {
        "data.batch_size": arguments.batch_size,
        "data.image_size": arguments.image_size,
        "data.num_workers": arguments.workers,
        "train.precision": arguments.precision,
    }
    settings = _given(settings)
    for setting in arguments.set:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set wants FIELD=VALUE, as train.lr=1e-3, got {setting!r}")
        settings[name.strip()] = value.strip()
    return changed(recipe, settings)


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _message_to_the_caller(error: ValueError | OSError) -> str | None:
    """The error in words if the caller can put it right, None if it is a fault of the code.

    Ours to tell are the error classes of this library, a ValueError that its own code raised (one from below, out of
    torch say, is a fault), and files and folders that are not there, not to be written, or full.
    """
    if isinstance(error, OSError):
        if error.errno not in _ABOUT_FILES:
            return None
        return f"{error.filename}: {error.strerror}" if error.filename else (error.strerror or str(error))
    innermost = error.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    home = os.path.dirname(os.path.abspath(__file__)) + os.sep
    raised_here = innermost is not None and innermost.tb_frame.f_code.co_filename.startswith(home)
    return str(error) if raised_here or type(error).__module__.startswith("dfine_lib") else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
