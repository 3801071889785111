"""The ONNX file detects what the model detects, for any batch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dfine_lib import DFINE
from dfine_lib.evaluate import postprocess
from dfine_lib.evaluate.postprocess import Detections
from dfine_lib.model.weights import load_weights, read_weights
from dfine_tools.deploy.export import Detector, export_onnx
from dfine_tools.deploy.graph import graph_form
from dfine_tools.deploy.results import Prediction
from dfine_tools.deploy.ties import Limits, compare

ROOT = Path(__file__).parents[3]
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def same_objects(one, other, score=0.3, box_tolerance=1e-3, score_tolerance=1e-3):
    """Where two answers differ, in words; empty: they are the same as sets of objects."""
    return compare(one, other, score, Limits(box_tolerance, score_tolerance, 0.0, 0.0, rounding=-1.0))[0]


@pytest.fixture(scope="module")
def model() -> DFINE:
    """With every token a query: else rounding may decide a near-tie between two candidates for the last."""
    stored = read_weights(ROOT / "notebooks" / "assets" / "dfine_pico_shapes.safetensors")
    model = DFINE(replace(stored.model, num_queries=10_000))
    load_weights(model, stored)
    return model.eval()


@pytest.fixture(scope="module")
def file(model, tmp_path_factory) -> Path:
    return export_onnx(model, tmp_path_factory.mktemp("onnx") / "new" / "pico.onnx", (64, 96), ("circle", "star"))


@pytest.fixture(scope="module")
def session(file):
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_it_detects_what_the_model_detects(model, session, batch):
    images = torch.rand(batch, 3, 64, 96, generator=torch.Generator().manual_seed(batch))
    sizes_wh = torch.tensor([[640, 480]] * batch)
    labels, boxes, scores = session.run(None, {"images": images.numpy(), "orig_target_sizes": sizes_wh.numpy()})
    with torch.no_grad():
        found = postprocess(model(images), sizes_wh)
    expected = torch.stack([one.scores for one in found])
    torch.testing.assert_close(torch.from_numpy(scores), expected, rtol=0, atol=1e-4)
    for i, one in enumerate(found):
        sure = one.scores > 0.05  # below it there are ties, which two runtimes order each in its own way
        for k in torch.nonzero(sure).flatten().tolist():
            assert (abs(boxes[i] - one.boxes_xyxy[k].numpy()).max(1) < 0.01)[labels[i] == int(one.labels[k])].any()


def test_the_same_image_several_times_gives_the_same_several_times(session):
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(9)).expand(4, -1, -1, -1)
    answers = session.run(None, {"images": image.numpy(), "orig_target_sizes": torch.full((4, 2), 100).numpy()})
    for one in answers:
        assert abs(one - one[:1]).max() < 1e-3


def test_names_and_metadata_are_as_promised(session):
    assert [i.name for i in session.get_inputs()] == ["images", "orig_target_sizes"]
    assert [o.name for o in session.get_outputs()] == ["labels", "boxes", "scores"]
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["image_size"]) == [64, 96]
    assert json.loads(about["names"]) == ["circle", "star"]


def test_the_post_processing_in_the_file_is_that_of_the_library(model):
    draw = torch.Generator().manual_seed(0)
    images, sizes_wh = torch.rand(2, 3, 64, 64, generator=draw), torch.tensor([[64, 64], [200, 100]])
    with torch.no_grad():
        in_file = map(Detections, *Detector(graph_form(model, (64, 64)))(images, sizes_wh))
        pairs = list(zip(in_file, postprocess(model(images), sizes_wh), strict=True))
    for size_wh, pair in zip(sizes_wh.tolist(), pairs, strict=True):
        of_file, expected = (Prediction("x", tuple(size_wh), one.labels, one.boxes_xyxy, one.scores) for one in pair)
        assert len(of_file) == len(expected) == 300 and (of_file.scores.diff() <= 0).all()
        above_the_cut = float(expected.scores[-1]) + 1e-4  # where equal scores may change places, not leave
        assert len(expected.above(above_the_cut)) > 100
        assert same_objects(of_file, expected, above_the_cut, box_tolerance=1e-5, score_tolerance=1e-5) == []


def test_a_side_that_the_model_cannot_take_is_refused_before_any_work(model, tmp_path):
    with pytest.raises(ValueError, match="multiples of 32"):
        export_onnx(model, tmp_path / "x.onnx", 100)
    assert not list(tmp_path.iterdir())
