"""notebooks/experiments/report.ipynb on the runs that the repository has recorded."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "experiments" / "report.ipynb"


def test_recorded_runs_become_a_page_and_a_markdown_file_with_their_numbers(tmp_path, monkeypatch):
    papermill = pytest.importorskip("papermill")
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    names = ("pico_digits", "n_custom_bccd")
    for name in names:
        (tmp_path / "runs" / name).mkdir(parents=True)
        shutil.copy(ROOT / "results" / f"{name}.json", tmp_path / "runs" / name / "metrics.json")
        shutil.copy(ROOT / "results" / f"{name}.jsonl", tmp_path / "runs" / name / "metrics.jsonl")
    papermill.execute_notebook(
        NOTEBOOK,
        tmp_path / "report.ipynb",
        {"runs": str(tmp_path / "runs"), "out": str(tmp_path / "out")},
        cwd=ROOT,
        kernel_name="python3",
        progress_bar=False,
    )
    text = re.sub(" +", " ", (tmp_path / "out" / "report.md").read_text(encoding="utf-8"))  # columns are aligned
    for name in names:
        recorded = json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))
        assert f"| {name} | {recorded['recipe']['name']} | {recorded['ap']:.3f} |" in text
    assert "| x_coco | 55.8 | – | – | – |" in text and "![AP and training loss of 2 runs" in text
    assert all((tmp_path / "out" / name).stat().st_size > 5000 for name in ("curves.png", "published.png"))
    assert (tmp_path / "out" / "report.html").read_text(encoding="utf-8").count("data:image/png;base64,") == 2
