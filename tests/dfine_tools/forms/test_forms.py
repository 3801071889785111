"""A form changes how a model computes, and nothing else: outputs, gradients and running statistics stay.

(What the export graph computes is compared with the model in `tests/dfine_tools/deploy/test_graph.py`, compiled models
in `test_compilation.py`.)
"""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from published import as_targets, filled
from torch import Tensor

from dfine_lib import DFINE
from dfine_lib.config import SIZES
from dfine_lib.model.hgnetv2 import ConvBlock, Stem
from dfine_lib.recipes import changed, get_recipe
from dfine_tools.forms import FORMS, fast_cpu, train_fast_on_cpu
from dfine_tools.forms.activation_checkpointing import checkpoint_activations
from dfine_tools.forms.frozen_norms import keep_constants


def all_of_them(model: DFINE) -> None:
    """One upon the other."""
    fast_cpu.put_on(model)
    keep_constants(model)
    checkpoint_activations(model)


def step(model: DFINE, layout: torch.memory_format, batch: int = 2) -> dict[str, Tensor]:
    """Outputs, gradients and running statistics of a training step, by name."""
    images = torch.rand(batch, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.manual_seed(1)  # denoising
    outputs = model(images.contiguous(memory_format=layout), as_targets([3, 1][:batch], model.config.num_classes))
    found = {}
    for name, part in (("matching", outputs.decoder), ("denoising", outputs.denoising)):
        found |= {f"{name} {key}": getattr(part, key) for key in ("logits", "boxes_cxcywh", "corner_logits")}
        found |= {f"{name} initial": part.initial.boxes_cxcywh}
    found |= {"encoder logits": outputs.encoder.logits, "encoder boxes": outputs.encoder.boxes_cxcywh}
    sum(x.square().sum() for x in found.values()).backward()
    found |= {f"gradient {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: x.detach() for name, x in found.items()} | dict(model.named_buffers())


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Up to floating-point error of float64, measured by the largest number of each tensor."""
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        scale = x.double().abs().max() + 0.1  # the gradient of a LAB's bias before a batch norm is 0, up to rounding
        assert (found[name].double() - x.double()).abs().max() <= 1e-7 * scale, name


@pytest.mark.parametrize(
    ("size", "form"),
    [("pico", fast_cpu.put_on), ("pico", checkpoint_activations), *((size, all_of_them) for size in "nsmlx")],
)
def test_a_training_step_of_every_size_is_that_of_the_plain_model(size, form):
    plain = filled(DFINE(replace(SIZES[size], num_denoising=4))).double().train()
    formed = copy.deepcopy(plain)
    form(formed)
    formed = copy.deepcopy(formed)  # copies compute with their own weights, in the same form
    assert formed.state_dict().keys() == plain.state_dict().keys()
    assert_equal(step(formed, torch.contiguous_format), step(plain, torch.contiguous_format))


@pytest.mark.parametrize("batch", [1, 2])
def test_a_training_step_in_channels_last_is_that_of_the_plain_model(batch):
    plain = filled(DFINE(SIZES["pico"])).double().train()
    formed = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    fast_cpu.put_on(formed)
    assert_equal(step(formed, torch.channels_last, batch), step(plain, torch.contiguous_format, batch))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_scale_of_any_sign_behind_a_relu_has_the_gradients_of_the_plain_stem(sign):
    torch.manual_seed(0)
    plain = Stem(3, 8, 6, use_lab=True).double().train()
    for name, parameter in plain.named_parameters():
        if ".lab." in name or ".bn." in name:
            parameter.data += 0.3 * torch.randn(parameter.shape)
        if name.endswith("lab.scale"):
            parameter.data *= sign
    formed, images = copy.deepcopy(plain), torch.randn(2, 3, 16, 24, dtype=torch.float64)
    fast_cpu.put_on(formed)
    results = []
    for stem in (formed, plain):
        x = images.clone().requires_grad_()
        out = stem(x)
        (out * torch.arange(out.numel()).reshape(out.shape).cos()).sum().backward()
        results.append({"out": out.detach(), "x": x.grad} | {name: p.grad for name, p in stem.named_parameters()})
    assert_equal(*results)


def test_norms_in_eval_mode_stay_so_within_a_block_in_training():
    plain = ConvBlock(3, 4, 3, use_lab=True).train()
    plain.bn.eval()
    formed, x = copy.deepcopy(plain), torch.randn(2, 3, 8, 8)
    fast_cpu.put_on(formed)
    torch.testing.assert_close(formed(x), plain(x))
    assert not formed.bn.running_mean.any() and formed.bn.num_batches_tracked == 0


def test_evaluation_is_that_of_the_plain_model_to_the_bit():
    plain, images = filled(DFINE(SIZES["pico"])).eval(), torch.rand(2, 3, 64, 64)
    formed = copy.deepcopy(plain)
    all_of_them(formed)
    with torch.no_grad():
        assert torch.equal(formed(images).pred_boxes, plain(images).pred_boxes)


def test_fast_training_is_put_on_for_cpus_alone_and_not_where_the_model_is_compiled():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    recipe = get_recipe("pico")
    model = DFINE(recipe.model)
    assert not train_fast_on_cpu(model, recipe, gpu)
    assert not train_fast_on_cpu(model, changed(recipe, {"train.compile": True}), cpu)
    assert "forward" not in vars(model.backbone.stem)
    assert train_fast_on_cpu(model, recipe, cpu)
    assert "forward" in vars(model.backbone.stem)
    assert FORMS[0] is train_fast_on_cpu  # checkpointing and compiling keep what is there already
