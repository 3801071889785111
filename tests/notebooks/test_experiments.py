"""Every experiment as it lies in the repository: not run, one cell of parameters, all of them flat literals."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parents[2] / "notebooks" / "experiments"
PARAMETERS = {  # names, and what their values may be
    "train": (
        "recipe data epochs image_size batch_size seed device nproc max_restarts out resume weights rows settings",
        bool | int | str | None,
    ),
    "evaluate": ("weights data recipe out score device", float | str),
    "report": ("runs out", str),
    "deploy": (
        "weights data out formats precisions image_size batches seconds device",
        int | float | str | None,
    ),
    "ablate": (
        "sweep recipe data epochs image_size batch_size seeds weights settings processes device out",
        int | str | None,
    ),
}


def test_every_experiment_is_listed_here():
    assert {path.stem for path in EXPERIMENTS.glob("*.ipynb")} == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_it_is_stored_without_outputs_and_its_parameters_are_flat_literals(name):
    cells = json.loads((EXPERIMENTS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    (parameters,) = [cell for cell in code if "parameters" in cell["metadata"].get("tags", [])]
    body = ast.parse("".join(parameters["source"])).body
    values = {statement.targets[0].id: ast.literal_eval(statement.value) for statement in body}
    names, kinds = PARAMETERS[name]
    assert set(values) == set(names.split())
    assert all(isinstance(value, kinds) for value in values.values())
    assert (EXPERIMENTS.parents[1] / values.get("sweep", "")).exists()  # the list that ablate reads
