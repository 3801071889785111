from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from dfine_lib import DFINE
from dfine_lib.criterion import build_criterion
from dfine_lib.data.targets import Targets

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
from published import as_targets


def test_the_targets_of_three_images_worked_out_by_hand():
    boxes = torch.arange(12.0).reshape(3, 4) / 12
    targets = Targets.of_images(
        [
            {"labels": torch.tensor([4, 1]), "boxes": boxes[:2]},
            {"labels": torch.zeros(0, dtype=torch.int64), "boxes": boxes[:0]},
            {"labels": torch.tensor([3]), "boxes": boxes[2:].double()},
        ]
    )
    assert targets.labels.tolist() == [4, 1, 3]
    assert torch.equal(targets.boxes_cxcywh, boxes)
    assert (targets.counts, len(targets)) == ((2, 0, 1), 3)
    assert targets.image_index.tolist() == [0, 0, 2]
    assert targets.index_in_image.tolist() == [0, 1, 0]
    assert targets.image(2)["labels"].tolist() == [3]
    assert [len(image["boxes"]) for image in targets] == [2, 0, 1]
    assert Targets.of_images(targets) is targets


def test_targets_without_a_box_have_empty_indices():
    targets = Targets.of_images(as_targets([0, 0])).to("meta")
    assert targets.image_index.shape == targets.index_in_image.shape == (0,)
    assert targets.image_index.dtype == torch.int64
    assert targets.image_index.device.type == targets.boxes_cxcywh.device.type == "meta"


@pytest.mark.parametrize("counts", [[3, 1], [0, 2], [0, 0]])
def test_a_list_of_images_and_targets_give_the_same_bits(counts):
    torch.manual_seed(0)
    model, criterion = DFINE.from_recipe("pico", num_classes=3).train(), build_criterion("pico")
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    images, usual = torch.rand(2, 3, 64, 64), as_targets(counts, 3)
    losses = []
    for targets in (usual, Targets.of_images(usual)):
        torch.manual_seed(1)
        losses.append(criterion(model(images, targets), targets))
    assert losses[0].keys() == losses[1].keys()
    assert all(torch.equal(value, losses[1][name]) for name, value in losses[0].items())
