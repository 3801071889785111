"""The deployed form gives what the trained model gives, from fewer operations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from dfine_lib import DFINE
from dfine_lib.config import SIZES
from dfine_lib.model.layers import FrozenBatchNorm2d
from dfine_tools.deploy.deployed import add_convolutions, deploy_mode, fold_norm


def with_odd_norms(model: nn.Module) -> nn.Module:
    """Fresh norms do nothing, and would hide a mistake: give them statistics."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            for tensor, low in ((module.weight, 0.5), (module.bias, -0.2), (module.running_mean, -0.2)):
                tensor.data.copy_(low + torch.rand(tensor.shape, generator=generator) * (1.0 if low > 0 else 0.4))
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
    return model


def test_a_norm_worked_out_by_hand_folds_into_its_convolution():
    conv, norm = nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=0.0).eval()
    conv.weight.data.fill_(3.0)
    norm.weight.data.fill_(2.0), norm.bias.data.fill_(1.0)
    norm.running_mean.fill_(5.0), norm.running_var.fill_(4.0)
    with torch.no_grad():
        folded = fold_norm(conv, norm)  # 2 * (3 x - 5) / 2 + 1 = 3 x - 4
    assert folded.weight.item() == 3.0 and folded.bias.item() == -4.0


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, FrozenBatchNorm2d])
@pytest.mark.parametrize("bias", [True, False])
def test_folding_holds_for_grouped_strided_convolutions(norm, bias):
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=4, bias=bias)
    pair = with_odd_norms(nn.Sequential(conv, norm(8))).eval()
    x = torch.randn(2, 8, 9, 7)
    with torch.no_grad():
        torch.testing.assert_close(fold_norm(*pair)(x), pair(x))


def test_two_parallel_convolutions_become_one():
    torch.manual_seed(0)
    large, small, x = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(4, 6, 1), torch.randn(1, 4, 5, 5)
    with torch.no_grad():
        expected = large(x) + small(x)
        torch.testing.assert_close(add_convolutions(large, small)(x), expected)
        torch.testing.assert_close(large(x) + small(x), expected)  # the two are left as they were


@pytest.mark.parametrize("size", ["pico", "n", "l"])
def test_the_last_layer_stays_the_same(size):
    torch.manual_seed(0)
    every_token = replace(SIZES[size], num_queries=10_000)  # else a near-tie decides who is the last query
    model = with_odd_norms(DFINE(every_token)).eval()
    images = torch.rand(2, 3, 96, 128)
    lean = deploy_mode(model)
    with torch.no_grad():
        full, last = model(images), lean(images)
    # Tokens of nearly the same score may change places among the queries: compare whatever the order.
    answers = [torch.cat([out.pred_boxes, out.pred_logits], dim=-1) for out in (full, last)]
    off = (answers[0][:, :, None] - answers[1][:, None]).abs().amax(-1)  # [B, Q, Q]
    assert off.amin(-1).max() < 2e-3 and off.amin(-2).max() < 2e-3  # logits of random weights are large
    kinds = [type(module) for module in lean.modules()]
    assert not any(issubclass(kind, nn.BatchNorm2d | FrozenBatchNorm2d) for kind in kinds)
    assert sum(p.numel() for p in lean.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("change", [{"uniform_bins": True}, {"quality_head": False}, {"direct_regression": True}])
def test_a_model_of_an_ablation_is_deployed_as_what_it_is(change):
    torch.manual_seed(0)
    model = DFINE(replace(SIZES["pico"], num_queries=10_000, **change)).eval()
    for head in model.decoder.dec_bbox_head:  # fresh distributions are even, and would hide which bins they lie over
        nn.init.normal_(head.layers[-1].weight)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        full, last = model(images), deploy_mode(model)(images)
    torch.testing.assert_close(last.pred_boxes.sort(1).values, full.pred_boxes.sort(1).values, rtol=0, atol=2e-3)
    torch.testing.assert_close(last.pred_logits.sort(1).values, full.pred_logits.sort(1).values, rtol=0, atol=2e-3)


def test_the_model_itself_is_left_alone():
    model = DFINE(SIZES["pico"])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    deploy_mode(model)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_look_at_all_layers_of_a_deployed_model_is_refused():
    lean = deploy_mode(DFINE(SIZES["pico"]))
    with pytest.raises(ValueError, match="deploy mode"):
        lean(torch.rand(1, 3, 64, 64), keep_layers=True)
