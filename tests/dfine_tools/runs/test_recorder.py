"""What a run shows of itself while it trains: detections on a few pictures, rewritten at every evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_runs import SMALL, write_folder

from dfine_lib.data import EvalLoader, find_split, read_coco
from dfine_lib.evaluate import postprocess
from dfine_lib.model.dfine import DFINE
from dfine_lib.recipes import changed, get_recipe
from dfine_lib.train import trainer
from dfine_lib.train.run_folder import RunFolder, read_rows
from dfine_tools.runs import recorder, samples
from dfine_tools.runs.recorder import RunRecorder
from dfine_tools.runs.samples import LEAST_SCORE, MOST, sample_detections


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two epochs, with an evaluation after each."""
    torch.set_num_threads(1)
    data = write_folder(tmp_path_factory.mktemp("set"))
    recipe = changed(get_recipe("pico"), SMALL | {"train.epochs": 2})
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "run")
    (folder.path / "samples.json").write_text("left by somebody else")
    written = []
    whole = recorder.write_atomically
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            recorder, "write_atomically", lambda path, content: written.append(path.name) or whole(path, content)
        )
        trainer.train(recipe, data, folder.path, device="cpu", callback=RunRecorder())
    return data, recipe, folder, written


def test_every_evaluation_writes_the_samples_whole(run):
    _, _, folder, written = run
    assert written.count("samples.json") == 2
    assert list(folder.path.glob(".*.part")) == []


def test_the_samples_say_of_which_step_and_image_they_are(run):
    data, _, folder, _ = run
    content = json.loads((folder.path / "samples.json").read_text())
    assert (content["step"], content["epoch"], content["category_names"]) == (3, 1, ["dot", "bar"])
    assert [row["step"] for row in read_rows(folder.rows) if row["kind"] == "eval"][-1] == content["step"]
    assert [image["image_id"] for image in content["images"]] == [1, 2, 3, 4]
    assert all(Path(image["file"]).is_file() and image["size_wh"] == [64, 64] for image in content["images"])
    truth = json.loads((data / "annotations" / "instances_val.json").read_text())["annotations"]
    x, y, w, h = next(one["bbox"] for one in truth if one["image_id"] == 1)
    first = next(one for one in truth if one["image_id"] == 1)
    assert content["images"][0]["truth"] == {
        "labels": [first["category_id"] - 7],
        "boxes_xyxy": [[x, y, x + w, y + h]],
    }


def test_they_are_those_of_the_averaged_weights(run):
    data, recipe, folder, _ = run
    model = DFINE.from_pretrained(folder.model)  # nothing was found, AP 0: then the latest weights are kept
    index = read_coco(*find_split(data, "val"), training=False)
    found = sample_detections(model, EvalLoader(index, recipe), "cpu")
    assert json.loads((folder.path / "samples.json").read_text())["images"] == found


def test_the_detections_are_what_postprocess_gives(run, monkeypatch):
    data, recipe, folder, _ = run
    model = DFINE.from_pretrained(folder.model).eval()
    raise_scores(model, 3.0)  # so few steps leave every score below 0.05
    loader = EvalLoader(read_coco(*find_split(data, "val"), training=False), recipe)
    batch = next(iter(loader))
    with torch.inference_mode():
        found = [each.above(LEAST_SCORE) for each in postprocess(model(batch.images), batch.sizes_wh)]
    for most in (MOST, 3):
        monkeypatch.setattr(samples, "MOST", most)
        for sample, expected in zip(sample_detections(model, loader, "cpu"), found, strict=True):
            assert len(sample["detections"]["scores"]) == min(most, len(expected)) > 0
            for name, values in sample["detections"].items():
                torch.testing.assert_close(torch.tensor(values), getattr(expected, name)[:most])


def test_a_model_of_another_number_of_classes_is_refused_and_the_mode_is_kept(run):
    data, recipe, _, _ = run
    index = read_coco(*find_split(data, "val"), training=False)
    model = DFINE.from_recipe(recipe, num_classes=2).train()
    assert len(sample_detections(model, EvalLoader(index, recipe), "cpu", images=2)) == 2 and model.training
    more = DFINE.from_recipe(recipe, num_classes=3).train()
    with pytest.raises(ValueError, match="a model of 3 classes, for 2"):
        sample_detections(more, EvalLoader(index, recipe), "cpu", images=2)
    assert more.training


@torch.no_grad()
def raise_scores(model: DFINE, by: float) -> None:
    for name, value in model.named_parameters():
        if "score_head" in name and name.endswith("bias"):
            value += by
