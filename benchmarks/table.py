"""Fill the tables of docs/speed.md from what is recorded in `benchmarks/results/`. Numbers are never typed.

python -m benchmarks.table write    rewrite the tables
python -m benchmarks.table check    exit 1 where page and files disagree
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from benchmarks.gpu.page import as_table
from benchmarks.ratio import RESULTS, ROOT

PAGE = ROOT / "docs" / "speed.md"
BEGIN, END = "<!-- speed: made by benchmarks/table.py -->", "<!-- end of speed -->"
GPU_BEGIN, GPU_END = "<!-- gpu: made by benchmarks/table.py -->", "<!-- end of gpu -->"
GPU = "gpu.json"  # of benchmarks/gpu.sh
HEAD = (
    "| what | case | compared with | ours | theirs | ratio (interquartile range) | target |\n"
    "|---|---|---|---|---|---|---|"
)


def table(results: Path = RESULTS) -> str:
    """The markdown table of all recorded rows, by file name, with machines and commands below."""
    files = (file for file in sorted(results.glob("*.json")) if file.name != GPU)
    rows = [row for file in files for row in json.loads(file.read_text("utf-8"))["rows"]]
    if not rows:
        return "Nothing has been measured yet."
    commands = sorted({f"`{portable(row['command'])}` (`{row['commit'][:7]}`)" for row in rows})
    return "\n".join(
        [HEAD, *(_line(row) for row in rows), "", "Measured on " + "; ".join(sorted({_machine(row) for row in rows}))]
        + ["with " + ", ".join(commands) + "."]
    )


def portable(command: str) -> str:
    """The command with the first folders left off paths of the machine it ran on: `--out …/runs/mine`."""
    return re.sub(r"(?<=\s)(?:\.\.)?/(?:[^/\s]+/)*([^/\s]+/[^/\s]+)", r"…/\1", command)


def _line(row: dict[str, Any]) -> str:
    ours, theirs, ratio, aim = _number(row["ours"], row["unit"]), "", "", ""
    if row["ratio"] is not None:
        theirs = _number(row["theirs"], row["unit"])
        low, high = row["middle_half"]
        ratio = f"**{row['ratio']:.2f}** ({low:.2f} to {high:.2f})"
    if row["at_most"] is not None:
        measured = row["ours"] if row["ratio"] is None else row["ratio"]
        aim = f"{row['at_most']:g}" + ("" if measured <= row["at_most"] else ", missed")
    return f"| {row['what']} | {row['case']} | {row['against']} | {ours} | {theirs} | {ratio} | {aim} |"


def _number(value: float, unit: str) -> str:
    if unit == "s" and value < 1:
        return f"{value * 1000:.3g} ms"
    return (f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}").rstrip()


def _machine(row: dict[str, Any]) -> str:
    here = row["machine"]
    return (
        f"{here['processor']}, {here['cores']} cores, {here['threads']} thread(s), {here['memory_gb']} GB, "
        f"torch {here['torch'].split('+')[0]}, {row['device']}"
    )


def gpu_table(results: Path = RESULTS) -> str:
    """The markdown table of benchmarks/gpu.sh; without results, that it was not run.

    Raises:
        ValueError: results of the dry mode.
    """
    file = results / GPU
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    if found is not None and found["dry"]:
        raise ValueError(f"{file}: results of the dry mode are not recorded; remove the file")
    return as_table(found)


def filled(page: str) -> str:
    """The page with the tables put between their marks."""
    for begin, end, made in ((BEGIN, END, table), (GPU_BEGIN, GPU_END, gpu_table)):
        before, rest = page.split(begin)
        page = f"{before}{begin}\n{made()}\n{end}{rest.split(end)[1]}"
    return page


def write() -> None:
    """Rewrite the tables of the page."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("write", "check"))
    action = parser.parse_args().action
    page = PAGE.read_text(encoding="utf-8")
    if action == "write":
        write()
    elif page != filled(page):
        print("docs/speed.md and benchmarks/results/ disagree: python -m benchmarks.table write")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
