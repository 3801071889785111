"""Keep the lessons in order: run them and store their outputs, list them. (`make site` builds them into web pages.)

python notebooks/lessons.py run 14 15          # execute lessons and their solutions in place, outputs cleaned
python notebooks/lessons.py readme [--check]   # the table in notebooks/README.md, from the lessons' own metadata
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
START, END = "<!-- lessons: made by notebooks/lessons.py -->", "<!-- end of lessons -->"
PARTS = {
    "00": "The first look",
    "0x": "Data",
    "1x": "The model",
    "2x": "The criterion",
    "3x": "Training",
    "4x": "Evaluation",
    "5x": "Deployment",
}


def lesson_files() -> list[Path]:
    """Every lesson in order, `00_start_here` first."""
    return [HERE / "00_start_here.ipynb", *sorted((HERE / "lessons").glob("[0-9][0-9]_*.ipynb"))]


def solution_of(lesson: Path) -> Path:
    """Where the answers to a lesson's exercises stand."""
    return HERE / "solutions" / lesson.name


# ---- run -------------------------------------------------------------------------------------------------------------


def run(notebook: Path) -> tuple[float, float]:
    """Execute a notebook in place, as a reader would, and store its outputs.

    Returns:
        Seconds, and the highest memory of its processes in GiB (the highest so far of this process's children).

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised; the file stays as it was.
    """
    import resource

    import nbformat
    from nbclient import NotebookClient

    content = nbformat.read(notebook, as_version=4)
    start = time.perf_counter()
    NotebookClient(
        content, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(notebook.parent)}}
    ).execute()
    seconds = time.perf_counter() - start
    clean(content)
    nbformat.write(content, notebook)
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20


def clean(content: dict) -> None:
    """Drop what differs from run to run or needs a kernel: times, widget state, progress bars."""
    content["metadata"].pop("widgets", None)
    content["metadata"]["language_info"] = {"name": "python"}
    for cell in content["cells"]:
        cell["metadata"].pop("execution", None)
        if cell["cell_type"] != "code":
            continue
        cell["outputs"] = [output for output in cell["outputs"] if not _passes(output)]
        for output in cell["outputs"]:
            output.pop("metadata", None) if output["output_type"] == "stream" else output.update(metadata={})
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)


def _passes(output: dict) -> bool:
    """Whether an output is for watching only: progress on stderr, or a bar that is a widget without a figure."""
    data = output.get("data", {})
    return output.get("name") == "stderr" or ("application/vnd.jupyter.widget-view+json" in data and len(data) == 2)


# ---- readme ----------------------------------------------------------------------------------------------------------


def table() -> str:
    """The lessons, a table for each part, from the metadata `lesson` of each notebook."""
    lines, part = [], ""
    for lesson in lesson_files():
        about = json.loads(lesson.read_text(encoding="utf-8"))["metadata"]["lesson"]
        number = lesson.name[:2]
        key = number if number in PARTS else f"{number[0]}x"
        if key != part:
            part = key
            lines += ["", f"**{key} {PARTS[key]}**", "", "| lesson | minutes | what it answers | module |"]
            lines += ["|---|---|---|---|"]
        path, solution = lesson.relative_to(HERE).as_posix(), solution_of(lesson).relative_to(HERE).as_posix()
        module = f"[`{about['library']}`](../{about['library']})" if about.get("library") else ""
        lines += [
            f"| [{number} {about['title']}]({path}) ([solutions]({solution})) | {about['minutes']} | "
            f"{about['question']} | {module} |"
        ]
    return "\n".join([START, *lines, "", END])


def readme(check: bool = False) -> bool:
    """Write the table into notebooks/README.md; with `check` only say whether it is there already."""
    file = HERE / "README.md"
    old = file.read_text(encoding="utf-8")
    before, rest = old.split(START)
    new = before + table() + rest.split(END)[1]
    if not check:
        file.write_text(new, encoding="utf-8")
    return new == old


# ---- the command -----------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="execute lessons and their solutions in place")
    running.add_argument("numbers", nargs="*", help="such as 14; none: all")
    running.add_argument("--only", choices=("lessons", "solutions"), help="leave the other alone")
    listing = commands.add_parser("readme", help="write the table of notebooks/README.md")
    listing.add_argument("--check", action="store_true", help="write nothing; exit 1 where it is out of date")
    chosen = parser.parse_args(arguments)
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")

    if chosen.command == "readme":
        same = readme(chosen.check)
        return 1 if chosen.check and not same else 0
    wanted = [one for one in lesson_files() if not chosen.numbers or one.name[:2] in chosen.numbers]
    for lesson in wanted:
        for notebook in (lesson, solution_of(lesson)):
            if chosen.only and (chosen.only == "lessons") != (notebook == lesson):
                continue
            seconds, memory = run(notebook)
            print(f"{notebook.relative_to(HERE)}: {seconds:.0f} s, at most {memory:.1f} GiB so far", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
