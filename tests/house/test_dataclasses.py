"""What holds for every dataclass of the project."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ARRAYS = {"Tensor", "ndarray"}


def dataclasses_of_the_project() -> list[tuple[str, str, str, set[str]]]:
    """Of each its name, where it stands, its decorator, and the names in the types of the fields that `==` looks at."""
    found = []
    for path in (*ROOT.glob("dfine_lib/**/*.py"), *ROOT.glob("data_tools/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            decorators = [ast.unparse(one) for one in getattr(node, "decorator_list", [])]
            decorator = next((one for one in decorators if one.startswith("dataclass")), None)
            if decorator:
                compared = [
                    one
                    for one in node.body
                    if isinstance(one, ast.AnnAssign) and "compare=False" not in ast.unparse(one)
                ]
                types = [ast.unparse(one.annotation) for one in compared]
                names = set(re.findall(r"\w+", " ".join(types)))
                found.append((node.name, f"{path.relative_to(ROOT)}: {node.name}", decorator, names))
    return found


def test_dataclasses_that_hold_arrays_are_compared_by_identity():
    """The `==` that a dataclass makes compares fields, and the truth of a tensor or array of several numbers raises."""
    classes, holding = dataclasses_of_the_project(), set(ARRAYS)
    while more := {name for name, _, _, names in classes if names & holding} - holding:
        holding |= more
    assert {"CocoIndex", "Batch", "DFINEOutput"} <= holding
    lacking = [place for name, place, decorator, _ in classes if name in holding and "eq=False" not in decorator]
    assert lacking == [], "write eq=False: @dataclass(frozen=True, eq=False)"
