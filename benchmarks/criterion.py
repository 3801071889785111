"""Criterion and matcher alone, beside the authors'; and the losses' backward pass down to the model's answers.

    python -m benchmarks.criterion --authors path/to/D-FINE [--only "100 boxes"]

Both get the answers of models of equal weights to the same batch, cut off from the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers import authors
from benchmarks.peers.cases import TRAINING, Case, worst_difference
from benchmarks.ratio import Row, arguments, compare, record, use_threads
from dfine_lib.criterion import build_criterion

AIM, AIM_MANY, MANY = 0.25, 0.10, 100
SAME, SAME_MANY = 1e-3, 2e-2  # of a term; with many boxes the union set has ties, whose order theirs leaves to chance
SEED = 1  # of the denoising draws


def main() -> None:
    parser = arguments(__doc__)
    authors.add_argument(parser)
    options = parser.parse_args()
    use_threads(options.threads)
    peer = authors.asked_for(options)
    if peer is None:
        return
    many = [replace(case, boxes=MANY) for case in TRAINING if case.queries is None]  # others have fewer queries
    cases = [case for case in TRAINING + many if options.only in str(case)]
    rows = [row for case in cases for row in beside_authors(case, peer, options.turns)]
    if not options.dry:
        record("criterion", rows, seed=SEED)


def beside_authors(case: Case, peer: authors.Authors, turns: int) -> list[Row]:
    """Losses, and their gradients."""
    batch, model, few = case.data(), case.model(), case.boxes < MANY
    theirs = peer.model(model, case.side).train()
    criteria = build_criterion(case.recipe), peer.criterion(case.recipe)
    torch.manual_seed(SEED)
    ours_out = model(batch.images, batch.targets)
    torch.manual_seed(SEED)
    theirs_out = theirs(batch.images, targets=list(batch.targets))
    del model, theirs
    answers = cut_off(ours_out), cut_off(theirs_out)
    targets = batch.targets, list(batch.targets)
    losses = [criterion(out, own) for criterion, (out, _), own in zip(criteria, answers, targets, strict=True)]
    difference, term = worst_difference(*losses)
    if difference > (SAME if few else SAME_MANY):
        raise SystemExit(f"{case}: {term} differs by {difference:.1e} of itself; nothing is measured")
    forward, backward = [], []
    for criterion, (out, leaves), loss, own in zip(criteria, answers, losses, targets, strict=True):
        forward.append(partial(criterion, out, own))
        backward.append(partial(torch.autograd.grad, sum(loss.values()), leaves, retain_graph=True, allow_unused=True))
    about = {
        "turns": turns,
        "case": str(case),
        "against": authors.NAME,
        "details": {"worst_loss_difference": difference},
    }
    return [
        compare(*map(_timed, forward), what="criterion and matcher", at_most=AIM if few else AIM_MANY, **about),
        compare(*map(_timed, backward), what="backward pass of the losses", **about),
    ]


def cut_off(answers: Any) -> tuple[Any, list[Tensor]]:
    """The same nest of dicts, lists and dataclasses, every tensor with a gradient made a leaf; and those leaves."""
    leaves: dict[int, Tensor] = {}

    def cut(part: Any) -> Any:
        if isinstance(part, Tensor):
            if not part.requires_grad:
                return part
            return leaves.setdefault(id(part), part.detach().clone().requires_grad_())
        if isinstance(part, dict):
            return {name: cut(value) for name, value in part.items()}
        if isinstance(part, list | tuple):
            return type(part)(cut(value) for value in part)
        if is_dataclass(part):
            return replace(part, **{field.name: cut(getattr(part, field.name)) for field in fields(part)})
        return part

    return cut(answers), list(leaves.values())


def _timed(work: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        work()

    return run


if __name__ == "__main__":
    main()
