"""Claims: paired starts, runs that are measured once, and conclusions worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dfine_lib.data import find_split, read_coco
from dfine_lib.model.dfine import DFINE, open_model
from dfine_lib.model.weights import save_weights
from dfine_lib.recipes import changed, get_recipe
from dfine_tools.analysis.paired import CONTRADICTED, NOT_DECIDED, SUPPORTED
from dfine_tools.runs.claims import (
    Claim,
    Claims,
    ClaimsError,
    claim_rows,
    initial_model,
    make_trials,
    measure_run,
    read_claims,
    read_results,
)
from dfine_tools.runs.sweep import run_sweep
from tests.small_runs import SMALL, write_folder

SETTINGS = SMALL | {"train.epochs": 1}
CONDITIONS = {
    "full": {},
    "direct": {"model.direct_regression": True, "loss.union_set": False},
    "fewer_bins": {"model.reg_max": 8},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[Claims, Path]:
    folder = tmp_path_factory.mktemp("claims")
    data = write_folder(folder / "data")
    torch.manual_seed(99)
    start, recipe = DFINE.from_recipe(changed(get_recipe("pico"), SETTINGS), num_classes=2), get_recipe("pico")
    save_weights(folder / "start.safetensors", start, data=recipe.data, category_names=("a", "b"), category_ids=(1, 2))
    return Claims("pico", folder / "start.safetensors", 1, [0, 1], SETTINGS, CONDITIONS), data


def test_runs_of_a_seed_start_alike_as_far_as_shapes_agree(small):
    claims, data = small
    index = read_coco(*find_split(data, "train"))
    full, other = (initial_model(claims, "full", seed, index).state_dict() for seed in (0, 1))
    direct, bins = (initial_model(claims, name, 0, index).state_dict() for name in ("direct", "fewer_bins"))
    start = open_model(claims.weights)[0].state_dict()
    for key, value in full.items():
        if key.startswith(("backbone.", "encoder.")):
            assert torch.equal(value, start[key]) and torch.equal(value, other[key])
        for model in (direct, bins):
            assert key not in model or model[key].shape != value.shape or torch.equal(model[key], value)
    key = "decoder.enc_output.proj.weight"  # drawn at random
    assert not torch.equal(full[key], other[key]) and not torch.equal(full[key], start[key])
    assert direct["decoder.dec_bbox_head.0.layers.2.weight"].shape[0] == 4


def test_runs_are_trained_measured_once_and_tell_how_to_repeat_them(small, tmp_path):
    claims, data = small
    claims = replace(claims, conditions={name: CONDITIONS[name] for name in ("full", "direct")})
    trials = make_trials(claims, data, tmp_path / "runs", seeds=[0])
    assert [(trial.condition, trial.seed) for trial in trials] == [("full", 0), ("direct", 0)]
    assert [outcome.state for outcome in run_sweep(trials, show_progress=False)] == ["finished"] * 2
    for trial in trials:
        result = measure_run(trial, data, tmp_path / "results")
        metrics = result["metrics"]
        assert {"ap", "raw_ap", "loc_ap75", "loc_ap95", "edge_px", "layer1_edge_px", "layer3_loc_ap90"} <= set(metrics)
        assert metrics["loc_ap75"] == metrics["layer3_loc_ap75"]
        assert result["command"].startswith("dfine train --recipe pico") and result["steps"] == 2
        (trial.out / "model.safetensors").unlink()
        assert measure_run(trial, data, tmp_path / "results")["seed"] == 0  # read, not measured again
    assert [run["condition"] for run in read_results(tmp_path / "results")] == ["direct", "full"]
    unfinished = make_trials(claims, data, tmp_path / "runs", seeds=[1])[0]
    with pytest.raises(ClaimsError, match="has not finished"):
        measure_run(unfinished, data, tmp_path / "results")


def runs(condition: str, **values: list[float]) -> list[dict]:
    count = len(next(iter(values.values())))
    return [
        {"condition": condition, "seed": seed, "metrics": {name: column[seed] for name, column in values.items()}}
        for seed in range(count)
    ]


def test_conclusions_of_claims_worked_out_by_hand(small):
    claims = replace(
        small[0],
        claims=[
            Claim("better", "table 1", "ap", "full", "direct"),
            Claim("the other way", "table 1", "ap", "direct", "full"),
            Claim("noise", "table 2", "ap75", "full", "direct"),
            Claim("EMA", "recipe", "ap", "full", "full", against_metric="raw_ap"),
            Claim("no runs", "table 3", "ap", "full", "fewer_bins"),
        ],
    )
    results = runs("full", ap=[0.50, 0.51, 0.52, 0.53], raw_ap=[0.50, 0.50, 0.53, 0.52], ap75=[0.1, 0.2, 0.1, 0.2])
    results += runs("direct", ap=[0.40, 0.412, 0.418, 0.43], ap75=[0.2, 0.1, 0.2, 0.1])
    rows = claim_rows(claims, results)
    assert [row["conclusion"] for row in rows] == [SUPPORTED, CONTRADICTED, NOT_DECIDED, NOT_DECIDED, "too few runs"]
    assert [row["n"] for row in rows] == [4, 4, 4, 4, 0]
    # Differences 0.100, 0.098, 0.102, 0.100.
    assert rows[0]["difference"] == pytest.approx(0.1)
    assert rows[0]["high"] - rows[0]["low"] == pytest.approx(2 * 3.182446 * 0.001632993 / 2, rel=1e-4)
    assert rows[0]["p (Holm)"] < 0.001 < rows[2]["p (Holm)"]
    assert rows[3]["difference"] == pytest.approx(0.0025)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"claims": [{"claim": "c", "paper": "p", "metric": "ap", "of": "full", "against": "nobody"}]}, "nobody"),
        ({"conditions": {"full": None, "odd": {"model.wings": 2}}}, "odd.*wings"),
        ({"epoch": 3}, "epoch"),
        ({"weights": None}, "no claims file"),
    ],
)
def test_a_faulty_file_is_refused_by_what_is_wrong(tmp_path, change, words):
    content = {"recipe": "pico", "weights": "w.safetensors", "epochs": 1, "seeds": [0], "settings": {}}
    content |= {"conditions": {"full": None}} | change
    (tmp_path / "claims.yaml").write_text(json.dumps(content))
    with pytest.raises(ClaimsError, match=words):
        read_claims(tmp_path / "claims.yaml")
