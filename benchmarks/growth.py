"""How the step's time grows with batch and pixels, and the criterion's with boxes; a figure beside the numbers.

    python -m benchmarks.growth [--only boxes]

A row's number is the exponent p of time ~ size^p, the slope of a straight line through the logarithms: 1 is linear.
The figure is `results/growth.png`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.criterion import SEED, cut_off
from benchmarks.peers.cases import Case
from benchmarks.ratio import RESULTS, Row, arguments, record, show_row, use_threads
from benchmarks.training_step import our_step
from dfine_lib.criterion import build_criterion

BATCHES = [Case("n", 320, batch) for batch in (2, 4, 8, 16)]
SIDES = [Case("n", side, 4) for side in (224, 320, 448, 640)]
BOXES = [Case("n", 320, 4, boxes=boxes) for boxes in (10, 30, 100, 300)]


def main() -> None:
    options = arguments(__doc__, turns=3).parse_args()
    use_threads(options.threads)
    kinds: list[tuple[str, list[Case], Callable[[Case], float], Callable[[Case], Callable], float]] = [
        ("step against batch", BATCHES, lambda case: case.batch, _step, 1.1),
        ("step against pixels", SIDES, lambda case: case.side**2, _step, 1.1),
        ("criterion against boxes", BOXES, lambda case: case.boxes, _criterion, 1.0),
    ]
    rows = []
    for what, cases, size, work, at_most in kinds:
        if options.only not in what:
            continue
        sizes, seconds = [size(case) for case in cases], [_fastest(work(case), options.turns) for case in cases]
        slope = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
        row = Row(
            what="growth: exponent of " + what, case=f"{cases[0]} to {cases[-1]}", against="", ours=slope, unit="",
            turns=options.turns, at_most=at_most, details={"sizes": sizes, "seconds": seconds},
        )  # fmt: skip
        show_row(row)
        rows.append(row)
    if not options.dry:
        record("growth", rows)
        _draw(rows)


def _step(case: Case) -> Callable[[], object]:
    return our_step(case, case.model())


def _criterion(case: Case) -> Callable[[], object]:
    batch, criterion = case.data(), build_criterion(case.recipe)
    torch.manual_seed(SEED)
    answers, leaves = cut_off(case.model()(batch.images, batch.targets))
    return lambda: torch.autograd.grad(sum(criterion(answers, batch.targets).values()), leaves, allow_unused=True)


def _fastest(work: Callable[[], object], turns: int) -> float:
    """Seconds of the fastest call: what other work on the machine adds is not the program's."""
    best = math.inf
    for turn in range(1 + turns):
        start = time.perf_counter()
        work()
        if turn:
            best = min(best, time.perf_counter() - start)
    return best


def _draw(rows: list[Row]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(rows), 3.2), layout="constrained")
    for axes, row in zip(np.atleast_1d(figure.subplots(1, len(rows))), rows, strict=True):
        sizes, seconds = np.array(row.details["sizes"]), np.array(row.details["seconds"])
        axes.loglog(sizes, seconds, "o-", label=f"measured, exponent {row.ours:.2f}")
        axes.loglog(sizes, seconds[0] * sizes / sizes[0], "--", color="0.6", label="linear")
        kind, _, size = row.what.removeprefix("growth: exponent of ").partition(" against ")
        axes.set(xlabel=size + (" an image" if size == "boxes" else ""), ylabel=f"{kind}, s", title=row.case)
        axes.title.set_fontsize(8)
        axes.legend(fontsize=8)
    figure.savefig(RESULTS / "growth.png", dpi=110)


if __name__ == "__main__":
    main()
