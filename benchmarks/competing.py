"""Our training step while another process keeps a core busy, as a notebook at work does, against the step without it.

python -m benchmarks.competing [--only "n, 320"]

Run as `dfine train` runs: threads that wait sleep soon, and freed memory is kept.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

from benchmarks.ratio import Row, arguments, compare, record, use_threads

AIM = 2.2
BUSY = "while True: sum(range(10000))"


def main() -> None:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # read when torch is loaded, by what is imported below
    from benchmarks.peers.cases import TRAINING
    from dfine_tools.runs.heap import keep_freed_memory

    options = arguments(__doc__, turns=7).parse_args()
    use_threads(options.threads)
    keep_freed_memory(2047, huge_pages=True)
    rows = [_row(case, options.turns) for case in TRAINING if options.only in str(case)]
    if not options.dry:
        record("competing", rows)


def _row(case: object, turns: int) -> Row:
    from benchmarks.training_step import our_step

    step: Callable = our_step(case, case.model())

    def beside_a_busy_process() -> dict[str, float]:
        with subprocess.Popen([sys.executable, "-c", BUSY]) as busy:
            try:
                return step()
            finally:
                busy.kill()

    return compare(
        beside_a_busy_process, step, turns=turns, what="training step beside a busy process", case=str(case),
        against="itself alone", at_most=AIM,
    )  # fmt: skip


if __name__ == "__main__":
    main()
