"""A training step, part by part, beside the authors' code and beside `transformers`.

python -m benchmarks.training_step --authors path/to/D-FINE [--only "320 px"]

A step is forward pass, criterion with matching, backward pass, clipping, AdamW and the moving average, in float32. The
authors' is what their `train_one_epoch` does; that of `transformers` has its own, shorter loss and no average, which is
then left out of ours too. Equal losses are checked first, in one process; then each side trains in a process of its
own, the two by turns: ours keeps the memory that it frees, as `dfine train` does. Threads wait as torch's own do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.peers import authors
from benchmarks.peers.cases import TRAINING, Case, Clock, worst_difference
from benchmarks.peers.process import Side
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
    expected = criterion(theirs(batch.images, targets=list(batch.targets)), list(batch.targets))
    torch.manual_seed(SEED)
    found = build_criterion(recipe)(model(batch.images, batch.targets), batch.targets)
    difference, term = worst_difference(found, expected)
    if difference > 1e-3:
        raise SystemExit(f"{case}: {term} differs by {difference:.1e} of itself; nothing is measured")
    del found, expected, model, theirs
    threads = torch.get_num_threads()
    with (
        Side(our_side, case, threads, keep_memory=True) as ours,
        Side(authors_side, case, threads, peer.checkout, keep_memory=False) as others,
    ):
        return compare(
            ours, others, turns=turns, what="training step", case=str(case), against=authors.NAME,
            at_most=AIMS.get(str(case)), details={"worst_loss_difference": difference},
        )  # fmt: skip


def our_side(case: Case, threads: int, average: bool = True) -> Callable[[], dict[str, float]]:
    """Our step, with everything built for it."""
    torch.set_num_threads(threads)
    return our_step(case, case.model(), average)


def authors_side(case: Case, threads: int, checkout: Path) -> Callable[[], dict[str, float]]:
    """Theirs, likewise."""
    torch.set_num_threads(threads)
    return their_step(case, case.model(), authors.Authors(checkout))


def transformers_side(case: Case, threads: int) -> Callable[[], dict[str, float]]:
    """That of `transformers`, likewise."""
    torch.set_num_threads(threads)
    return transformers_step(case, transformers_model(case.model()).train())


def their_step(case: Case, model: nn.Module, peer: authors.Authors) -> Callable[[], dict[str, float]]:
    """The authors' step, of the same shape as our `model`."""
    recipe, batch = case.recipe, case.data()
    theirs = peer.model(model, case.side).train()
    criterion, average = peer.criterion(recipe), peer.ema(theirs, recipe)
    optimizer = peer.optimizer(theirs, build_optimizer(model, recipe.train).param_groups, model)

    def run() -> dict[str, float]:
        clock, start = Clock(), time.perf_counter()
        torch.manual_seed(SEED)
        authors.step(
            theirs, criterion, optimizer, average, recipe.train.clip_max_norm, batch.images, list(batch.targets), clock
        )
        return _with_rest(clock, start)

    return run


def our_step(case: Case, model: nn.Module, average: bool = True) -> Callable[[], dict[str, float]]:
    """The step that `dfine train` takes, with a clock at its parts."""
    recipe, batch = case.recipe, case.data()
    model.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(model, recipe.train)
    step = TrainStep(
        model, build_criterion(recipe), optimizer, ModelEMA(model, recipe.train), recipe.train, torch.device("cpu")
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
        if result.non_finite:
            raise SystemExit(f"{case}: {result.non_finite} not finite")
        return _with_rest(clock, start)

    return run


def beside_transformers(case: Case, turns: int) -> Row:
    """Forward pass with loss, backward pass, clipping and AdamW of both."""
    import transformers

    batch, model = case.data(), case.model().eval()
    theirs = transformers_model(model).eval()
    with torch.no_grad():
        difference = (model(batch.images).pred_logits - theirs(batch.images).logits).abs().median().item()
    if difference > 1e-4:
        raise SystemExit(f"{case}: logits differ by {difference:.1e} from those of transformers; nothing is measured")
    del model, theirs
    threads = torch.get_num_threads()
    with (
        Side(our_side, case, threads, False, keep_memory=True) as ours,
        Side(transformers_side, case, threads, keep_memory=False) as others,
    ):
        return compare(
            ours, others, turns=turns, what="training step", case=str(case),
            against=f"transformers {transformers.__version__}", at_most=AIM_TRANSFORMERS,
            details={"median_logit_difference": difference},
        )  # fmt: skip


def transformers_step(case: Case, theirs: nn.Module) -> Callable[[], dict[str, float]]:
    """A step of `transformers` with its own loss."""
    train, batch = case.recipe.train, case.data()
    labels = [{"class_labels": t["labels"], "boxes": t["boxes"]} for t in batch.targets]
    optimizer = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=train.lr)

    def run() -> dict[str, float]:
        clock, start = Clock(), time.perf_counter()
        torch.manual_seed(SEED)
        with clock("forward"):
            output = theirs(batch.images, labels=labels)
        optimizer.zero_grad()
        output.loss.backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), train.clip_max_norm)
        with clock("optimizer"):
            optimizer.step()
        output.loss.item()
        return _with_rest(clock, start)

    return run


def transformers_model(ours: nn.Module) -> nn.Module:
    """Their model of the same shape and with the same weights as ours."""
    import transformers

    from dfine_tools.weights.huggingface import huggingface_config, to_huggingface

    theirs = transformers.DFineForObjectDetection(transformers.DFineConfig(**huggingface_config(ours.config, [])))
    load_converted(theirs, to_huggingface(ours.state_dict()))
    return theirs


def load_converted(theirs: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Weights under the names of their files into their model, by the way that they load files."""
    import tempfile

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
