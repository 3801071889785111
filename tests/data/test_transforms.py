from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from dfine_lib.config import DataConfig
from dfine_lib.data.transforms import (
    IoUCrop,
    Sample,
    TrainTransform,
    Window,
    drop_small,
    multiscale_sizes,
    normalised_cxcywh,
    resize_window,
    stretch,
)


def painted(height=96, width=128, boxes=((20, 30, 60, 70), (80, 10, 110, 50))) -> Sample:
    """Boxes painted in full green or full blue on black: label 0 is green, 1 blue."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    for label, (left, top, right, bottom) in enumerate(boxes):
        image[1 + label, top:bottom, left:right] = 255
    return Sample(image, torch.arange(len(boxes)), torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))


def measured(image, channel) -> torch.Tensor:
    """Where that channel is more than half on, as xyxy pixels."""
    rows, columns = (image[channel] > 127).nonzero(as_tuple=True)
    return torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()


def config(**options) -> DataConfig:
    off = dict(image_size=(64, 96), photometric=0.0, zoom_out=0.0, iou_crop=0.0, flip=0.0)
    return DataConfig(**off | options)


def test_a_stretched_box_worked_out_by_hand():
    image, box = torch.zeros(3, 32, 192, dtype=torch.uint8), torch.tensor([[10.0, 4.0, 30.0, 16.0]])
    sample = stretch(Sample(image, torch.tensor([7]), box), (64, 96))
    assert sample.image.shape == (3, 64, 96)
    assert_close(sample.boxes_xyxy, torch.tensor([[5.0, 8.0, 15.0, 32.0]]))
    assert_close(normalised_cxcywh(sample), torch.tensor([[10 / 96, 20 / 64, 10 / 96, 24 / 64]]))


def test_an_image_of_the_right_size_is_passed_on_untouched():
    sample = painted(64, 96, ((1, 2, 3, 4),))
    assert stretch(sample, (64, 96)) is sample


def test_stretching_is_bilinear_with_antialias():
    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
    expected = v2.Resize([32, 64], antialias=True)(image)
    assert torch.equal(stretch(Sample(image, torch.zeros(0), torch.zeros(0, 4)), (32, 64)).image, expected)
    smooth = torch.nn.functional.interpolate(image[None].float(), (32, 64), mode="bilinear", antialias=True)[0]
    assert (expected - smooth).abs().max() <= 1  # rounding to whole numbers


def test_a_certain_flip_worked_out_by_hand():
    sample = TrainTransform(config(flip=1.0), strong=False)(painted(64, 96, ((10, 20, 30, 40),)))
    assert sample.boxes_xyxy.tolist() == [[66, 20, 86, 40]]
    assert torch.equal(measured(sample.image, 1), sample.boxes_xyxy[0])


STRONG = {
    "photometric": dict(photometric=1.0),
    "zoom-out": dict(zoom_out=1.0),
    "crop": dict(iou_crop=1.0),
    "flip": dict(flip=1.0),
    "all": dict(zoom_out=0.5, iou_crop=0.8, flip=0.5),
}


@pytest.mark.parametrize("options", STRONG.values(), ids=STRONG)
def test_boxes_stay_on_their_objects(options):
    """Paint a box, transform, measure it again. A pixel of tolerance for what stretching blurs at the edge."""
    torch.manual_seed(0)
    transform = TrainTransform(config(image_size=(192, 256), **options), strong=True)
    seen = 0
    for _ in range(40):
        out = transform(painted())
        assert out.image.shape == (3, 192, 256)
        assert out.image.dtype == torch.uint8
        for label, box in zip(out.labels.tolist(), out.boxes_xyxy, strict=True):
            if "photometric" in options:  # colours change, places do not
                assert_close(box, painted().boxes_xyxy[label] * 2)
            elif (box[2:] - box[:2]).min() > 8:
                assert_close(measured(out.image, 1 + label), box, rtol=0, atol=3.0 if "crop" in str(options) else 1.5)
                seen += 1
    assert seen > 20 or "photometric" in options


@pytest.mark.parametrize("strong", [False, True])
def test_a_sample_without_boxes_passes(strong):
    transform = TrainTransform(DataConfig(image_size=64), strong=strong)
    for _ in range(10):
        out = transform(painted(boxes=()))
        assert out.image.shape == (3, 64, 64)
        assert out.labels.shape == (0,)
        assert out.boxes_xyxy.shape == (0, 4)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 200), (200, 3)])
def test_tiny_and_thin_images_pass(height, width):
    torch.manual_seed(0)
    transform = TrainTransform(DataConfig(image_size=32, iou_crop=1.0), strong=True)
    for _ in range(30):
        assert transform(painted(height, width, ((0, 0, 1, 1),))).image.shape == (3, 32, 32)


def test_probability_zero_leaves_nothing_but_the_stretch():
    sample, transform = painted(), TrainTransform(config(), strong=True)
    state = torch.get_rng_state()
    out, plain = transform(sample), stretch(sample, config().image_hw)
    assert torch.equal(torch.get_rng_state(), state)  # nothing drawn
    assert torch.equal(out.image, plain.image)
    assert torch.equal(out.boxes_xyxy, plain.boxes_xyxy)


WHOLE_NUMBERS = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")  # torch stretches bytes as bytes there


@settings(deadline=None, max_examples=80)
@given(
    place=st.tuples(st.integers(-60, 60), st.integers(-60, 60)),
    size=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    flip=st.booleans(),
)
def test_stretching_a_frame_is_padding_cropping_flipping_and_stretching(place, size, flip):
    image = torch.randint(0, 256, (40, 50, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image = image.permute(2, 0, 1)
    padded = functional.pad(image, [200, 200, 200, 200])
    want = functional.crop(padded, place[1] + 200, place[0] + 200, size[1], size[0])
    want = want.flip(-1) if flip else want
    want = functional.resize(want.clone(), [64, 96], antialias=True)
    got = resize_window(image, Window(*place, *size), (64, 96), flip=flip)
    assert_close(got, want, rtol=0, atol=0 if WHOLE_NUMBERS else 1)


def test_a_frame_beside_the_picture_is_black():
    image = painted().image
    for window in (Window(200, 0, 40, 30), Window(0, -90, 40, 30), Window(-300, -300, 10, 10)):
        assert torch.equal(resize_window(image, window, (64, 96)), torch.zeros(3, 64, 96, dtype=torch.uint8))


def test_zooming_out_draws_and_places_as_torchvision():
    sample = painted()
    boxes = tv_tensors.BoundingBoxes(sample.boxes_xyxy, format="XYXY", canvas_size=(96, 128))
    transform = TrainTransform(config(zoom_out=1.0), strong=True)
    for seed in range(20):
        torch.manual_seed(seed)
        image, moved = v2.RandomZoomOut(fill=0, p=1.0)(tv_tensors.Image(sample.image), boxes)
        want = stretch(
            Sample(image.as_subclass(torch.Tensor), sample.labels, moved.as_subclass(torch.Tensor)), (64, 96)
        )
        torch.manual_seed(seed)
        out = transform(sample)
        assert_close(out.image, want.image, rtol=0, atol=1)
        assert_close(out.boxes_xyxy, drop_small(want).boxes_xyxy)


def test_stage_2_only_flips_and_stretches():
    transform = TrainTransform(DataConfig(image_size=64), strong=False)
    plain = stretch(painted(), (64, 64))
    for _ in range(8):
        out = transform(painted())
        assert any(torch.equal(out.image, image) for image in (plain.image, stretch(flipped(), (64, 64)).image))


def flipped() -> Sample:
    return painted()._replace(image=painted().image.flip(-1))


def test_boxes_under_a_pixel_are_dropped_with_their_labels():
    boxes = torch.tensor([[0, 0, 5, 0.9], [0, 0, 1, 1], [3, 3, 3.5, 9]])
    sample = drop_small(Sample(torch.zeros(3, 9, 9, dtype=torch.uint8), torch.tensor([4, 5, 6]), boxes))
    assert sample.labels.tolist() == [5]
    assert sample.boxes_xyxy.tolist() == [[0, 0, 1, 1]]


def test_augmentations_do_not_write_into_their_input():
    sample = painted()
    image, boxes = sample.image.clone(), sample.boxes_xyxy.clone()
    transform = TrainTransform(DataConfig(image_size=64, photometric=1.0, zoom_out=0.5, iou_crop=1.0), strong=True)
    for _ in range(20):
        transform(sample)
    assert torch.equal(sample.image, image)
    assert torch.equal(sample.boxes_xyxy, boxes)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32), count=st.integers(0, 6), height=st.integers(8, 90), width=st.integers(8, 90))
def test_boxes_of_augmented_samples_lie_in_the_image(seed, count, height, width):
    generator = torch.Generator().manual_seed(seed)
    corners = (torch.rand(count, 2, 2, generator=generator) * torch.tensor([width, height])).sort(1).values
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    torch.manual_seed(seed)
    out = TrainTransform(DataConfig(image_size=(64, 96)), strong=True)(
        Sample(image, torch.arange(count), corners.reshape(-1, 4))
    )
    assert len(out.labels) == len(out.boxes_xyxy) <= count
    assert ((out.boxes_xyxy[:, 2:] - out.boxes_xyxy[:, :2]) >= 1).all()
    cxcywh = normalised_cxcywh(out)
    assert (cxcywh[:, :2] - cxcywh[:, 2:] / 2 >= -1e-6).all()
    assert (cxcywh[:, :2] + cxcywh[:, 2:] / 2 <= 1 + 1e-6).all()


def test_iou_crops_are_distributed_as_torchvisions():
    image = tv_tensors.Image(torch.zeros(3, 48, 64, dtype=torch.uint8))
    boxes = torch.tensor([[1.0, 2, 20, 30], [30, 10, 50, 40], [5, 5, 6, 6]])
    boxes = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(48, 64))
    found = {}
    for kind in (v2.RandomIoUCrop, IoUCrop):
        torch.manual_seed(0)
        crop = kind(sampler_options=[0.3, 1.0], trials=20)
        drawn = [params for params in (crop.make_params([image, boxes]) for _ in range(1000)) if params]
        inside = torch.stack([params["is_within_crop_area"] for params in drawn]).float()
        place = torch.tensor([[params[key] for key in ("left", "top", "width", "height")] for params in drawn]).float()
        found[kind] = len(drawn) / 1000, inside.mean(0), place.mean(0)
    (share, inside, place), (our_share, our_inside, our_place) = found[v2.RandomIoUCrop], found[IoUCrop]
    # About four standard errors of the difference of two means of 500 draws.
    assert our_share == pytest.approx(share, abs=0.09)
    assert_close(our_inside, inside, rtol=0, atol=0.1)
    assert_close(our_place, place, rtol=0, atol=3.0)


def test_multiscale_sides_worked_out_by_hand():
    sides = [height for height, _ in multiscale_sizes((640, 640), 4)]
    assert sides == [480, 512, 544, 576, 608, 640, 640, 640, 640, 800, 768, 736, 704, 672]
    assert [height for height, _ in multiscale_sizes((160, 160), 1)] == [96, 128, 160, 192, 160]


@pytest.mark.parametrize("image_hw", [(32, 32), (64, 64), (320, 640), (480, 96), (1280, 704)])
def test_every_multiscale_size_is_a_multiple_of_32_near_the_base(image_hw):
    sizes = multiscale_sizes(image_hw, 3)
    assert sizes.count(image_hw) >= 3
    for size in sizes:
        for side, base in zip(size, image_hw, strict=True):
            assert side % 32 == 0
            assert max(32, base * 0.75 - 32) <= side <= base * 1.25 + 32
