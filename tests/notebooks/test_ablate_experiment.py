"""notebooks/experiments/ablate.ipynb: finished runs are not run again, and their means are those of their files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dfine_tools.runs.sweep import read_sweep

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "experiments" / "ablate.ipynb"
SWEEP = "- {name: full}\n- {name: no_fgl, set: {loss.fgl: 0}}\n"


def test_means_and_differences_of_finished_runs_are_drawn_and_a_failure_is_told(tmp_path, monkeypatch):
    papermill = pytest.importorskip("papermill")
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    out, data = tmp_path / "out", str(tmp_path / "no_data")
    trials = read_sweep(tmp_path / "sweep.yaml", out, recipe="pico", data=data, device="cpu", seeds=[0, 1])
    aps = {("full", 0): 0.5, ("full", 1): 0.7, ("no_fgl", 0): 0.4}  # the fourth is run, and fails: there is no data
    for trial in trials:
        if ap := aps.get((trial.condition, trial.seed)):
            trial.out.mkdir(parents=True)
            row = {"kind": "eval", "step": 1, "epoch": 0, "ema": {"ap": ap}}
            (trial.out / "metrics.jsonl").write_text(json.dumps(row) + "\n")
            (trial.out / "metrics.json").write_text(json.dumps({"ap": ap, "last": {"ema": {"ap": ap}}}))
    papermill.execute_notebook(
        NOTEBOOK,
        tmp_path / "ablate.ipynb",
        {
            "sweep": str(tmp_path / "sweep.yaml"),
            "data": data,
            "epochs": None,
            "seeds": "0 1",
            "device": "cpu",
            "out": str(out),
        },
        cwd=ROOT,
        kernel_name="python3",
        progress_bar=False,
    )
    written = json.loads((out / "ablation.json").read_text())
    full, no_fgl = written["conditions"]
    assert full["AP"] == pytest.approx(0.6) and full["seeds"] == 2
    assert no_fgl["difference"] == pytest.approx(-0.1) and (no_fgl["seeds"], no_fgl["failed"]) == (1, 1)
    (failure,) = written["failures"]
    assert (failure["condition"], failure["seed"]) == ("no_fgl", 1) and "no_data" in failure["ended with"]
    assert (out / "ablation.html").read_text().count("data:image/png;base64,") == 2
