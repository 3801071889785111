from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

COSTS = Path(__file__).parents[1] / "scaling.json"
PAGE = Path(__file__).parents[1] / "scaling.md"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=sys.modules[__package__].__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    count = commands.add_parser("count", help="operations and bytes of one image; any machine gives the same")
    count.add_argument("sizes", nargs="*", default=["n", "s", "m", "l", "x"])
    for name, about in (("time", "seconds of one image on this processor"), ("check", "runs of 1 and 2 processes")):
        commands.add_parser(name, help=about).add_argument("--data", type=Path, required=True)
    commands.add_parser("write", help="the page, from what was measured")
    options = parser.parse_args()

    costs = json.loads(COSTS.read_text()) if COSTS.exists() else {}
    if options.command == "write":
        from benchmarks.scaling.page import as_page

        PAGE.write_text(as_page(costs), encoding="utf-8")
        return
    if options.command == "count":
        from benchmarks.scaling.costs import count_size

        for size in options.sizes:
            costs.setdefault("sizes", {})[size] = count_size(size)
            _save(costs, "count")
    elif options.command == "time":
        from benchmarks.scaling.costs import time_input, time_step

        costs |= {"timed": time_step(), "input": time_input(options.data)}
        _save(costs, "time")
    else:
        from benchmarks.scaling.check import check

        costs["check"] = check(options.data)
        _save(costs, "check")


def _save(costs: dict[str, Any], what: str) -> None:
    import torch

    from dfine_tools.runs.machine import describe_machine

    machine = describe_machine(torch.device("cpu"))
    about = {name: machine[name] for name in ("commit", "started")} | {"processor": machine["machine"]["processor"]}
    about |= {"command": shlex.join(["python", "-m", "benchmarks.scaling", *sys.argv[1:]]), "torch": torch.__version__}
    costs.setdefault("measured", {})[what] = about
    COSTS.write_text(json.dumps(costs, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
