"""Every lesson as it lies in the repository: run, whole, taught in order, answered. (nbval runs them.)"""

from __future__ import annotations

import ast
import importlib.util
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
_spec = importlib.util.spec_from_file_location("lessons", NOTEBOOKS / "lessons.py")
lessons = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(lessons)

LESSONS = lessons.lesson_files()
SOLUTIONS = [lessons.solution_of(lesson) for lesson in LESSONS]
BOTH = [*LESSONS, *SOLUTIONS]
MOST_LINES = 25  # of a code cell, imports and blank lines included
MOST_BYTES = 600_000


def name_of(notebook: Path) -> str:
    return notebook.relative_to(NOTEBOOKS).as_posix()


each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=name_of)
each_solution = pytest.mark.parametrize("solution", SOLUTIONS, ids=name_of)
each_notebook = pytest.mark.parametrize("notebook", BOTH, ids=name_of)


def read(notebook: Path) -> dict:
    assert notebook.exists(), f"{name_of(notebook)} is missing"
    return json.loads(notebook.read_text(encoding="utf-8"))


def code_cells(notebook: Path) -> list[dict]:
    return [cell for cell in read(notebook)["cells"] if cell["cell_type"] == "code"]


def text_cells(notebook: Path) -> list[dict]:
    return [cell for cell in read(notebook)["cells"] if cell["cell_type"] == "markdown"]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def outputs(notebook: Path) -> Iterator[tuple[dict, dict]]:
    for cell in code_cells(notebook):
        for output in cell["outputs"]:
            yield cell, output


def printed(notebook: Path) -> str:
    return "".join("".join(o["text"]) for _, o in outputs(notebook) if o["output_type"] == "stream")


def pictures(notebook: Path) -> list[tuple[dict, str]]:
    """Cell and alternative text of every stored picture."""
    found = [(c, o["data"]) for c, o in outputs(notebook) if "image/png" in o.get("data", {})]
    return [(cell, "".join(data.get("text/plain", ""))) for cell, data in found]


def exercise_numbers(notebook: Path) -> list[str]:
    code = "\n".join(source(cell) for cell in code_cells(notebook))
    return re.findall(r"exercises\.check\(\s*[\"']([\d.]+)[\"']", code)


# ---- the folders -----------------------------------------------------------------------------------------------------


def test_the_lessons_are_those_of_the_plan():
    numbers = [lesson.name[:2] for lesson in LESSONS]
    wanted = "00  01 02 03  10 11 12 13 14 15 16  20 21 22 23  30 31 32  40 41 42  50 51"
    assert " ".join(numbers) == re.sub(" +", " ", wanted)


def test_every_lesson_has_its_solutions_and_no_solution_is_without_a_lesson():
    there = {path.name for path in (NOTEBOOKS / "solutions").glob("*.ipynb")}
    wanted = {lesson.name for lesson in LESSONS}
    assert wanted - there == set(), "lessons without solutions"
    assert there - wanted == set(), "solutions without a lesson"


def test_the_readme_of_the_notebooks_lists_them_as_they_are():
    assert lessons.readme(check=True), "run: python notebooks/lessons.py readme"


# ---- stored runs -----------------------------------------------------------------------------------------------------


@each_notebook
def test_it_is_stored_as_run_from_top_to_bottom(notebook):
    for place, cell in enumerate(code_cells(notebook), start=1):
        assert source(cell).strip(), f"{name_of(notebook)}: cell {cell['id']} is empty"
        assert cell["execution_count"] == place, (
            f"{name_of(notebook)}: cell {cell['id']} is number {place} but its count is {cell['execution_count']}; "
            "run: python notebooks/lessons.py run"
        )
    assert any(outputs(notebook)), f"{name_of(notebook)} is stored without outputs"


@each_notebook
def test_every_cell_that_prints_or_shows_has_its_output(notebook):
    for cell in code_cells(notebook):
        last = ast.parse(source(cell)).body[-1]
        speaks = isinstance(last, ast.Expr) and not isinstance(last.value, ast.Constant)
        prints = re.search(r"^\s*(print|exercises\.check)\(", source(cell), re.MULTILINE)
        # An expression may give None; what prints or comes from viz or widgets always leaves something.
        must = prints or (speaks and re.match(r"(viz|widgets)\.", ast.unparse(last.value)))
        assert cell["outputs"] or not must, f"{name_of(notebook)}: cell {cell['id']} is stored without its output"


@each_notebook
def test_nothing_in_the_outputs_went_wrong_or_belongs_to_one_machine(notebook):
    for cell, output in outputs(notebook):
        where = f"{name_of(notebook)}: cell {cell['id']}"
        assert output["output_type"] != "error", f"{where} is stored with an error"
        assert output.get("name") != "stderr", f"{where} is stored with words on stderr"
        assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {}), f"{where}: a widget's state"
        text = "".join(output.get("text", "")) + "".join(output.get("data", {}).get("text/plain", ""))
        assert not re.search(r"0x[0-9a-f]{6,}|/work/|/home/|/root/|/tmp/", text), f"{where}: {text[:200]}"
    assert "widgets" not in read(notebook)["metadata"], f"{name_of(notebook)} holds widget state"


@each_notebook
def test_it_is_small_enough_for_git(notebook):
    size = notebook.stat().st_size
    assert size < MOST_BYTES, f"{name_of(notebook)}: {size:,} bytes"


@each_notebook
def test_every_picture_has_words(notebook):
    for cell, words in pictures(notebook):
        assert len(words) > 40 and "<Figure" not in words and "object at" not in words, (
            f"{name_of(notebook)}: the picture of cell {cell['id']} has no alternative text: {words!r}"
        )


@each_notebook
def test_its_links_lead_somewhere(notebook):
    for cell in text_cells(notebook):
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", source(cell)):
            if not re.match(r"https?://|mailto:", link):
                assert (notebook.parent / link).exists(), f"{name_of(notebook)}: cell {cell['id']}: {link}"


# ---- the form of a lesson --------------------------------------------------------------------------------------------


@each_lesson
def test_it_says_what_it_asks_and_where_the_library_answers(lesson):
    about = read(lesson)["metadata"].get("lesson", {})
    assert set(about) == {"title", "question", "library", "builds", "minutes"}, name_of(lesson)
    assert about["question"].endswith("?") and (ROOT / about["library"]).is_file(), about
    first = source(text_cells(lesson)[0])
    assert first.startswith(f"# {lesson.name[:2]} {about['title']}\n"), first[:80]
    assert about["question"].rstrip("?").lower()[-25:] in first.lower(), f"{name_of(lesson)}: the question is not asked"
    assert about["library"].removeprefix("dfine_lib/") in first, f"{name_of(lesson)}: the library file is not named"


@each_lesson
def test_it_shows_predicts_checks_asks_and_points_on(lesson):
    cells = read(lesson)["cells"]
    shown = pictures(lesson)
    widgets = [cell for cell, _ in shown if "widget" in tags(cell)]
    assert len(shown) >= 2 or widgets, f"{name_of(lesson)}: two figures, or a figure and a widget, it has {len(shown)}"
    predictions = [cell for cell in cells if "predict" in tags(cell)]
    assert predictions and all("<details>" in source(cell) and "?" in source(cell) for cell in predictions)
    checks = [cell for cell in cells if "check" in tags(cell)]
    assert checks, f"{name_of(lesson)} has no check cell"
    for cell in checks:
        assert "nbval-check-output" in tags(cell), f"{name_of(lesson)}: {cell['id']} is not compared by nbval"
        assert cell["outputs"], f"{name_of(lesson)}: the check cell {cell['id']} prints nothing"
    assert any(re.search(r"\bassert\b|assert_close", source(cell)) for cell in checks), f"{name_of(lesson)}: no assert"
    assert "What to read next" in source(text_cells(lesson)[-1]), f"{name_of(lesson)}: ends without what to read next"


@each_lesson
def test_its_code_cells_are_short_and_draw_nothing_themselves(lesson):
    for cell in code_cells(lesson):
        lines = source(cell).count("\n") + 1
        assert lines <= MOST_LINES, f"{name_of(lesson)}: cell {cell['id']} has {lines} lines"
        draws = re.search(r"^\s*(import|from) (matplotlib|seaborn)|\bplt\.", source(cell), re.MULTILINE)
        assert not draws, f"{name_of(lesson)}: {cell['id']} draws"


def imported(cell: dict) -> set[str]:
    """Names that a cell takes from the library, such as `weighting_function`."""
    nodes = [node for node in ast.walk(ast.parse(source(cell))) if isinstance(node, ast.ImportFrom)]
    return {alias.name for node in nodes if (node.module or "").startswith("dfine_lib") for alias in node.names}


def called_by_module(cell: dict) -> set[str]:
    """Names behind a dot, such as `boxes.box_iou`; figures and sliders may be called as what they show."""
    nodes = [node for node in ast.walk(ast.parse(source(cell))) if isinstance(node, ast.Attribute)]
    return {node.attr for node in nodes if ast.unparse(node.value) not in ("viz", "widgets", "torch", "F")}


@each_lesson
def test_what_it_builds_is_in_its_room(lesson):
    about = read(lesson)["metadata"]["lesson"]
    tree = ast.parse((ROOT / about["library"]).read_text(encoding="utf-8"))
    there = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert set(about["builds"]) <= there, f"{name_of(lesson)}: not in {about['library']}"


@each_lesson
def test_what_it_builds_is_not_taken_from_the_library_before_the_check(lesson):
    builds = set(read(lesson)["metadata"]["lesson"]["builds"])
    for cell in code_cells(lesson):
        if "check" in tags(cell):
            break
        early = builds & (imported(cell) | called_by_module(cell))
        assert not early, f"{name_of(lesson)}: cell {cell['id']} uses the library's {early} before the check cell"


def test_no_lesson_pastes_what_another_one_built():
    seen: dict[str, str] = {}
    for lesson in LESSONS:
        for cell in code_cells(lesson):
            for node in ast.walk(ast.parse(source(cell))):
                if not isinstance(node, ast.FunctionDef | ast.ClassDef) or len(ast.unparse(node).split("\n")) < 4:
                    continue
                body = ast.unparse(ast.Module(node.body, []))
                first = seen.setdefault(body, lesson.name)
                assert first == lesson.name, f"{name_of(lesson)}: {node.name} stands in {first} already"


def test_no_two_lessons_give_the_same_name_to_what_they_build():
    built: dict[str, str] = {}
    for lesson in LESSONS:
        for name in read(lesson)["metadata"]["lesson"]["builds"]:
            first = built.setdefault(name, lesson.name)
            assert first == lesson.name, f"{name} is built in {first} and in {lesson.name}"


# ---- exercises -------------------------------------------------------------------------------------------------------


@each_lesson
def test_its_exercises_are_numbered_have_checkers_and_are_still_to_do(lesson):
    from workbook.exercises import all_checkers

    numbers, number = exercise_numbers(lesson), lesson.name[:2]
    assert len(numbers) >= 2, f"{name_of(lesson)} has fewer than two exercises"
    assert numbers == [f"{number}.{i}" for i in range(1, len(numbers) + 1)], f"{name_of(lesson)}: {numbers}"
    for one in numbers:
        assert one in all_checkers(), f"{name_of(lesson)}: exercise {one} has no checker"
        assert f"{one}: to do\n" in printed(lesson), f"{name_of(lesson)}: exercise {one} is not a stub"
        assert any(re.search(rf"xercise {re.escape(one)}\b", source(c)) for c in text_cells(lesson)), (
            f"{name_of(lesson)}: exercise {one} has no text"
        )


@each_solution
def test_its_answers_are_correct_and_compared_on_every_run(solution):
    lesson = LESSONS[SOLUTIONS.index(solution)]
    assert exercise_numbers(solution) == exercise_numbers(lesson), f"{name_of(solution)}: other exercises"
    for cell in code_cells(solution):
        for number in re.findall(r"exercises\.check\(\s*[\"']([\d.]+)", source(cell)):
            text = "".join("".join(o.get("text", "")) for o in cell["outputs"])
            assert f"{number}: correct\n" in text, f"{name_of(solution)}: {number}: {text}"
            assert "nbval-check-output" in tags(cell), f"{name_of(solution)}: {cell['id']} is not compared by nbval"


def test_every_checker_belongs_to_an_exercise():
    from workbook.exercises import all_checkers

    asked = set(itertools.chain.from_iterable(map(exercise_numbers, LESSONS)))
    assert set(all_checkers()) - asked == set()


@each_lesson
def test_it_links_the_glossary(lesson):
    assert "docs/glossary.md)" in "".join(source(cell) for cell in text_cells(lesson))
