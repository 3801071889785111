"""Inference and a step of training beside `pydfine` and `dfine-seg`, which hold versions of the authors' code.

    python -m benchmarks.other_packages --pydfine FOLDER --dfine-seg FOLDER

Folders as `benchmarks/peers/packages.py` says; a package without one is left out. Each implementation is a process of
its own, and they work by turns. Weights, inputs and draws are the same; answers are checked before anything is timed.
A step here ends with the gradients: neither package's optimizer is asked.
"""

from __future__ import annotations

import os

import torch

from benchmarks.peers.cases import Case, worst_difference
from benchmarks.peers.packages import PACKAGES, Side, add_arguments
from benchmarks.ratio import Row, arguments, compare, record

INFERENCE = [Case("n", 640, 1), Case("s", 640, 1)]
STEPS = [Case("n", 320, 8), Case("n", 640, 4)]


def main() -> None:
    parser = arguments(__doc__, turns=5)
    add_arguments(parser)
    options = parser.parse_args()
    threads = options.threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)  # what the rows tell
    rows = []
    for package in PACKAGES:
        folder = getattr(options, package.replace("-", "_"))
        if folder is None:
            print(f"{package}: left out, no --{package} FOLDER was given")
            continue
        for work, cases in (("forward", INFERENCE), ("step", STEPS)):
            for case in cases:
                if options.only in str(case):
                    sides = [
                        Side(name, path, case, work, threads) for name, path in (("ours", None), (package, folder))
                    ]
                    rows.append(beside(*sides, package, case, work, options.turns))
    if rows and not options.dry:
        print(record("other_packages", rows, seed=1))


def beside(ours: Side, theirs: Side, package: str, case: Case, work: str, turns: int) -> Row:
    """Check answers, then time."""
    if work == "forward":
        # Top queries of equal score may change places, so that not every row need agree.
        difference = max(float((ours.answer[k] - theirs.answer[k]).abs().median()) for k in ours.answer)
        wrong, details = difference > 1e-4, {"median_difference": difference}
    else:
        difference, term = worst_difference(ours.answer, theirs.answer)
        wrong, details = difference > 1e-3, {"worst_loss_difference": difference, "worst_loss": term}
    if wrong:
        raise SystemExit(f"{package}, {case}, {work}: answers differ, {details}; nothing is measured")
    row = compare(
        ours, theirs, turns=turns, what="inference" if work == "forward" else "forward, criterion, backward",
        case=str(case), against=f"{package} {theirs.version}", details=details,
    )  # fmt: skip
    ours.end(), theirs.end()
    return row


if __name__ == "__main__":
    main()
