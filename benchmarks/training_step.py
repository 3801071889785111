"""A training step, part by part, beside the authors' code and beside `transformers`.

python -m benchmarks.training_step --authors path/to/D-FINE [--only "320 px"]

A step is forward pass, criterion with matching, backward pass, clipping, AdamW and the moving average, in float32. The
authors' is what their `train_one_epoch` does; that of `transformers` has its own, shorter loss and no average, which is
then left out of ours too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.peers import authors
from benchmarks.peers.cases import TRAINING, Case, Clock, worst_difference
from benchmarks.ratio import Row, arguments, compare, record, use_threads
from dfine_lib.criterion import build_criterion
from dfine_lib.train.ema import ModelEMA
from dfine_lib.train.optim import build_optimizer
from dfine_lib.train.step import TrainStep

AIMS = dict(zip(map(str, TRAINING), (0.60, 0.45, 0.65, 0.70), strict=True))
AIM_TRANSFORMERS = 0.70
SEED = 1  # of the denoising draws


def main() -> None:
    parser = arguments(__doc__, turns=7)
    authors.add_argument(parser)
    parser.add_argument("--beside", choices=("authors", "transformers"), help="only that one")
    options = parser.parse_args()
    use_threads(options.threads)
    rows = []
    for case in TRAINING:
        if options.only not in str(case):
            continue
        if options.authors and options.beside != "transformers":
            rows.append(beside_authors(case, authors.Authors(options.authors), options.turns))
        if options.beside != "authors" and case in (TRAINING[0], TRAINING[3]):
            rows.append(beside_transformers(case, options.turns))
    if not options.dry:
        record("training_step", rows, seed=SEED)


def beside_authors(case: Case, peer: authors.Authors, turns: int) -> Row:
    """The whole step of both."""
    recipe, batch, model = case.recipe, case.data(), case.model()
    theirs = peer.model(model, case.side).train()
    criterion = peer.criterion(recipe)
    torch.manual_seed(SEED)
    expected = criterion(theirs(batch.images, targets=batch.targets), batch.targets)
    torch.manual_seed(SEED)
    found = build_criterion(recipe)(model(batch.images, batch.targets), batch.targets)
    difference, term = worst_difference(found, expected)
    if difference > 1e-3:
        raise SystemExit(f"{case}: {term} differs by {difference:.1e} of itself; nothing is measured")
    del found, expected

    return compare(
        our_step(case, model), their_step(case, model, peer, theirs), turns=turns,
        what="training step", case=str(case), against=authors.NAME, at_most=AIMS.get(str(case)),
        details={"worst_loss_difference": difference},
    )  # fmt: skip


def their_step(
    case: Case, model: nn.Module, peer: authors.Authors, theirs: nn.Module | None = None
) -> Callable[[], dict[str, float]]:
    """The authors' step, of the same shape as our `model`; `theirs` is built where it is not given."""
    recipe, batch = case.recipe, case.data()
    theirs = peer.model(model, case.side).train() if theirs is None else theirs
    criterion, average = peer.criterion(recipe), peer.ema(theirs, recipe)
    optimizer = peer.optimizer(theirs, build_optimizer(model, recipe).param_groups, model)

    def run() -> dict[str, float]:
        clock, start = Clock(), time.perf_counter()
        torch.manual_seed(SEED)
        authors.step(
            theirs, criterion, optimizer, average, recipe.train.clip_max_norm, batch.images, batch.targets, clock
        )
        return _with_rest(clock, start)

    return run


def our_step(case: Case, model: nn.Module, average: bool = True) -> Callable[[], dict[str, float]]:
    """The step that `dfine train` takes, with a clock at its parts."""
    recipe, batch = case.recipe, case.data()
    model.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, recipe)
    step = TrainStep(
        model, build_criterion(recipe), optimizer, ModelEMA(model, recipe), recipe.train, torch.device("cpu")
    )
    clock = Clock()
    step.forward = _timed(step.forward, clock, "forward")
    step.criterion = _timed(step.criterion, clock, "criterion")
    optimizer.step = _timed(optimizer.step, clock, "optimizer")
    step.ema.update = _timed(step.ema.update, clock, "average") if average else lambda _: None

    def run() -> dict[str, float]:
        clock.parts.clear()
        start = time.perf_counter()
        torch.manual_seed(SEED)
        result = step([batch])
        if result.broken:
            raise SystemExit(f"{case}: {result.broken} not finite")
        return _with_rest(clock, start)

    return run


def beside_transformers(case: Case, turns: int) -> Row:
    """Forward pass with loss, backward pass, clipping and AdamW of both."""
    import transformers

    from dfine_lib.model.huggingface import huggingface_config, to_huggingface

    recipe, batch, model = case.recipe, case.data(), case.model()
    config = transformers.DFineConfig(**huggingface_config(recipe.model, []))
    theirs = transformers.DFineForObjectDetection(config)
    load_converted(theirs, to_huggingface(model.state_dict()))
    model.eval(), theirs.eval()
    with torch.no_grad():
        difference = (model(batch.images).pred_logits - theirs(batch.images).logits).abs().median().item()
    if difference > 1e-4:
        raise SystemExit(f"{case}: logits differ by {difference:.1e} from those of transformers; nothing is measured")
    model.train(), theirs.train()
    labels = [{"class_labels": t["labels"], "boxes": t["boxes"]} for t in batch.targets]
    optimizer = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=recipe.train.lr)

    def their_step() -> dict[str, float]:
        clock, start = Clock(), time.perf_counter()
        torch.manual_seed(SEED)
        with clock("forward"):
            output = theirs(batch.images, labels=labels)
        optimizer.zero_grad()
        output.loss.backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), recipe.train.clip_max_norm)
        with clock("optimizer"):
            optimizer.step()
        output.loss.item()
        return _with_rest(clock, start)

    return compare(
        our_step(case, model, average=False), their_step, turns=turns, what="training step", case=str(case),
        against=f"transformers {transformers.__version__}", at_most=AIM_TRANSFORMERS,
        details={"median_logit_difference": difference},
    )  # fmt: skip


def load_converted(theirs: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Weights under the names of their files into their model, by the way that they load files."""
    import tempfile
    from pathlib import Path

    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as folder:
        theirs.config.save_pretrained(folder)
        contiguous = {name: value.contiguous().clone() for name, value in state.items()}
        save_file(contiguous, Path(folder) / "model.safetensors", {"format": "pt"})
        loaded = type(theirs).from_pretrained(folder)
    theirs.load_state_dict(loaded.state_dict())


def _timed(work: Callable, clock: Clock, part: str) -> Callable:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with clock(part):
            return work(*args, **kwargs)

    return wrapped


def _with_rest(clock: Clock, start: float) -> dict[str, float]:
    """The parts, and what the whole took besides: the backward pass, clipping, numbers for the log."""
    whole = time.perf_counter() - start
    clock.parts.pop("backward", None)
    return clock.parts | {"backward and rest": whole - sum(clock.parts.values())}


if __name__ == "__main__":
    main()
