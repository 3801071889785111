from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from dfine_lib.data.photometric import distort, turn_hue
from dfine_lib.data.transforms import planes

NAMES = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor", "channel_permutation")
NOTHING = dict.fromkeys(NAMES) | {"contrast_before": True}


def noise(height=40, width=52) -> torch.Tensor:
    """Every kind of pixel, greys and equal channels among them; channels last in memory, as read from a file."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator)
    image[:10] = image[:10, :, :1]  # grey
    image[10:20, :, 1] = image[10:20, :, 2]
    image[20:25] = image[20:25] // 128 * 255  # corners of the colour cube
    return image.permute(2, 0, 1)


def turned(*rgb, turn) -> list[float]:
    image = torch.tensor(rgb, dtype=torch.float32).reshape(3, 1, 1)
    turn_hue(image, turn)
    return image.flatten().tolist()


def test_hues_worked_out_by_hand():
    assert turned(200, 0, 0, turn=1 / 12) == pytest.approx([200, 100, 0])  # red to orange, half way to yellow
    assert turned(200, 0, 0, turn=-1 / 12) == pytest.approx([200, 0, 100])
    assert turned(200, 150, 100, turn=1 / 12) == pytest.approx([200, 200, 100])  # past half of its sixth
    assert turned(200, 175, 100, turn=1 / 12) == pytest.approx([175, 200, 100])  # over the edge: red falls again
    assert turned(200, 0, 0, turn=1 / 6) == pytest.approx([200, 200, 0])
    assert turned(70, 70, 70, turn=0.1) == [70, 70, 70]


@pytest.mark.parametrize("turn", [-1 / 6, -0.05, -0.01, 0.0, 0.02, 0.05, 1 / 6])
def test_turning_the_hue_is_torchvisions_way_through_hsv(turn):
    image = noise().float().contiguous() / 255
    want = functional.adjust_hue_image(image, turn)
    turn_hue(image, turn)
    assert_close(image, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        dict(brightness=0.9), dict(brightness=1.125), dict(contrast=0.5), dict(contrast=1.5), dict(saturation=0.5),
        dict(saturation=1.5), dict(hue=0.05), dict(hue=-0.05),
    ],
    ids=str,
)  # fmt: skip
def test_each_change_is_torchvisions_but_for_rounding(changes):
    (name, value), image = changes.copy().popitem(), noise()
    want = getattr(functional, f"adjust_{name}_image")(image.contiguous(), value)
    # Half a level: the nearest of 256 against cutting off. 1.5 with contrast and saturation: they cut off the grey too.
    found = distort(image, NOTHING | {f"{name}_factor": value})
    assert (found.int() - want.int()).abs().max() <= 2
    assert (found.float() - want.float()).abs().mean() < 1


def test_all_changes_together_are_torchvisions_in_the_same_draws():
    image, theirs = noise(), v2.RandomPhotometricDistort(p=0.5)
    drawn = []
    for seed in range(60):
        torch.manual_seed(seed)
        want = theirs(image.contiguous())
        state = torch.get_rng_state()
        torch.manual_seed(seed)
        changes = theirs.make_params([image])
        assert torch.equal(torch.get_rng_state(), state)
        drawn.append(changes)
        apart = (planes(distort(image, changes), changes["channel_permutation"]).int() - want.int()).abs()
        assert apart.float().mean() < 2.5  # five times cut off, half a level each
        assert apart.max() <= 6
    for name in NAMES:
        assert 15 < sum(changes[name] is not None for changes in drawn) < 45


def test_a_picture_is_not_written_to_and_left_as_it_is_where_nothing_changes():
    image = noise()
    before = image.clone()
    assert distort(image, NOTHING) is image
    distort(image, dict(zip(NAMES, (1.1, 0.7, 1.3, 0.04, (2, 0, 1)))) | {"contrast_before": False})
    assert torch.equal(image, before)


def test_planes_come_in_the_order_asked_for():
    image = noise()
    assert planes(image).is_contiguous()
    assert torch.equal(planes(image), image)
    assert torch.equal(planes(image, (2, 0, 1)), image[[2, 0, 1]])
