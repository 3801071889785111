import hashlib
import json
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from data_tools import shapes
from data_tools.coco_folder import VAL_START, encode_png
from data_tools.outlines import CLASSES, outline
from data_tools.shape_drawing import Shape, annotate, paint, patch_of
from data_tools.textures import planes

SQUARE_OF_SIDE_19_5 = 19.5 / math.sqrt(2)  # radius: its pixels are 20 x 20 when its centre lies on a pixel corner


RECORDED = ["50d76814c7ace784", "429ddfd99151b1a1", "6aece6db0ba025b7", "b247a916426735b3"]


def fingerprint(seed, index, size=160):
    pixels, annotations = shapes.sample(seed, index, size)
    return hashlib.sha256(encode_png(pixels) + json.dumps(annotations).encode()).hexdigest()[:16]


def square(x, y, **more):
    return Shape("square", (x, y), SQUARE_OF_SIDE_19_5, **more)


def annotations_of(front_to_back, size=64):
    return [annotation for _, _, annotation in annotate(front_to_back, size)]


def drawn(shape, size):
    canvas = np.zeros((3, size, size), np.float32)
    paint(canvas, shape, patch_of(shape), planes((1.0, 1.0, 1.0)))
    return canvas[0].astype(np.float64)


def centre_and_spread(profile, first, last):
    """Mean and standard deviation of where a profile steps, over the pixels first .. last."""
    step = np.abs(np.diff(profile[first : last + 1]))
    place = np.arange(first, last) + 1.0  # between the centres of two pixels
    mean = (step * place).sum() / step.sum()
    return mean, math.sqrt((step * (place - mean) ** 2).sum() / step.sum())


def test_half_of_a_square_behind_another_is_worked_out_by_hand():
    front, behind = annotations_of([square(30, 20), square(20, 20)])
    assert front["occluded"] == 0
    assert front["edge_occluded"] == [0, 0, 0, 0]
    assert behind["occluded"] == 0.5
    assert behind["edge_occluded"] == [0, 0.5, 1, 0.5]  # left, top, right, bottom
    assert behind["area"] == 400
    assert_allclose(behind["bbox"], [10.25, 10.25, 19.5, 19.5], atol=1e-3)  # hidden parts included


def test_a_corner_behind_another_square_hides_a_quarter_of_each_of_two_edges():
    _, behind = annotations_of([square(30, 30), square(20, 20)])
    assert behind["occluded"] == 0.25
    assert behind["edge_occluded"] == [0, 0, 0.5, 0.5]


def test_a_square_that_shows_less_than_three_tenths_is_not_drawn():
    assert len(annotations_of([square(26, 20), square(20, 20)])) == 2  # 6 of 20 columns show
    assert len(annotations_of([square(25, 20), square(20, 20)])) == 1  # 5 of 20


def test_a_shape_that_is_not_drawn_hides_nothing():
    front, farthest = annotations_of([square(25, 20), square(20, 20), square(12, 20)])
    assert front["occluded"] == 0
    assert farthest["occluded"] == 0.35  # columns 15 to 21 of 2 to 21, all behind the front one


def test_the_image_border_cuts_the_box_and_is_told_from_occlusion():
    (annotation,) = annotations_of([square(0, 20)])
    assert_allclose(annotation["bbox"], [0, 10.25, 9.75, 19.5], atol=1e-3)
    assert annotation["edge_outside"] == [1, 0, 0, 0]
    assert annotation["area"] == 200
    assert annotation["occluded"] == 0


def test_each_edge_of_a_drawn_square_has_the_blur_that_its_annotation_says():
    shape = Shape("square", (80.3, 79.8), 60, sigma=(0.5, 1.0, 2.0, 4.0))
    image = drawn(shape, 160)
    x1, y1, x2, y2 = shape.box_xyxy()
    row, column = image[80], image[:, 80]
    assert shape.edge_blur_px() == [0.5, 1.0, 2.0, 4.0]
    for profile, edge, sigma in ((row, x1, 0.5), (column, y1, 1.0), (row, x2, 2.0), (column, y2, 4.0)):
        middle, spread = centre_and_spread(profile, math.floor(edge - 5 * sigma) - 1, math.ceil(edge + 5 * sigma))
        assert_allclose(middle, edge, atol=0.05)
        # differences of neighbouring pixels widen a step by the pixel's own spread, 1 / sqrt(12)
        assert_allclose(spread, math.sqrt(sigma * sigma + 1 / 12), rtol=0.04)


def test_motion_blurs_the_edges_that_lie_across_it():
    places = tuple((x, 0) for x in range(-4, 5))
    shape = Shape("square", (80, 80), 60, sigma=(0.5,) * 4, motion=places)
    across = math.sqrt(0.25 + 60 / 9)  # the mean square of -4 .. 4 is 60 / 9
    assert_allclose(shape.edge_blur_px(), [across, 0.5, across, 0.5])
    image = drawn(shape, 160)
    x1, y1, _, _ = shape.box_xyxy()
    middle, spread = centre_and_spread(image[80], math.floor(x1) - 9, math.floor(x1) + 9)
    assert_allclose([middle, spread], [x1, math.sqrt(across * across + 1 / 12)], atol=0.05)
    _, along = centre_and_spread(image[:, 80], math.floor(y1) - 5, math.floor(y1) + 5)
    assert_allclose(along, math.sqrt(0.25 + 1 / 12), rtol=0.05)


@pytest.mark.parametrize("name", CLASSES)
def test_the_box_is_tight_about_the_drawn_shape_under_any_rotation(name):
    for direction in ((1.0, 0.0), (0.8, 0.6), (-0.28, 0.96), (-0.6, -0.8)):
        shape = Shape(name, (70.4, 66.7), 50, direction)
        patch = patch_of(shape)
        rows, columns = np.nonzero(patch.distance > 0)
        found = columns.min() + patch.left, rows.min() + patch.top, columns.max() + patch.left, rows.max() + patch.top
        x1, y1, x2, y2 = shape.box_xyxy()
        # a sharp tip (60 degrees and less) may end up to two pixels before a pixel's centre lies inside it
        for edge, pixel in zip((x1, y1, x2, y2), (found[0], found[1], found[2] + 1, found[3] + 1), strict=True):
            assert abs(edge - pixel) < 2.5
        assert x1 <= found[0] + 0.6
        assert x2 >= found[2] + 0.4


@pytest.mark.parametrize("name", CLASSES)
def test_an_outline_lies_in_the_unit_circle_and_touches_it(name):
    assert_allclose(np.sqrt((outline(name)[0] ** 2).sum(1)).max(), 1.0)


def test_the_distance_inside_a_square_is_worked_out_by_hand():
    patch = patch_of(Shape("square", (30.5, 30.5), 20 * math.sqrt(2)))
    y, x = 30 - patch.top, 30 - patch.left
    assert_allclose(patch.distance[y, x], 20, atol=0.15)
    assert_allclose(patch.distance[y, x + 15], 5, atol=0.15)
    assert_allclose(patch.distance[y + 18, x - 3], 2, atol=0.15)
    assert_allclose(patch.distance[y, x - 21], -1, atol=0.15)


def test_the_same_seed_gives_the_bytes_recorded_when_the_set_was_made():
    assert [fingerprint(0, 0), fingerprint(7, 3), fingerprint(0, VAL_START), fingerprint(0, 1, 96)] == RECORDED


def test_an_image_does_not_depend_on_the_ones_drawn_before_it():
    alone = fingerprint(3, 5)
    for index in range(5):
        fingerprint(3, index)
    assert fingerprint(3, 5) == alone
    assert len({fingerprint(3, 5), fingerprint(3, 6), fingerprint(4, 5), fingerprint(3, VAL_START + 5)}) == 4


def test_objects_lie_in_their_image_and_their_shares_are_shares():
    kinds = set()
    for index in range(40):
        pixels, annotations = shapes.sample(11, index, 160)
        assert pixels.shape == (160, 160, 3)
        assert pixels.dtype == np.uint8
        assert 1 <= len(annotations) <= 8
        for annotation in annotations:
            x, y, width, height = annotation["bbox"]
            assert min(x, y) >= 0
            assert max(x + width, y + height) <= 160.001
            assert min(width, height) > 2
            assert 0 < annotation["area"] <= (width + 1) * (height + 1)
            assert 0 <= annotation["occluded"] <= 0.7
            assert all(0 <= share <= 1 for share in annotation["edge_occluded"])
            assert all(0.4 <= sigma <= 4.2 for sigma in annotation["edge_blur_px"])
            kinds.add(annotation["blur"])
    assert kinds == {"sharp", "defocus", "edges", "motion"}


def test_two_runs_write_the_same_bytes_and_a_longer_train_keeps_the_images(tmp_path):
    shapes.make_shapes(tmp_path / "a", train=3, val=2, size=64, seed=5, progress=False)
    shapes.make_shapes(tmp_path / "b", train=3, val=2, size=64, seed=5, progress=False)
    shapes.make_shapes(tmp_path / "c", train=4, val=2, size=64, seed=5, progress=False)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 3 + 2 + 2 + 1
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        if file.suffix == ".png":
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "c" / file).read_bytes()


def test_a_key_out_of_range_is_refused():
    with pytest.raises(ValueError, match="key"):
        shapes.sample(-1, 0)
    with pytest.raises(ValueError, match="key"):
        shapes.sample(0, 2**32)


def test_a_shape_without_motion_and_one_that_stands_still_look_alike():
    still = Shape("heart", (30, 30), 20)
    held = Shape("heart", (30, 30), 20, motion=((0, 0), (0, 0), (0, 0)))
    assert_array_equal(drawn(still, 60).round(5), drawn(held, 60).round(5))


def test_a_batch_is_the_samples_as_a_model_takes_them():
    batch = shapes.batch(3, first=11, seed=4, size=96)
    assert batch.images.shape == (3, 3, 96, 96) and batch.sizes_wh.tolist() == [[96, 96]] * 3
    pixels, objects = shapes.sample(4, 12, 96)
    assert (batch.images[1].permute(1, 2, 0) * 255).round().byte().numpy().tolist() == pixels.tolist()
    x, y, w, h = objects[0]["bbox"]
    assert batch.boxes_xyxy[1][0].tolist() == pytest.approx([x, y, x + w, y + h], abs=1e-4)
    assert batch.labels[1].tolist() == [each["category_id"] - 1 for each in objects]
