"""Figures are asserted on the numbers behind them: line data, patches, words. Pixels are looked at by people."""

from __future__ import annotations

import base64
import math
import warnings

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle
from workbook import viz

from dfine_lib.boxes import box_cxcywh_to_xyxy
from dfine_lib.evaluate import Detections
from dfine_lib.model.distribution import decode_boxes, expected_offsets, weighting_function
from dfine_tools.figures.training import running_mean

LAYERS = 3


@pytest.fixture(autouse=True)
def _no_warnings_and_no_settings_left_behind():
    before = dict(mpl.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert dict(mpl.rcParams) == before


def rectangles(axes) -> np.ndarray:
    """Boxes drawn on axes, xyxy `[K, 4]`."""
    found = [p.get_bbox().extents for p in axes.patches if isinstance(p, Rectangle)]
    return np.array(found).reshape(-1, 4)


def axes_titled(figure, start: str):
    (axes,) = [a for a in figure.axes if a.get_title(loc="left").startswith(start)]
    return axes


@pytest.fixture
def one_object():
    """Random logits of one query, its boxes by layer, W as a fraction of the side."""
    torch.manual_seed(0)
    w = weighting_function(32, 0.5, 4.0)
    logits = torch.randn(LAYERS, 4, 33) * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    initial = torch.tensor([60.0, 50.0, 40.0, 30.0])
    refined = decode_boxes(initial.expand(LAYERS, 4), expected_offsets(logits, w))
    boxes = box_cxcywh_to_xyxy(torch.vstack([initial, refined]))
    return torch.rand(3, 100, 120), logits, boxes, w


def test_edge_distributions_show_the_softmax_of_every_layer(one_object):
    image, logits, boxes, offsets = one_object
    figure = viz.edge_distributions(image, logits, boxes, offsets)
    for e, edge in enumerate(("left", "top", "right", "bottom")):
        axes = axes_titled(figure, f"{edge}:")
        lines = {line.get_label(): line.get_ydata() for line in axes.lines}
        for layer in range(LAYERS):
            want = logits[layer, e].softmax(-1)
            np.testing.assert_allclose(lines[f"layer {layer + 1}"], want, atol=1e-6)


def test_the_marked_means_are_the_edges_of_the_drawn_boxes(one_object):
    image, logits, boxes, offsets = one_object
    figure = viz.edge_distributions(image, logits, boxes, offsets, title="cat 0.9")
    drawn = rectangles(axes_titled(figure, "cat 0.9"))
    np.testing.assert_allclose(drawn, boxes, atol=1e-4)
    for e, edge in enumerate(("left", "top", "right", "bottom")):
        places = axes_titled(figure, f"{edge}:").collections[-1].get_offsets()[:, 0]
        mean = np.interp(places, np.arange(33), offsets)  # from bins back to the fraction of the side
        side = 40.0 if e % 2 == 0 else 30.0
        outward = (boxes[1:, e] - boxes[0, e]).numpy() * (-1 if e < 2 else 1)
        np.testing.assert_allclose(mean * side, outward, atol=1e-3)


def test_the_title_of_an_edge_tells_its_offset_in_pixels(one_object):
    image, logits, boxes, offsets = one_object
    figure = viz.edge_distributions(image, logits, boxes, offsets)
    right = float(boxes[-1, 2] - boxes[0, 2])
    assert axes_titled(figure, "right:").get_title(loc="left").endswith(f"{right:+.1f} px")


def test_the_true_edge_stands_at_its_bin(one_object):
    image, logits, boxes, offsets = one_object
    truth = boxes[0] + torch.tensor([-40.0, 0.0, 0.0, 0.0]) * float(offsets[20])  # left edge moved out by W(20)
    axes = axes_titled(viz.edge_distributions(image, logits, boxes, offsets, truth), "left:")
    assert 20 in [pytest.approx(line.get_xdata()[0], abs=1e-4) for line in axes.lines if len(line.get_xdata()) == 2]


def test_shapes_that_do_not_fit_are_refused(one_object):
    image, logits, boxes, offsets = one_object
    with pytest.raises(ValueError, match="do not fit"):
        viz.edge_distributions(image, logits, boxes[1:], offsets)


def test_the_weighting_function_is_drawn_in_percent():
    w = weighting_function(32, 0.5, 4.0)
    figure = viz.weighting_function_figure({"reg_scale 4": w, "even": torch.linspace(-1, 1, 33)})
    where, steps = figure.axes
    np.testing.assert_allclose(where.lines[0].get_ydata(), 100 * w)
    np.testing.assert_allclose(steps.lines[1].get_ydata(), 100 / 16, rtol=1e-5)
    assert len(viz.weighting_function_figure([-1.0, 0.0, 1.0]).axes[0].lines) == 2  # one curve and the zero line


def detections(scores) -> Detections:
    count = len(scores)
    boxes = torch.arange(4.0 * count).reshape(count, 4).sort(dim=-1).values
    return Detections(torch.zeros(count, dtype=torch.int64), boxes, torch.tensor(scores))


@pytest.mark.parametrize("count", [1, 3])
def test_detections_below_the_score_are_left_out_and_the_highest_is_on_top(count):
    truth = {"labels": torch.tensor([1]), "boxes_xyxy": torch.tensor([[1.0, 2, 3, 4]])}
    images = [np.zeros((40, 60, 3), dtype=np.uint8)] * count
    found = [detections([0.9, 0.5, 0.3])] * count
    figure = viz.detections_beside_ground_truth(images, found, [truth] * count, ["cat", "dog"], score=0.4)
    np.testing.assert_allclose(rectangles(figure.axes[0]), truth["boxes_xyxy"])
    np.testing.assert_allclose(rectangles(figure.axes[1]), found[0].boxes_xyxy[[1, 0]])
    assert [t.get_text() for t in figure.axes[0].texts] == ["dog"]
    assert [t.get_text() for t in figure.axes[1].texts] == ["cat 0.50", "cat 0.90"]
    assert figure.alt_text.count("1 there, 2 found") == count


def test_an_image_without_objects_and_detections_is_drawn():
    truth = {"labels": torch.zeros(0), "boxes_xyxy": torch.zeros(0, 4)}
    figure = viz.detections_beside_ground_truth([torch.zeros(3, 32, 32)], [detections([])], [truth], ["cat"])
    assert "0 there, 0 found" in figure.alt_text
    assert figure.png()


ROWS = [
    *({"kind": "train", "step": 10 * e - 1, "epoch": 0, "loss": 20.0 - e, "lr": 1e-4} for e in range(1, 21)),
    {"kind": "eval", "step": 99, "epoch": 0, "raw": {"ap": 0.1, "ap50": 0.3}, "ema": {"ap": 0.2, "ap50": 0.4}},
    {"kind": "eval", "step": 199, "epoch": 1, "raw": {"ap": 0.3, "ap50": None}, "ema": {"ap": 0.25, "ap50": 0.5}},
    {"kind": "skipped", "step": 42, "epoch": 0, "terms": ["loss_vfl"], "image_ids": [3]},
]


def test_training_curves_show_what_was_logged():
    figure = viz.training_curves(list(reversed(ROWS)))
    loss, ap, rate = figure.axes
    lines = {line.get_label(): line for line in loss.lines}
    np.testing.assert_allclose(lines["as logged"].get_ydata(), [20.0 - e for e in range(1, 21)])
    assert list(lines["skipped step"].get_xdata()) == [42]
    curves = {line.get_label(): (line.get_xdata().tolist(), line.get_ydata().tolist()) for line in ap.lines}
    assert curves["raw AP"] == ([99, 199], [0.1, 0.3])
    assert curves["EMA AP"] == ([99, 199], [0.2, 0.25])
    assert curves["raw AP50"] == ([99], [0.3])
    assert ap.get_title(loc="left") == "best AP 0.300 (raw weights)"
    np.testing.assert_allclose(rate.lines[0].get_ydata(), 1e-4)


@pytest.mark.parametrize(
    "rows",
    [[], ROWS[:1], ROWS[-1:], [{"kind": "train", "step": 9, "loss": None, "lr": 0.1}], [{"kind": "eval", "step": 9}]],
)
def test_a_run_that_has_hardly_begun_is_drawn(rows):
    assert viz.training_curves(rows).png()


def test_a_running_mean_keeps_a_straight_line_inside_and_every_constant():
    line = np.arange(100.0)
    np.testing.assert_allclose(running_mean(line)[3:-3], line[3:-3])
    np.testing.assert_allclose(running_mean(np.full(7, 2.5)), 2.5)
    assert running_mean(np.zeros(0)).shape == (0,)


def test_class_bars_fall_and_classes_without_objects_are_named():
    figure = viz.per_class_ap({"a": 0.2, "b": 0.6, "absent": None, "also": math.nan})
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [0.6, 0.2]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["b", "a", "absent", "also"]
    assert "without objects: absent, also" in figure.alt_text
    assert "mean 0.400" in [t.get_text() for t in axes.texts]


def test_a_figure_shows_itself_as_png_with_its_words():
    figure = viz.per_class_ap({"a": 0.2})
    bundle = figure._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert bundle["text/plain"] == figure.alt_text == "AP by class: a 0.20."


def test_the_same_numbers_give_the_same_file(one_object):
    image, logits, boxes, offsets = one_object
    assert (
        viz.edge_distributions(image, logits, boxes, offsets).png()
        == viz.edge_distributions(image, logits, boxes, offsets).png()
    )


def test_an_image_of_unknown_shape_is_refused():
    with pytest.raises(ValueError, match=r"\[3, H, W\]"):
        viz.images_with_boxes({"four channels": (torch.zeros(4, 8, 8), torch.zeros(0, 4))})
