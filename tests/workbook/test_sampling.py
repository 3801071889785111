from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from workbook.sampling import sampling_of

from data_tools import shapes
from dfine_lib import DFINE

PICO = Path(__file__).parents[2] / "notebooks/assets/dfine_pico_shapes.safetensors"


@pytest.fixture(scope="module")
def model() -> DFINE:
    return DFINE.from_pretrained(PICO)


def test_every_layer_gives_places_weights_and_the_boxes_of_the_layer_before(model):
    images = shapes.batch(2).images
    layers = sampling_of(model, images)
    with torch.no_grad():
        outputs = model(images, keep_layers=True)
    assert len(layers) == 3
    for layer in layers:
        assert layer.locations.shape == (2, 40, 8, 12, 2) and sum(layer.points_per_level) == 12
        assert_close(layer.weights.sum(-1), torch.ones(2, 40, 8))
    assert_close(layers[0].boxes_cxcywh, outputs.encoder.boxes_cxcywh)
    for i in (1, 2):
        assert_close(layers[i].boxes_cxcywh, outputs.decoder.boxes_cxcywh[i - 1])


def test_the_model_is_left_as_it_was(model):
    sampling_of(model, torch.zeros(1, 3, 160, 160))
    attentions = [layer.cross_attn for layer in model.decoder.decoder.layers]
    assert not any(attention._forward_pre_hooks for attention in attentions)


def test_a_model_in_training_mode_is_refused(model):
    with pytest.raises(ValueError, match="eval"):
        sampling_of(model.train(), torch.zeros(1, 3, 160, 160))
    model.eval()
