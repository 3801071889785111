"""Fill the README's results table from the files of this folder, each the `metrics.json` of one run.

    python results/table.py            rewrite the table
    python results/table.py --check    exit 1 where README and files disagree

To add a result: copy the run's `metrics.json` here under a name of its own and call this. Numbers are never typed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- results: made by results/table.py -->", "<!-- end of results -->"
HEAD = (
    "| run | AP (best epoch, averaged weights) | AP50 / AP75 | last epoch: averaged / raw "
    "| steps | trained on | minutes | commit |\n"
    "|---|---|---|---|---|---|---|---|"
)


def table() -> str:
    """The markdown table of all result files, by name, with each run's command below."""
    rows, commands = [HEAD], []
    for file in sorted(HERE.glob("*.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        saved = result.get("saved_weights") or result["last"]["ema"]
        last = result["last"]
        rows.append(
            f"| [{file.stem}](results/{file.name}) | **{result['ap']:.3f}** "
            f"| {saved['ap50']:.3f} / {saved['ap75']:.3f} "
            f"| {last['ema']['ap']:.3f} / {last['raw']['ap']:.3f} | {result['steps']} "
            f"| {result['device']}, {result['machine']['processor']}, {result['threads']} thread(s) "
            f"| {result['seconds'] / 60:.0f} | `{(result['commit'] or 'unknown')[:7]}` |"
        )
        commands.append(f"- {file.stem}, seed {result['seed']}: `{result['command']}`")
    return "\n".join([*rows, "", *commands]) if commands else "No run has been recorded yet."


def filled(readme: str) -> str:
    """The README with the table put between its two marks."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    readme = README.read_text(encoding="utf-8")
    if parser.parse_args().check:
        same = readme == filled(readme)
        print("README and results agree" if same else "README and results disagree: run python results/table.py")
        return 0 if same else 1
    README.write_text(filled(readme), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
