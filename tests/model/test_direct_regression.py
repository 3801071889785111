"""The baseline without distributions: every decoder layer moves the box of the layer before by four numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from dfine_lib.boxes import inverse_sigmoid
from dfine_lib.config import SIZES, DataConfig, LossConfig, ModelConfig
from dfine_lib.criterion import Criterion
from dfine_lib.criterion.criterion import term_names
from dfine_lib.model.dfine import DFINE, open_model
from dfine_lib.model.weights import WeightsError, load_weights, read_weights, save_weights

TARGETS = [
    {"labels": torch.tensor([1, 3]), "boxes": torch.tensor([[0.3, 0.4, 0.2, 0.3], [0.7, 0.6, 0.3, 0.2]])},
    {"labels": torch.tensor([0]), "boxes": torch.tensor([[0.5, 0.5, 0.6, 0.4]])},
]


def direct(**changes) -> ModelConfig:
    return replace(SIZES["pico"], num_classes=5, direct_regression=True, **changes)


def model_of(config: ModelConfig, seed: int = 0) -> DFINE:
    torch.manual_seed(seed)
    model = DFINE(config)
    for head in model.decoder.dec_bbox_head:  # fresh heads answer 0
        nn.init.normal_(head.layers[-1].weight, std=0.2)
        nn.init.normal_(head.layers[-1].bias, std=0.2)
    return model


def test_one_layer_worked_out_by_hand():
    decoder = model_of(direct(num_decoder_layers=1)).eval().decoder
    x, reference = torch.randn(1, 2, 96), torch.tensor([[[0.0, 1.0, -1.0, -2.0], [2.0, 0.5, -0.5, 0.0]]])
    levels = decoder.split_heads([torch.randn(1, 96, side, side) for side in (8, 4, 2)])
    with torch.no_grad():
        output = decoder.refine(x, reference, levels, None, keep_layers=True)
        position = decoder.query_pos_head(reference.sigmoid()).clamp(-10, 10)
        query = decoder.decoder.layers[0](x, position, reference.sigmoid(), levels, None)
        first, second, third = decoder.dec_bbox_head[0].layers
        moved = third(second(first(query).relu()).relu())  # four numbers for each query
    expected = 1 / (1 + torch.exp(-(reference + moved)))
    assert moved.abs().max() > 0.05
    torch.testing.assert_close(output.boxes_cxcywh[0], expected, rtol=0, atol=1e-6)
    assert output.corner_logits is None and output.initial is None
    assert output.layers[0].corner_logits is None


def test_each_layer_moves_the_box_of_the_layer_before():
    decoder = model_of(direct()).eval().decoder
    for head, number in zip(decoder.dec_bbox_head, (0.5, -0.2, 0.1), strict=True):
        nn.init.zeros_(head.layers[-1].weight)
        nn.init.constant_(head.layers[-1].bias, number)
    reference = torch.randn(1, 3, 4)
    levels = decoder.split_heads([torch.randn(1, 96, side, side) for side in (8, 4, 2)])
    with torch.no_grad():
        boxes = decoder.refine(torch.randn(1, 3, 96), reference, levels, None, keep_layers=True).boxes_cxcywh
    for layer, moved in enumerate((0.5, 0.3, 0.4)):
        torch.testing.assert_close(inverse_sigmoid(boxes[layer]), reference + moved, rtol=0, atol=1e-4)


def test_a_layer_gets_no_gradient_from_the_losses_of_the_next_ones_boxes():
    model = model_of(direct())
    output = model(torch.rand(2, 3, 64, 64), TARGETS)
    output.decoder.boxes_cxcywh[-1].sum().backward()
    used = [any(p.grad is not None and p.grad.any() for p in head.parameters()) for head in model.decoder.dec_bbox_head]
    assert used == [False, False, True]


@pytest.mark.parametrize("union_set", [True, False])
def test_terms_are_vfl_l1_and_giou_of_all_layers_and_every_parameter_is_trained(union_set):
    model, config = model_of(direct()), LossConfig(union_set=union_set)
    terms = Criterion(config)(model(torch.rand(2, 3, 64, 64), TARGETS), TARGETS)
    assert sorted(terms) == sorted(term_names(config, model.config))
    endings = ["", "_aux_0", "_aux_1", "_dn_0", "_dn_1", "_dn_2", "_enc_0"]
    assert sorted(terms) == sorted(f"loss_{kind}{ending}" for kind in ("vfl", "bbox", "giou") for ending in endings)
    sum(terms.values()).backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_a_batch_without_boxes_has_finite_losses():
    model = model_of(direct())
    nothing = [{"labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)}] * 2
    terms = Criterion(LossConfig())(model(torch.rand(2, 3, 64, 64), nothing), nothing)
    assert all(torch.isfinite(value) for value in terms.values())


def test_one_batch_is_learnt():
    model = model_of(direct(num_denoising=0))
    images, criterion = torch.rand(2, 3, 64, 64), Criterion(LossConfig())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(60):
        terms = criterion(model(images, TARGETS), TARGETS)
        losses.append((terms["loss_bbox"] + terms["loss_giou"]).item())
        optimizer.zero_grad()
        sum(terms.values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
    assert min(losses[-5:]) < 0.3 * losses[0]


def test_weights_come_back_as_they_were_and_those_with_distributions_are_refused(tmp_path):
    model, file = model_of(direct()).eval(), tmp_path / "direct.safetensors"
    names = tuple("abcde")
    save_weights(file, model, data=DataConfig(), category_names=names, category_ids=(1, 2, 3, 4, 5))
    other, _ = open_model(read_weights(file))
    assert other.config.direct_regression
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(images).pred_boxes, other.eval()(images).pred_boxes)
    with pytest.raises(WeightsError, match="another model"):
        load_weights(DFINE(replace(SIZES["pico"], num_classes=5)), read_weights(file))
