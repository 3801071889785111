"""notebooks/experiments/train.ipynb, run as `make run` does: by papermill, in a kernel of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "experiments" / "train.ipynb"


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """A data folder that is learnt nothing from, but quickly."""
    from data_tools import digits

    folder = tmp_path_factory.mktemp("data") / "digits"
    assert digits.main([str(folder), "--train", "16", "--val", "4", "--size", "64", "--quiet"]) in (None, 0)
    return folder


def run(out: Path, **parameters) -> dict:
    """Execute the notebook; its contents afterwards."""
    papermill = pytest.importorskip("papermill")
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    out.mkdir(parents=True, exist_ok=True)
    papermill.execute_notebook(
        NOTEBOOK,
        out / "train.ipynb",
        {"weights": ""} | parameters | {"out": str(out)},
        cwd=ROOT,
        kernel_name="python3",
        progress_bar=False,
    )
    return json.loads((out / "train.ipynb").read_text(encoding="utf-8"))


def images(notebook: dict) -> list[str]:
    """Plain texts (the alternative texts) of all pictures in the outputs."""
    return [
        "".join(output["data"]["text/plain"])
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]


def test_a_run_trains_scores_draws_and_reports_and_a_second_only_draws(digits, tmp_path):
    out = tmp_path / "run"
    settings = dict(recipe="pico", data=str(digits), epochs=2, image_size=64, batch_size=8)
    pictures = images(run(out, **settings))
    assert [text.split()[0] for text in pictures] == ["Training", "AP", "Images", "Edge", "Edge", "Edge"]
    result = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert result["saved_weights"]["ap"] == pytest.approx(max(result["ap"], 0), abs=1e-9)
    assert len(result["saved_weights"]["per_class"]) == 10
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 6
    assert (out / "model.safetensors").stat().st_size > 1e6

    before = {name: (out / name).stat().st_mtime_ns for name in ("last.pt", "metrics.jsonl", "metrics.json")}
    (out / "report.html").unlink()
    assert images(run(out, **settings)) == pictures
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert (out / "report.html").exists()


def test_a_fault_in_the_data_ends_it_before_training_with_the_way_out(digits, tmp_path):
    pytest.importorskip("papermill")
    with pytest.raises(Exception, match=r"no train split; expected annotations/instances_train\.json") as error:
        run(tmp_path / "run", recipe="pico", data=str(digits / "images"))
    assert "DataError" in str(error.value)
    assert not (tmp_path / "run" / "last.pt").exists()


def test_a_cell_that_fails_is_told_in_its_own_words_and_its_traceback_is_in_the_copy(tmp_path):
    pytest.importorskip("papermill")
    cell = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": [],
            "source": "raise ValueError('no train split; do this')"}  # fmt: skip
    notebook = {"cells": [cell], "nbformat": 4, "nbformat_minor": 4, "metadata": {"kernelspec": {
        "name": "python3", "display_name": "Python 3", "language": "python"}}}  # fmt: skip
    (tmp_path / "in.ipynb").write_text(json.dumps(notebook))
    words = [str(ROOT / "notebooks/execute.py"), tmp_path / "in.ipynb", tmp_path / "out.ipynb", "--no-progress-bar"]
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.endswith("\nValueError: no train split; do this\n")
    assert "Traceback" not in done.stderr and "papermill" not in done.stderr
    assert "Traceback" in (tmp_path / "out.ipynb").read_text()
