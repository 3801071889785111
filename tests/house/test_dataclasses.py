"""What holds for every dataclass of the project."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def dataclasses_of_the_project() -> dict[str, tuple[str, set[str]]]:
    """Each by its full name: its decorator, and the full names in the types of the fields that `==` looks at."""
    found = {}
    for path in (path for name in ("dfine_lib", "data_tools", "dfine_tools") for path in ROOT.glob(f"{name}/**/*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {
            alias.name: f"{node.module}.{alias.name}"
            for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
        }  # fmt: skip
        for node in ast.walk(tree):
            decorators = [ast.unparse(one) for one in getattr(node, "decorator_list", [])]
            decorator = next((one for one in decorators if one.startswith("dataclass")), None)
            if decorator:
                fields = [one for one in node.body if isinstance(one, ast.AnnAssign)]
                types = [ast.unparse(one.annotation) for one in fields if "compare=False" not in ast.unparse(one)]
                names = re.findall(r"[\w.]+", " ".join(types))
                found[f"{module}.{node.name}"] = (decorator, {imported.get(n, f"{module}.{n}") for n in names})
    return found


def test_dataclasses_that_hold_arrays_are_compared_by_identity():
    """The `==` that a dataclass makes compares fields, and the truth of a tensor or array of several numbers raises."""
    classes = dataclasses_of_the_project()
    holding = {name for _, names in classes.values() for name in names if name.endswith((".Tensor", ".ndarray"))}
    while more := {name for name, (_, names) in classes.items() if names & holding} - holding:
        holding |= more
    known = {"lib.data.coco.CocoIndex", "lib.data.samples.Batch", "lib.model.outputs.DFINEOutput"}
    known.add("tools.deploy.results.Prediction")
    assert {f"dfine_{name}" for name in known} <= holding
    lacking = [name for name, (decorator, _) in classes.items() if name in holding and "eq=False" not in decorator]
    assert lacking == [], "write eq=False: @dataclass(frozen=True, eq=False)"
