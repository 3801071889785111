"""Peak memory of the training step beside the authors' code, each in a process of its own.

    python -m benchmarks.memory --authors path/to/D-FINE [--only "320 px"]

What counts is what the resident memory grows by from the built model, with optimizer and average, to its highest point
in three steps; Python, torch and the weights themselves are the same for both. Both run with the allocator as it comes.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path

from benchmarks.peers import authors
from benchmarks.peers.cases import TRAINING, Case
from benchmarks.ratio import ROOT, Row, arguments, compare, record, use_threads

AIM = 0.85
STEPS = 3


def main() -> None:
    parser = arguments(__doc__, turns=3)
    authors.add_argument(parser)
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    use_threads(options.threads)
    if options.side:
        print(grown(TRAINING[options.case], options.authors if options.side == "theirs" else None))
        return
    if not options.authors:
        print("no --authors: nothing to compare with")
        return
    rows = [_row(i, options) for i, case in enumerate(TRAINING) if options.only in str(case)]
    if not options.dry:
        record("memory", rows, steps=STEPS)


def _row(number: int, options: argparse.Namespace) -> Row:
    def in_process(side: str) -> float:
        words = [sys.executable, "-m", "benchmarks.memory", "--side", side, "--case", str(number)]
        words += ["--authors", str(options.authors), "--threads", str(options.threads)]
        return float(subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout)

    return compare(
        lambda: in_process("ours"), lambda: in_process("theirs"), turns=options.turns, warmup=0,
        what="peak memory of the training step", case=str(TRAINING[number]), against=authors.NAME, unit="MB",
        at_most=AIM,
    )  # fmt: skip


def grown(case: Case, checkout: Path | None) -> float:
    """Megabytes that a few steps add to what is resident before them: ours, or with a checkout theirs."""
    from benchmarks.training_step import our_step, their_step

    model = case.model()
    step = their_step(case, model, authors.Authors(checkout)) if checkout else our_step(case, model)
    before = _resident()
    for _ in range(STEPS):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
