"""How long ours takes beside another implementation: the two by turns, and the ratio of each turn.

Other work on a machine slows both halves of a turn alike, so a ratio says more than two times measured apart. Every
program of this folder checks first that both give equal answers, then measures here, and records into
`benchmarks/results/`; `table.py` puts what is recorded into docs/speed.md.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    what: str  # "training step"
    case: str  # "n, 320 px, batch 8"
    against: str  # "the authors' code"; "" where nothing is beside ours
    ours: float  # median
    theirs: float | None = None
    ratio: float | None = None  # median over turns of ours / theirs
    middle_half: tuple[float, float] | None = None  # quartiles of that ratio
    turns: int = 0
    unit: str = "s"
    at_most: float | None = None  # target of the ratio; of `ours` where nothing is beside it
    details: dict[str, Any] = field(default_factory=dict)  # medians part by part, what was checked, …

    @property
    def holds(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.at_most is None:
            return None
        return (self.ours if self.ratio is None else self.ratio) <= self.at_most


Timed = Callable[[], dict[str, float] | float | None]


def compare(
    ours: Timed, theirs: Timed, *, turns: int = 5, warmup: int = 1, show: bool = True, **row: Any
) -> Row:  # fmt: skip
    """Call the two by turns, A B B A A B …, and make a row of it.

    Args:
        ours, theirs: the work of one turn. Returns seconds by part (their sum counts), one number where something else
            than time is measured, or None: then the call itself is timed.
        turns: how many times each is called, after `warmup` calls that do not count.
        show: print the row.
        row: the other fields of `Row`.
    """
    kept: tuple[list[dict[str, float]], list[dict[str, float]]] = ([], [])
    for turn in range(warmup + turns):
        for side in (0, 1) if turn % 2 == 0 else (1, 0):
            parts = _once((ours, theirs)[side])
            if turn >= warmup:
                kept[side].append(parts)
    totals = [[sum(parts.values()) for parts in side] for side in kept]
    ratios = [a / b for a, b in zip(*totals, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4) if turns > 1 else ratios * 3
    details = dict(row.pop("details", {}))
    if len(kept[0][0]) > 1:
        details["parts"] = {"ours": _medians(kept[0]), "theirs": _medians(kept[1])}
    made = Row(
        ours=statistics.median(totals[0]), theirs=statistics.median(totals[1]), ratio=statistics.median(ratios),
        middle_half=(low, high), turns=turns, details=details, **row,
    )  # fmt: skip
    if show:
        show_row(made)
    return made


def measure(work: Timed, *, turns: int = 5, warmup: int = 1, show: bool = True, **row: Any) -> Row:
    """A row with nothing beside ours."""
    kept = [_once(work) for _ in range(warmup + turns)][warmup:]
    details = dict(row.pop("details", {}))
    if len(kept[0]) > 1:
        details["parts"] = {"ours": _medians(kept)}
    median = statistics.median(sum(parts.values()) for parts in kept)
    made = Row(against="", ours=median, turns=turns, details=details, **row)
    if show:
        show_row(made)
    return made


def record(name: str, rows: list[Row], seed: int = 0, device: str = "cpu", **about: Any) -> Path:
    """Write rows to `results/<name>.json`, each with commit, command and machine.

    Rows of an earlier call stay unless one of the same `what`, `case` and `against` replaces them.
    """
    path = RESULTS / f"{name}.json"
    here = {
        "measured": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "commit": commit("dfine_lib"), "command": command(),
        "seed": seed, "device": device, "machine": machine(), **about,
    }  # fmt: skip
    earlier = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    new = [asdict(row) | here for row in rows]
    named = {_name(row) for row in new}
    merged = [row for row in earlier if _name(row) not in named] + new
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps({"rows": merged}, indent=1) + "\n", encoding="utf-8")
    return path


def command() -> str:
    """The command line that this program was started with, to be given in the repository's root."""
    program = Path(sys.argv[0]).resolve()
    if program.is_relative_to(ROOT):
        module = ".".join(program.relative_to(ROOT).with_suffix("").parts)
        return shlex.join(["python", "-m", module, *sys.argv[1:]])
    return shlex.join(sys.argv)


def machine() -> dict[str, Any]:
    """Processor, cores, threads in use, memory and versions."""
    import os
    import platform

    import torch
    import torchvision

    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    memory = Path("/proc/meminfo")
    kilobytes = int(memory.read_text(encoding="utf-8").split()[1]) if memory.exists() else 0
    return {
        "processor": models[0] if models else platform.processor(), "cores": os.cpu_count(),
        "threads": torch.get_num_threads(), "memory_gb": round(kilobytes / 2**20), "system": platform.platform(),
        "torch": torch.__version__, "torchvision": torchvision.__version__, "python": platform.python_version(),
    }  # fmt: skip


def arguments(description: str, **defaults: Any) -> argparse.ArgumentParser:
    """A parser with what most programs here take: `--turns`, `--threads`, `--only`, `--dry`."""
    parser = argparse.ArgumentParser(description=description.split("\n\n")[0])
    parser.add_argument("--turns", type=int, default=defaults.get("turns", 5), help="calls of each side that count")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0: as many as there are cores")
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--dry", action="store_true", help="measure and print, record nothing")
    return parser


def use_threads(threads: int) -> None:
    """Let torch use that many threads; 0: one a core."""
    import os

    import torch

    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))


def show_row(row: Row) -> None:
    """Print a row in one line, its parts below."""
    line = f"{row.what}, {row.case}: {row.ours:.4g} {row.unit}"
    if row.ratio is not None:
        low, high = row.middle_half
        line += f", {row.against} {row.theirs:.4g}: ratio {row.ratio:.3f} ({low:.3f} to {high:.3f})"
    if row.at_most is not None:
        line += f"; at most {row.at_most:g}: {'holds' if row.holds else 'DOES NOT HOLD'}"
    print(line, flush=True)
    for side, parts in row.details.get("parts", {}).items():
        print(f"    {side}: " + ", ".join(f"{name} {value:.4g}" for name, value in parts.items()), flush=True)


def _once(work: Timed) -> dict[str, float]:
    start = time.perf_counter()
    result = work()
    elapsed = time.perf_counter() - start
    if isinstance(result, dict):
        return result
    return {"all": elapsed if result is None else float(result)}


def _medians(kept: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(parts[name] for parts in kept) for name in kept[0]}


def _name(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["what"], row["case"], row["against"]


def commit(*paths: str) -> str:
    """The commit, with `+` where tracked files in the paths differ from it; they are of git, relative to the root."""
    run = lambda *words: subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()  # noqa: E731
    return run("git", "rev-parse", "HEAD") + ("+" if run("git", "status", "--porcelain", "--", *paths) else "")
