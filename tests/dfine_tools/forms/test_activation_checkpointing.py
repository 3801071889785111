"""Activation checkpointing: less is kept, and nothing else changes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.testing import assert_close

from dfine_lib import DFINE
from dfine_lib.criterion import build_criterion
from dfine_lib.recipes import changed
from dfine_tools.forms.activation_checkpointing import checkpoint_activations


def one_pass(model: DFINE) -> tuple[dict[str, torch.Tensor], int]:
    """Losses of a forward and backward pass, and the bytes that were kept between the two."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 64, 64, generator=generator)
    boxes = 0.3 + 0.2 * torch.rand(3, 4, generator=generator)
    targets = [{"labels": torch.tensor([0, 1]), "boxes": boxes[:2]}, {"labels": torch.tensor([1]), "boxes": boxes[2:]}]
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(1)  # denoising
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = build_criterion("pico")(model(images, targets), targets)
        total = sum(kept.values())
    sum(losses.values()).backward()
    return losses, total


@pytest.mark.parametrize("settings", [{}, {"model.freeze_norm": True, "model.freeze_stem": True}])
def test_losses_gradients_and_running_statistics_are_those_of_a_plain_step_from_less_memory(small_recipe, settings):
    torch.manual_seed(0)
    plain = DFINE.from_recipe(changed(small_recipe, settings)).train()
    lean = copy.deepcopy(plain)
    checkpoint_activations(lean)
    for _ in range(2):  # statistics of the first pass are those that the second starts from
        (losses, kept), (lean_losses, lean_kept) = one_pass(plain), one_pass(lean)
        assert_close(lean_losses, losses, rtol=1e-5, atol=1e-6)
    for (name, ours), theirs in zip(lean.named_parameters(), plain.parameters(), strict=True):
        if theirs.grad is None:
            assert ours.grad is None, name
        else:
            assert (ours.grad - theirs.grad).abs().max() <= 1e-5 * theirs.grad.abs().max() + 1e-7, name
    assert_close(dict(lean.named_buffers()), dict(plain.named_buffers()), rtol=0, atol=0)  # updated once, not twice
    assert lean_kept < 0.75 * kept
    assert lean.state_dict().keys() == plain.state_dict().keys()


def test_a_copy_computes_with_its_own_weights_and_evaluation_is_as_before(small_recipe):
    model = DFINE.from_recipe(small_recipe).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(images).pred_logits
        checkpoint_activations(model)
        twin = copy.deepcopy(model)
        assert torch.equal(model(images).pred_logits, expected)
        twin.backbone.stem.stem1.conv.weight.mul_(3.0)
        assert not torch.equal(twin(images).pred_logits, expected)
        assert torch.equal(model(images).pred_logits, expected)


def test_compiling_and_checkpointing_together_are_refused(small_recipe):
    with pytest.raises(ValueError, match="exclude each other"):
        changed(small_recipe, {"train.compile": True, "train.checkpoint_activations": True})
