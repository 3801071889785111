"""`dfine compare`, on the runs that the repository holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from workbook import viz

from dfine_tools import cli
from dfine_tools.runs.compare import read_runs

RESULTS = Path(__file__).parents[3] / "results"
DIGITS, SHAPES = RESULTS / "pico_digits.jsonl", RESULTS / "pico_shapes.jsonl"
LOG = '{"train_loss": 40.5, "test_coco_eval_bbox": [0.31, 0.5, 0.33], "epoch": 0}\n{"train_lo'


@pytest.fixture
def log(tmp_path) -> Path:
    (tmp_path / "log.txt").write_text(LOG)
    return tmp_path / "log.txt"


def test_it_prints_ap_by_epoch_what_differs_and_what_is_not_known(capsys, log):
    assert cli.main(["compare", str(DIGITS), str(SHAPES), str(log)]) == 0
    told = capsys.readouterr().out
    first = next(line for line in told.splitlines() if line.split()[:1] == ["1"]).split()
    assert first == ["1", "0.666", "0.027", "0.310"]
    assert "train.lr" in told.split("What differs")[1] and "train.clip_max_norm" not in told
    assert "passed over 1 line(s)" in told and f"Settings not known: {log.parent.name}" in told


def test_it_draws_into_the_file_that_is_asked_for_and_refuses_another_kind(capsys, tmp_path, log):
    out = tmp_path / "new" / "figure.png"
    assert cli.main(["compare", str(DIGITS), str(log), "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert cli.main(["compare", str(DIGITS), "--out", str(tmp_path / "figure.txt")]) == 2
    assert ".png, .svg, .pdf" in capsys.readouterr().err


def test_what_is_no_run_ends_it_with_one_line_and_code_2(capsys, tmp_path):
    assert cli.main(["compare", str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"dfine compare: {tmp_path}: neither metrics.jsonl nor log.txt is in this folder, so it holds no run."
    ]


def test_the_figure_draws_every_run_and_tells_its_best_ap(log):
    runs = read_runs([DIGITS, SHAPES, log])
    picture = viz.runs_compared(runs)
    curves = [line for line in picture.axes[0].lines if not line.get_label().startswith("_")]
    assert [list(line.get_ydata()) for line in curves] == [list(run.ap.values()) for run in runs]
    assert "pico_digits: best AP 0.845 in epoch 5" in picture.alt_text
    with pytest.raises(ValueError, match="no run"):
        viz.runs_compared([])
