"""Every public function and class of the library is taught in a lesson, or is listed here as plumbing, with why."""

from __future__ import annotations

import ast
import re

from tests.notebooks.plumbing import PLUMBING
from tests.notebooks.test_lessons import LESSONS, ROOT, code_cells, source, text_cells

# viz and widgets are what lessons show with; exercises check answers; the command line only parses.
ROOMS = [path for path in sorted((ROOT / "dfine_lib").rglob("*.py")) if path.name != "__init__.py"]


def public_names() -> dict[str, str]:
    """Function or class, with the file it stands in."""
    names = {}
    for path in ROOMS:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                names[node.name] = path.relative_to(ROOT).as_posix()
    return names


def taught_names() -> set[str]:
    """What the lessons' code uses, and what their text names in code type."""
    names: set[str] = set()
    for lesson in LESSONS:
        for cell in code_cells(lesson):
            for node in ast.walk(ast.parse(source(cell))):
                if isinstance(node, ast.Attribute):
                    names.add(node.attr)
                elif isinstance(node, ast.Name):
                    names.add(node.id)
        for cell in text_cells(lesson):
            for code in re.findall(r"`([^`]+)`", source(cell)):
                names |= set(re.findall(r"\w+", code))
    return names


def test_every_function_of_the_library_is_taught_or_plumbing():
    taught = taught_names()
    missing = [f"{name} ({path})" for name, path in public_names().items() if name not in taught | set(PLUMBING)]
    assert missing == [], "taught in no lesson and not listed in tests/notebooks/plumbing.py"


def test_what_is_listed_as_plumbing_exists_and_is_not_taught():
    there, taught = public_names(), taught_names()
    assert [name for name in PLUMBING if name not in there] == [], "listed, but not in the library any more"
    assert [name for name in PLUMBING if name in taught] == [], "listed, but a lesson teaches it"
    assert all(len(reason) > 10 for reason in PLUMBING.values())
