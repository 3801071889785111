"""Frozen norms that keep their constants compute as before, and notice when a buffer changes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dfine_lib.model.layers import FrozenBatchNorm2d
from dfine_lib.recipes import get_recipe
from dfine_tools.forms import keep_frozen_constants
from dfine_tools.forms.frozen_norms import keep_constants


class Counted(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def fill(norm: FrozenBatchNorm2d, seed: int) -> FrozenBatchNorm2d:
    torch.manual_seed(seed)
    for buffer in norm.buffers():
        buffer.copy_(torch.rand(5) + 0.5)
    return norm


@pytest.fixture
def norms() -> tuple[FrozenBatchNorm2d, FrozenBatchNorm2d]:
    """The plain norm, and the form."""
    plain = fill(FrozenBatchNorm2d(5), 0)
    kept = copy.deepcopy(plain)
    assert keep_constants(kept)
    return plain, kept


def assert_same(plain: FrozenBatchNorm2d, kept: FrozenBatchNorm2d, dtype: torch.dtype = torch.float32) -> None:
    x = torch.randn(2, 5, 3, 3, dtype=dtype).requires_grad_()
    gradients = []
    for norm in (plain, kept):
        y = norm(x)
        gradients += torch.autograd.grad(y.square().sum(), x)
        assert y.dtype == dtype
    assert torch.equal(plain(x), kept(x)) and torch.equal(*gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_and_gradient_are_those_of_the_plain_norm(norms, dtype):
    assert_same(*norms, dtype)
    assert norms[0].state_dict().keys() == norms[1].state_dict().keys()


def test_a_second_pass_computes_no_constants(norms):
    x = torch.zeros(1, 5, 2, 2)
    with torch.no_grad(), Counted() as counted:
        norms[1](x)
        first, counted.calls = counted.calls, []
        norms[1](x)
    assert "rsqrt" in first and counted.calls == ["addcmul"]


def written(norm: FrozenBatchNorm2d, other: dict[str, Tensor]) -> None:
    norm.running_var.mul_(1.5)


def loaded(norm: FrozenBatchNorm2d, other: dict[str, Tensor]) -> None:
    norm.load_state_dict(other)


def replaced(norm: FrozenBatchNorm2d, other: dict[str, Tensor]) -> None:
    norm.load_state_dict(other, assign=True)


@pytest.mark.parametrize("change", [written, loaded, replaced])
def test_a_change_of_a_buffer_is_noticed(norms, change):
    plain, kept = norms
    assert_same(plain, kept)
    for norm in norms:
        change(norm, fill(FrozenBatchNorm2d(5), 3).state_dict())
    assert_same(plain, kept)


def test_a_copy_and_another_dtype_have_their_own_constants(norms):
    plain, kept = norms
    kept(torch.zeros(1, 5, 2, 2))
    other = copy.deepcopy(kept)
    fill(other, 7)
    assert_same(fill(copy.deepcopy(plain), 7), other)
    assert_same(plain, kept)
    assert_same(copy.deepcopy(plain).double(), kept.double(), torch.float64)


def test_constants_of_an_evaluation_serve_in_training(norms):
    with torch.inference_mode():
        norms[1](torch.zeros(1, 5, 2, 2))
    assert_same(*norms)


def test_it_is_put_on_for_frozen_norms_on_a_gpu():
    norm, bare = FrozenBatchNorm2d(5), torch.nn.Linear(2, 2)
    recipe = get_recipe("l_coco")
    assert not keep_frozen_constants(norm, recipe, torch.device("cpu"))
    assert keep_frozen_constants(norm, recipe, torch.device("cuda:0"))
    assert not keep_frozen_constants(bare, recipe, torch.device("cuda:0"))
