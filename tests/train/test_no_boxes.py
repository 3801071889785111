"""A val split without boxes: there is no AP, wherever a run is shown, and the latest weights are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from small_runs import SMALL, write_folder
from workbook import viz

from dfine_lib.recipes import changed, get_recipe
from dfine_lib.train import trainer
from dfine_lib.train.checkpoint import load_state
from dfine_lib.train.run_folder import read_rows
from dfine_tools import cli
from dfine_tools.deploy.bench import known_ap
from dfine_tools.runs.compare import comparison, read_runs, summaries
from dfine_tools.runs.launch import _NewRows
from dfine_tools.runs.results import finished_runs, result_rows
from dfine_tools.runs.sweep import Outcome, Trial, condition_rows
from dfine_tools.tables import as_markdown

STAGES = {
    "train.epochs": 3, "train.stop_epoch": 2, "train.adapt_to_length": False, "train.ema_restart_decay": 0.99,
}  # fmt: skip


def without_boxes(folder: Path) -> Path:
    file = write_folder(folder, images=4) / "annotations" / "instances_val.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"annotations": []}))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of two stages; the second begins from the best of the first, where there is one."""
    data, out = without_boxes(tmp_path_factory.mktemp("set")), tmp_path_factory.mktemp("runs") / "empty"
    recipe = changed(get_recipe("pico"), SMALL | STAGES)
    trainer.train(recipe, data, out, device="cpu")
    return out


def test_the_result_has_no_ap_and_the_weights_of_the_last_epoch(run):
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    for line in (run / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    result = json.loads((run / "metrics.json").read_text(), parse_constant=refuse)
    assert result["ap"] is None and result["best_epoch"] == 2
    assert result["last"]["ema"]["ap"] is None and set(result["last"]["ema"]["per_class"].values()) == {None}
    assert not (run / "best_stage1.pt").exists()  # nothing says which epoch was best, so nothing is gone back to
    kept, last = load_file(run / "model.safetensors"), load_state(run / "last.pt")["ema"]
    key = "decoder.enc_score_head.weight"
    assert (kept[key] == last.get("module", last)[key]).all()


def test_every_table_and_printout_shows_a_dash_and_no_zero(run, capsys):
    assert cli.main(["result", str(run)]) == 0
    said = capsys.readouterr().out
    assert "AP - (the val split has no boxes to measure it on; kept are the latest, epoch 3 of 3)" in said
    assert "last epoch: - EMA weights, - non-EMA weights" in said
    (row,) = result_rows(finished_runs(run.parent))
    assert (row["AP"], row["last, EMA"], row["last, non-EMA"]) == (None, None, None)
    assert "0.000" not in as_markdown([row]) and "nan" not in as_markdown([row]).lower()
    runs = read_runs([run])
    assert runs[0].best is None and comparison(runs) == [] and summaries(runs)[0]["best AP"] is None
    assert cli.main(["compare", str(run)]) == 0
    assert "0.000" not in capsys.readouterr().out
    (condition,) = condition_rows([Outcome(Trial("plain", 0, run, ()), "finished")])
    assert condition["AP"] is None and condition["seeds"] == 0
    assert known_ap(run / "model.safetensors", "torch") is None


def test_the_pictures_of_the_run_and_the_bar_of_its_process_say_that_there_is_no_ap(run):
    rows = read_rows(run / "metrics.jsonl")
    for picture in (viz.live_run(run), viz.training_curves(rows)):
        assert "no boxes to measure AP on" in picture.alt_text and "AP 0" not in picture.alt_text
    assert "no AP" in viz.runs_compared(read_runs([run])).alt_text
    assert "AP" in viz.per_class_ap(rows[-1].get("ema", {}).get("per_class", {"dot": None})).alt_text
    followed = _NewRows(run / "metrics.jsonl")
    followed.read()
    assert followed.best_ap is None


def test_the_command_says_so_when_it_trains_and_when_it_evaluates(tmp_path, run, capsys, caplog):
    data = without_boxes(tmp_path / "set")
    assert cli.main(["eval", "--weights", str(run / "model.safetensors"), "--data", str(data), "--workers", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "ap         -" in lines and "      -  dot" in lines
    assert "no boxes that count, so there is no AP to measure" in caplog.text
