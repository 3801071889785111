"""What the README and the guides promise: they are short, and what they name is there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dfine_lib.recipes import RECIPES
from dfine_tools import cli

ROOT = Path(__file__).parents[2]


def rows(page: Path) -> list[list[str]]:
    """The cells of every table of a page, heads included."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) <= 90


def test_the_table_of_speed_is_that_of_the_recorded_files():
    done = subprocess.run([sys.executable, "-m", "benchmarks.table", "check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_the_glossary_names_stands_in_the_file_that_it_names():
    found = [
        re.match(r"`(\w+)` in \[`([\w./]+)`\]", row[3]) for row in rows(ROOT / "docs/glossary.md") if row[0] != "term"
    ]
    assert len(found) >= 60 and all(found)
    missing = [
        f"{one[1]} in {one[2]}"
        for one in found
        if not (ROOT / one[2]).is_file() or not re.search(rf"\b{one[1]}\b", (ROOT / one[2]).read_text(encoding="utf-8"))
    ]
    assert missing == []


def test_the_glossary_has_what_people_search_for():
    text = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
    wanted = "LQE, target gating, union set, GO-LSD, EMA warm-up, denoising mask, FDR, FGL, DDF, W(n), num_boxes"
    assert [word for word in wanted.split(", ") if word not in text] == []


def test_links_between_the_guides_lead_somewhere():
    pages = [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *(ROOT / name / "README.md" for name in ("notebooks", "benchmarks", "examples")),
    ]
    for page in pages:
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert re.match(r"https?://", link) or (page.parent / link).exists(), f"{page.relative_to(ROOT)}: {link}"


def test_every_module_that_a_command_of_the_guides_starts_exists():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]:
        for module in re.findall(
            r"-m ((?:dfine_tools|dfine_lib|data_tools|benchmarks)[\w.]*)", page.read_text(encoding="utf-8")
        ):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), f"{page.name}: {module}"


def commands_of_the_guides() -> list[str]:
    """Every `dfine …` of the code blocks of README and guides, without comments and what stands before or behind."""
    found = []
    for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                starts = [place for place, word in enumerate(words) if word in ("dfine", "dfine_tools.cli")]
                ends = [place for place, word in enumerate(words) if word == "&&"] + [len(words)]
                pieces = [words[start + 1 : min(end for end in ends if end > start)] for start in starts]
                found += [shlex.join(piece) for piece in pieces if "…" not in piece]
    return sorted(set(found))


@pytest.mark.parametrize("command", commands_of_the_guides())
def test_a_command_of_the_guides_is_understood(command):
    arguments = cli._parser().parse_args(shlex.split(command))
    recipe = getattr(arguments, "recipe", None)
    assert recipe is None or recipe in RECIPES


def test_every_module_that_the_guides_name_by_its_path_exists():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), ROOT / "benchmarks/README.md"]:
        for path in re.findall(
            r"(?<![\w/])(?:dfine_lib|dfine_tools|data_tools|notebooks)/[\w/]+\.py\b", page.read_text("utf-8")
        ):
            assert (ROOT / path).is_file(), f"{page.name}: {path}"
