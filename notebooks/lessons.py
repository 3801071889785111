"""Keep the lessons in order: run them and store their outputs, list them, build them into web pages.

python notebooks/lessons.py run 14 15          # execute lessons and their solutions in place, outputs cleaned
python notebooks/lessons.py readme [--check]   # the table in notebooks/README.md, from the lessons' own metadata
python notebooks/lessons.py site OUT           # static pages, every link between them checked
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

HERE = Path(__file__).resolve().parent
START, END = "<!-- lessons: made by notebooks/lessons.py -->", "<!-- end of lessons -->"
DECADES = {
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
    """Whether an output is for watching only: progress on stderr, or a bar that is a widget without a picture."""
    data = output.get("data", {})
    return output.get("name") == "stderr" or ("application/vnd.jupyter.widget-view+json" in data and len(data) == 2)


# ---- readme ----------------------------------------------------------------------------------------------------------


def table() -> str:
    """The lessons as a table a decade, from the metadata `lesson` of each notebook."""
    parts, decade = [], ""
    for lesson in lesson_files():
        about = json.loads(lesson.read_text(encoding="utf-8"))["metadata"]["lesson"]
        number = lesson.name[:2]
        key = number if number in DECADES else f"{number[0]}x"
        if key != decade:
            decade = key
            parts += ["", f"**{key} {DECADES[key]}**", "", "| lesson | minutes | what it answers | room |"]
            parts += ["|---|---|---|---|"]
        path, answers = lesson.relative_to(HERE).as_posix(), solution_of(lesson).relative_to(HERE).as_posix()
        room = f"`{about['library']}`" if about.get("library") else ""
        parts += [
            f"| [{number} {about['title']}]({path}) ([solutions]({answers})) | {about['minutes']} | "
            f"{about['question']} | {room} |"
        ]
    return "\n".join([START, *parts, "", END])


def readme(check: bool = False) -> bool:
    """Write the table into notebooks/README.md; with `check` only say whether it is there already."""
    file = HERE / "README.md"
    old = file.read_text(encoding="utf-8")
    before, rest = old.split(START)
    new = before + table() + rest.split(END)[1]
    if not check:
        file.write_text(new, encoding="utf-8")
    return new == old


# ---- site ------------------------------------------------------------------------------------------------------------


def site(out: Path) -> list[str]:
    """Build README, lessons and solutions into pages that need no kernel, with the source files that they link to.

    Returns:
        Broken links, as `page: link`; external addresses are not visited.
    """
    import nbformat
    from nbconvert import HTMLExporter
    from nbconvert.filters.markdown_mistune import markdown2html_mistune

    exporter = HTMLExporter(template_name="lab", embed_images=True)
    linked: set[Path] = set()
    for page in [*lesson_files(), *sorted(HERE.glob("solutions/*.ipynb")), *sorted(HERE.glob("experiments/*.ipynb"))]:
        content = nbformat.read(page, as_version=4)
        html, _ = exporter.from_notebook_node(content, {"metadata": {"name": page.stem.replace("_", " ")}})
        _write(out, page, _with_words(html, content), linked)
    body = markdown2html_mistune((HERE / "README.md").read_text(encoding="utf-8"))
    _write(out, HERE / "README.md", _PAGE.format(title="A D-FINE workbook", body=body), linked)
    for file in sorted(linked):
        _write_source(out, file)
    return broken_links(out)


def _with_words(html: str, content: dict) -> str:
    """A page whose pictures have the words that the notebook keeps with them; the exporter leaves them out."""
    outputs = [output for cell in content["cells"] for output in cell.get("outputs", [])]
    words = iter([o["data"].get("text/plain", "") for o in outputs if "image/png" in o.get("data", {})])
    return re.sub(
        'alt="No description has been provided for this image"', lambda _: f'alt="{escape(next(words, ""))}"', html
    )


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; }} pre {{ line-height: 1.35; }}
td, th {{ border-bottom: 1px solid #ddd; padding: .3rem .6rem; text-align: left; }}
</style></head><body>{body}</body></html>
"""


def _page_of(file: Path) -> Path:
    """The page, relative to the site, that a file of the repository becomes."""
    if file.is_relative_to(HERE) and file.suffix == ".ipynb":
        return file.relative_to(HERE).with_suffix(".html")
    if file == HERE / "README.md":
        return Path("index.html")
    return Path("source") / f"{file.relative_to(HERE.parent)}.html"


def _write(out: Path, source: Path, html: str, linked: set[Path]) -> None:
    """A page whose links to files of the repository lead to their pages; those not built yet are added to `linked`."""
    page = out / _page_of(source)

    def target(match: re.Match) -> str:
        path, _, place = match.group(1).partition("#")
        file = (source.parent / unquote(path)).resolve()
        if re.match(r"[a-z]+:", path) or not path or not file.is_file() or not file.is_relative_to(HERE.parent):
            return match.group(0)
        if file.suffix != ".ipynb" and file != HERE / "README.md":
            linked.add(file)
        link = os.path.relpath(out / _page_of(file), page.parent)
        return f'href="{link}{"#" + place if place else ""}"'

    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(re.sub(r'href="([^"]+)"', target, html), encoding="utf-8")


def _write_source(out: Path, file: Path) -> None:
    """A text file of the repository as a page with coloured code."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_for_filename

    name = file.relative_to(HERE.parent).as_posix()
    code = highlight(
        file.read_text(encoding="utf-8"), get_lexer_for_filename(name), HtmlFormatter(noclasses=True, lineanchors="L")
    )
    page = out / _page_of(file)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(_PAGE.format(title=name, body=f"<h1>{name}</h1>{code}"), encoding="utf-8")


class _Links(HTMLParser):
    """Every href and src of a page, and every id that a link may lead to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.append(value)
            if name in ("id", "name") and value:
                self.places.add(value)


def links_of(html: str) -> list[str]:
    """Where a page leads and what it loads."""
    return _Links(html).links


def broken_links(folder: Path) -> list[str]:
    """Links within a folder of pages that lead nowhere."""
    pages = {page: _Links(page.read_text(encoding="utf-8")) for page in sorted(folder.rglob("*.html"))}
    broken = []
    for page, found in pages.items():
        for link in found.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            goal = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            exists = goal in pages or goal.is_file()
            if not exists or (parts.fragment and goal in pages and unquote(parts.fragment) not in pages[goal].places):
                broken.append(f"{page.relative_to(folder)}: {link}")
    return broken


# ---- the command -----------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="execute lessons and their solutions in place")
    running.add_argument("numbers", nargs="*", help="such as 14; none: all")
    running.add_argument("--only", choices=("lessons", "solutions"), help="leave the other alone")
    listing = commands.add_parser("readme", help="write the table of notebooks/README.md")
    listing.add_argument("--check", action="store_true", help="write nothing; exit 1 where it is out of date")
    building = commands.add_parser("site", help="build static pages")
    building.add_argument("out", type=Path)
    chosen = parser.parse_args(arguments)
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")

    if chosen.command == "readme":
        same = readme(chosen.check)
        return 1 if chosen.check and not same else 0
    if chosen.command == "site":
        broken = site(chosen.out.resolve())
        print("\n".join(f"broken link: {one}" for one in broken) or f"{chosen.out}/index.html, all links hold")
        return 1 if broken else 0
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
