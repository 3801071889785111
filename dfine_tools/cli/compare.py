"""`dfine compare`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from dfine_tools.cli.options import check_figure, write_figure


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add what puts runs beside each other."""
    compare = commands.add_parser(
        "compare",
        help="AP of several runs by epoch, beside each other or beside the authors' log",
        description="Each RUN is a run's folder, its metrics.jsonl, a recorded results/NAME.jsonl, or a log.txt of the "
        "authors' code. Prints AP by epoch, the best of each, and which settings differ between runs of ours.",
        epilog="example: dfine compare runs/a runs/b output/dfine_hgnetv2_l_coco/log.txt --out a_b.png",
    )
    compare.add_argument("runs", nargs="+", metavar="RUN")
    compare.add_argument("--out", type=Path, metavar="FILE", help="draw AP and loss into this file: .png, .svg or .pdf")
    compare.add_argument("--all", action="store_true", help="print every epoch (default: about 20 of them)")
    compare.set_defaults(call=_compare, after_interrupt="")


def _compare(arguments: argparse.Namespace) -> None:
    from dfine_tools.runs.compare import comparison, differences, read_runs, summaries
    from dfine_tools.tables import as_text

    check_figure("--out", arguments.out)
    runs = read_runs(arguments.runs)
    for run in runs:
        if run.unreadable:
            print(f"{run.path}: passed over {run.unreadable} line(s) that were cut off or are of another format")
    by_epoch = comparison(runs, None if arguments.all else 20)
    if by_epoch:
        print("AP by epoch\n" + as_text(by_epoch) + "\n")
    print(as_text(summaries(runs)))
    known = [run for run in runs if run.settings is not None]
    if len(known) > 1:
        rows = [{name: _short(value) for name, value in row.items()} for row in differences(runs)]
        print("\nWhat differs\n" + as_text(rows) if rows else "\nNo setting differs.")
    unknown = [run.name for run in runs if run.settings is None]
    if unknown and len(runs) > 1:
        print(f"\nSettings not known: {', '.join(unknown)}")
    if arguments.out is not None:
        from dfine_tools.figures.compare import runs_compared

        write_figure(runs_compared(runs), arguments.out)
        print(f"\n{arguments.out}")


def _short(value: Any, most: int = 40) -> str:
    """A setting in few letters; a run that does not know it has a dash."""
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= most else text[: most - 1] + "…"
