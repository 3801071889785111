"""Record finished runs and fill the README's results table from what is recorded. Numbers are never typed.

python results/table.py add runs/my_run    copy the run's metrics here, draw its curves, rewrite the table
python results/table.py write              rewrite the table
python results/table.py check              exit 1 where README and files disagree
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- results: made by results/table.py -->", "<!-- end of results -->"
HEAD = (
    "| run | AP (best epoch, EMA weights) | AP50 / AP75 | last epoch: EMA / non-EMA "
    "| steps | trained on | minutes | commit |\n"
    "|---|---|---|---|---|---|---|---|"
)


def table() -> str:
    """The markdown table of all result files, by name, with each run's command below."""
    rows, commands = [HEAD], []
    for file in sorted(HERE.glob("*.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        saved = best_evaluation(file.with_suffix(".jsonl"), result["best_epoch"])
        last = result["last"]
        rows.append(
            f"| {file.stem}: [numbers](results/{file.name}), [curves](results/{file.stem}.png) "
            f"| **{result['ap']:.3f}** | {saved['ap50']:.3f} / {saved['ap75']:.3f} "
            f"| {last['ema']['ap']:.3f} / {last['raw']['ap']:.3f} | {result['steps']} "
            f"| {result['device']}, {result['machine']['processor']}, {result['threads']} thread(s) "
            f"| {result['seconds'] / 60:.0f} | `{(result['commit'] or 'unknown')[:7]}` |"
        )
        commands.append(f"- {file.stem}, seed {result['seed']}: `{portable(result['command'])}`")
    return "\n".join([*rows, "", *commands]) if commands else "No run has been recorded yet."


def portable(command: str) -> str:
    """The command with the first folders left off paths of the machine it ran on: `--out …/runs/mine`."""
    return re.sub(r"(?<=\s)(?:\.\.)?/(?:[^/\s]+/)*([^/\s]+/[^/\s]+)", r"…/\1", command)


def best_evaluation(rows: Path, epoch: int) -> dict:
    """The metrics of the EMA weights after that epoch."""
    content = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    return next(row["ema"] for row in content if row["kind"] == "eval" and row["epoch"] == epoch)


def filled(readme: str) -> str:
    """The README with the table put between its two marks."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


def add(run: Path) -> None:
    """Copy the metrics of a finished run under the run's name, and draw its curves."""
    from dfine_lib.train.run_folder import read_rows
    from dfine_tools.figures import compare as viz

    if not (run / "metrics.json").exists():
        raise SystemExit(f"{run}: no metrics.json, so no finished run")
    rows = read_rows(run / "metrics.jsonl")
    shutil.copy(run / "metrics.json", HERE / f"{run.resolve().name}.json")
    small = ({key: value for key, value in row.items() if key != "losses"} for row in rows)  # terms: run folder only
    lines = "".join(json.dumps(row) + "\n" for row in small)
    (HERE / f"{run.resolve().name}.jsonl").write_text(lines, encoding="utf-8")
    viz.training_curves(rows).savefig(HERE / f"{run.resolve().name}.png", dpi=90)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("add", "write", "check"))
    parser.add_argument("run", nargs="?", type=Path)
    arguments = parser.parse_args()
    if arguments.action == "add":
        if arguments.run is None:
            parser.error("add wants the run's folder")
        add(arguments.run)
    readme = README.read_text(encoding="utf-8")
    if arguments.action == "check":
        same = readme == filled(readme)
        print("README and results agree" if same else "README and results disagree: run python results/table.py write")
        return 0 if same else 1
    README.write_text(filled(readme), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
