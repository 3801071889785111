"""`dfine train`, `dfine eval`, `dfine result`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfine_lib.config import Recipe
from dfine_lib.errors import DfineError
from dfine_lib.recipes import get_recipe
from dfine_tools.cli.remedies import with_remedy
from dfine_tools.runs.settings import for_epochs, scaled, with_settings

if TYPE_CHECKING:
    from dfine_lib.distributed import Ranks

INTERRUPTED = 130
LOST = 3  # exit code of a process that ends because another one of its run did
_DATA_HELP = "folder with a train and a val split, or a JSON file that names the paths of both"


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add what trains, scores, and tells what came out."""
    train = commands.add_parser(
        "train",
        help="train or fine-tune on a COCO-style folder",
        description="Train or fine-tune, in one process or several (--nproc, or torchrun -m dfine_tools.cli train …). "
        "The same command again resumes the run.",
        epilog="Example: dfine train --recipe n_custom --data my_set --epochs 50 --batch-size 16 --nproc 2",
    )
    train.add_argument("--recipe", required=True, metavar="NAME", help="see `dfine recipes`")
    train.add_argument("--data", required=True, type=Path, metavar="DIR", help=_DATA_HELP)
    train.add_argument("--out", type=Path, metavar="DIR", help="what the run writes (default: runs/NAME)")
    train.add_argument("--weights", type=Path, metavar="FILE", help="start from these instead of fresh weights")
    train.add_argument("--epochs", type=int, metavar="N", help="the second stage keeps its share of them")
    train.add_argument("--batch-size", type=int, metavar="B", help="images a step; rates stay as the recipe has them")
    train.add_argument(
        "--scale-rates",
        action="store_true",
        help="with --batch-size: learning rates, warm-up and averaging follow the batch, as the published guide does",
    )
    train.add_argument(
        "--repeat-threshold", type=float, metavar="T",
        help="repeat-factor sampling, as in LVIS: images of classes that are in a smaller fraction of the images than "
        "T are oversampled; `dfine stats --repeat-threshold T` shows how often (default: off)",
    )  # fmt: skip
    train.add_argument(
        "--precision", choices=("fp32", "bf16", "fp16"),
        help="losses are always in fp32 (unless given: fp32 on a CPU; bf16 on a GPU, fp16 where it has no bf16)",
    )  # fmt: skip
    train.add_argument(
        "--checkpoint-activations", action="store_true",
        help="less memory, about a third more time: what the backward pass needs is computed again",
    )  # fmt: skip
    train.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    train.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="resume the run in the output folder (default), or refuse a folder that holds a run",
    )
    train.add_argument(
        "--max-restarts", type=int, default=0, metavar="N",
        help="with --nproc: start all processes anew from the last state this often if one is lost (default: 0)",
    )  # fmt: skip
    _add_shared(train, "each batch")
    train.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE",
        help="any field of the recipe, as train.lr=1e-3; may be given again",
    )  # fmt: skip
    train.set_defaults(call=_train, after_interrupt=" The last whole epoch is saved: the same command resumes from it.")

    evaluate = commands.add_parser(
        "eval",
        help="score a weights file on the val split of a folder",
        description="The 12 COCO metrics and AP by class, in one process or several (--nproc, or torchrun -m "
        "dfine_tools.cli eval …): each takes its share of the images, and the numbers are those of all.",
        epilog="Example: dfine eval --weights dfine_l_coco --data COCO2017 --nproc 4",
    )
    evaluate.add_argument(
        "--weights", required=True, type=Path, metavar="FILE", help=".safetensors, .pth, or a published name"
    )
    evaluate.add_argument("--data", required=True, type=Path, metavar="DIR", help="folder with a val split")
    evaluate.add_argument("--recipe", metavar="NAME", help="needed where the file does not say what it is of (.pth)")
    evaluate.add_argument("--out", type=Path, metavar="FILE", help="write the metrics to this file too, as JSON")
    evaluate.add_argument(
        "--engine", choices=("faster-coco-eval", "pycocotools"), default="faster-coco-eval",
        help="what computes the metrics: faster-coco-eval (the default), or pycocotools, the original, slower",
    )  # fmt: skip
    evaluate.add_argument("--batch-size", type=int, metavar="B", help="images a forward pass, of all processes")
    _add_shared(evaluate, "the images")
    evaluate.set_defaults(call=_evaluate, after_interrupt="")

    result = commands.add_parser(
        "result",
        help="what came out of a run: AP, and where its files lie",
        epilog="example: dfine result runs/n_custom",
    )
    result.add_argument("run", type=Path, metavar="DIR", help="the run's folder")
    result.set_defaults(call=_result, after_interrupt="")


def _add_shared(parser: argparse.ArgumentParser, shared: str) -> None:
    """The options that training and evaluation have in common."""
    add = parser.add_argument
    add(
        "--row", action="append", default=[], metavar="NEW=OLD",
        help="of --weights, take class OLD for your class NEW, as taxi=car; of a file without class names, class row "
        "OLD, counted from 0; may be given again (default: equal names)",
    )  # fmt: skip
    add("--image-size", metavar="S", help="side of the input in pixels, or HEIGHT,WIDTH; multiples of 32")
    add(
        "--compile", action="store_true",
        help="torch.compile; takes minutes at first; where it fails, the run continues without it",
    )  # fmt: skip
    add("--nproc", type=int, default=1, metavar="N", help=f"processes that share {shared}, a GPU each (default: 1)")
    add(
        "--workers",
        type=int,
        metavar="N",
        help="processes that read images (unless given: as many as there are cores, up to 4, for a GPU up to 16)",
    )
    add("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:1, mps")


def _train(arguments: argparse.Namespace) -> int:
    resumes = "; the same command resumes from the last saved state"
    class_rows = _rows_of(arguments)
    _recipe_of(arguments)  # a wrong setting is reported here, before anything starts or is loaded
    _find_splits(arguments.data, "train", "val")
    if (arguments.nproc != 1 or arguments.max_restarts) and not _started_by_torchrun():
        return _start_processes(arguments, arguments.max_restarts, resumes)

    def work(ranks: Ranks) -> None:
        from data_tools.large.source import LargeFolder
        from dfine_lib.errors import DataError
        from dfine_lib.train.trainer import train
        from dfine_tools.forms import FORMS
        from dfine_tools.runs.processes import was_restarted
        from dfine_tools.runs.recorder import RunRecorder
        from dfine_tools.weights.sources import locate, read

        recipe, weights = _recipe_of(arguments), arguments.weights
        if weights is not None:
            ranks.on_rank_zero(lambda: locate(weights))  # one download for all
            weights = locate(weights)
        out = arguments.out or Path("runs") / recipe.name
        try:
            train(
                recipe, arguments.data, out, seed=arguments.seed, device=arguments.device,
                resume=arguments.resume or was_restarted(), weights=weights, class_rows=class_rows, read=read,
                forms=FORMS, source=LargeFolder(), callback=RunRecorder(),
            )  # fmt: skip
        except DataError as error:  # an image or a tar, perhaps after days
            if not (out / "last.pt").exists():
                raise
            raise DataError(
                f"{with_remedy(error)} The run is kept in {out}{resumes}, once that is repaired."
            ) from error
        if ranks.is_zero:
            _print_result(out)

    return _in_group(arguments, work, resumes)


def _evaluate(arguments: argparse.Namespace) -> int:
    recipe = get_recipe(arguments.recipe) if arguments.recipe else None
    rows = _rows_of(arguments)
    _find_splits(arguments.data, "val")
    if arguments.nproc != 1 and not _started_by_torchrun():
        return _start_processes(arguments)
    settings = {
        "data.image_size": arguments.image_size,
        "data.eval_batch_size": arguments.batch_size,
        "data.num_workers": arguments.workers,
    }

    def work(ranks: Ranks) -> None:
        from dfine_tools.analysis.saved import open_saved
        from dfine_tools.forms.compilation import compile_model

        saved = open_saved(
            arguments.weights, arguments.data, recipe=recipe, settings=_given(settings), device=arguments.device,
            rows=rows,
        )  # fmt: skip
        if arguments.compile:
            compile_model(saved.model)
        metrics = saved.detect(engine=arguments.engine)[0].to_dict()
        if ranks.is_zero:
            _tell(metrics, saved.class_rows, arguments.out)

    return _in_group(arguments, work)


def _find_splits(data: Path, *names: str) -> None:
    """`DataError` where one is not there: raised at once, before torch is loaded."""
    from dfine_lib.data.coco import find_split

    for name in names:
        find_split(data, name)


def _tell(metrics: dict[str, Any], class_rows: dict[str, Any], out: Path | None) -> None:
    """COCO's numbers and AP by class, printed, and written where a file is named."""
    per_class = metrics.pop("per_class")
    for name, value in metrics.items():
        print(f"{name:10} {_number(value)}")
    for name, value in per_class.items():
        print(f"  {_number(value):>5}  {name}")
    if out:
        metrics |= {"per_class": per_class} | ({"class_rows": class_rows} if class_rows else {})
        content = json.dumps(metrics, indent=1) + "\n"
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(content, encoding="utf-8")


def _started_by_torchrun() -> bool:
    return "LOCAL_WORLD_SIZE" in os.environ


def _in_group(arguments: argparse.Namespace, work: Callable[[Ranks], None], way_out: str = "") -> int:
    """Do the work in this process, as one of those that torchrun started where it did; rank zero speaks."""
    from dfine_tools.runs.heap import keep_freed_memory
    from dfine_tools.runs.processes import ProcessLost, end_with_starter, joined_processes

    end_with_starter()
    keep_freed_memory(2047, huge_pages=True)  # a step asks for what the step before gave back; workers are forked
    try:
        with joined_processes(arguments.device) as ranks:
            if not ranks.is_zero:
                logging.getLogger().setLevel(logging.ERROR)
            work(ranks)
    except ProcessLost as error:
        if not error.reported:
            print(f"dfine {arguments.command}: {error}{way_out}", file=sys.stderr)
        return LOST
    return 0


def _start_processes(arguments: argparse.Namespace, max_restarts: int = 0, way_out: str = "") -> int:
    """The same command in several processes: what it says is theirs."""
    from dfine_tools.runs.processes import (
        USERS_ERROR,
        ProcessesFailed,
        check_gpus,
        end_with_starter,
        run_in_processes,
    )

    if arguments.device == "auto" or arguments.device.startswith("cuda"):
        check_gpus(arguments.nproc, needed=arguments.device != "auto")
    end_with_starter()
    try:
        run_in_processes("dfine_tools.cli", arguments.words, arguments.nproc, max_restarts=max_restarts)
    except KeyboardInterrupt:  # the processes were interrupted too, and rank zero says so
        return INTERRUPTED
    except ProcessesFailed as error:
        if USERS_ERROR in error.exit_codes.values():
            return USERS_ERROR
        print(f"dfine {arguments.command}: {error}{way_out}", file=sys.stderr)
        return LOST
    return 0


def _result(arguments: argparse.Namespace) -> None:
    if not (arguments.run / "metrics.json").exists():
        raise DfineError(f"{arguments.run}: no metrics.json, so no finished run; the same command again resumes it")
    _print_result(arguments.run)


def _print_result(run: Path) -> None:
    """AP, best and last, and the files of a finished run that are there."""
    result = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    last = result["last"]
    kept = "best" if result["ap"] is not None else "the val split has no boxes to measure it on; kept are the latest"
    epochs = result["recipe"]["train"]["epochs"]
    print(f"AP {_number(result['ap'])} ({kept}, epoch {result['best_epoch'] + 1} of {epochs})")
    print(f"last epoch: {_number(last['ema']['ap'])} EMA weights, {_number(last['raw']['ap'])} non-EMA weights")
    for name, file in (("report", "report.html"), ("weights", "model.safetensors"), ("numbers", "metrics.json")):
        if (run / file).exists():
            print(f"{name:8} {run / file}")


def _recipe_of(arguments: argparse.Namespace) -> Recipe:
    """The recipe by name, with what the command line changes of it; `--set` has the last word."""
    recipe = get_recipe(arguments.recipe)
    if arguments.epochs is not None:
        recipe = for_epochs(recipe, arguments.epochs)
    if arguments.scale_rates and arguments.batch_size is None:
        raise DfineError("--scale-rates scales the rates to a batch: give --batch-size too")
    if arguments.scale_rates:
        recipe = scaled(recipe, arguments.batch_size)
    settings = {
        "data.batch_size": arguments.batch_size,
        "data.image_size": arguments.image_size,
        "data.num_workers": arguments.workers,
        "data.repeat_threshold": arguments.repeat_threshold,
        "train.precision": arguments.precision,
        "train.compile": arguments.compile or None,
        "train.checkpoint_activations": arguments.checkpoint_activations or None,
    }
    settings = _given(settings)
    for setting in arguments.set:
        name, equals, value = setting.partition("=")
        if not equals:
            raise DfineError(f"--set wants FIELD=VALUE, as train.lr=1e-3, got {setting!r}")
        settings[name.strip()] = value.strip()
    return with_settings(recipe, settings)


def _rows_of(arguments: argparse.Namespace) -> dict[str, str]:
    """The weights' class for a class of the data, as `--row` names them."""
    rows = {}
    for word in arguments.row:
        name, equals, source = (part.strip() for part in word.partition("="))
        if not (name and equals and source):
            raise DfineError(f"--row wants NEW=OLD, two names of classes, as taxi=car, got {word!r}")
        rows[name] = source
    if rows and not arguments.weights:
        raise DfineError("--row says which classes of a weights file to take: give --weights too")
    return rows


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
