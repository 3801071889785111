"""Backward passes written by hand give what torch's own give, whatever the layout of a map and of its gradient."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from dfine_tools.forms.autograd import batch_norm, dense_gradient, max_of_four, memory_format, norm_relu_affine, pad_end

FORMATS = {"channels_last": torch.channels_last, "channels first": torch.contiguous_format}


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def fitted_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels).double().train()
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    return norm


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("channels", [1, 3, 8, 12, 16, 24])
@pytest.mark.parametrize("width", [16, 10, 7])  # cells side by side count as one where the width allows
def test_gradients_of_a_norm(layout, channels, width):
    torch.manual_seed(channels)
    ours, theirs = fitted_norm(channels), None
    theirs = nn.BatchNorm2d(channels).double().train()
    theirs.load_state_dict(ours.state_dict())
    x = (3 * normal(2, channels, 6, width) + 5 * normal(1, channels, 1, 1)).contiguous(memory_format=FORMATS[layout])
    larger = normal(2, channels + 5, 6, width).contiguous(memory_format=FORMATS[layout])
    for grad in (larger[:, :channels], larger[:, 5:], normal(2, channels, 6, width), larger[:, :1].expand_as(x)):
        given = [x.clone().requires_grad_() for _ in range(2)]
        found, expected = batch_norm(given[0], ours), theirs(given[1])
        assert_close(found, expected)
        found.backward(grad), expected.backward(grad)
        assert_close(given[0].grad, given[1].grad)
        for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert_close(a.grad, b.grad, msg=lambda text, name=name: f"{name}: {text}")
        assert_close(dict(ours.named_buffers()), dict(theirs.named_buffers()))
        ours.zero_grad(), theirs.zero_grad()


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_gradients_of_norm_relu_and_affine_in_one(layout, sign):
    torch.manual_seed(0)
    norm = fitted_norm(12)
    results = []
    for by_hand in (True, False):
        norm_here = copy.deepcopy(norm)
        x = (2 * normal(2, 12, 6, 8) + 1).contiguous(memory_format=FORMATS[layout]).requires_grad_()
        x.data.copy_(torch.arange(x.numel()).reshape(x.shape).sin() * 2 + 1)
        scale, bias = (torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (0.7 * sign, -0.4))
        if by_hand:
            out = norm_relu_affine(x, norm_here, scale, bias)
        else:
            out = scale * F.relu(F.batch_norm(x, None, None, norm.weight, norm.bias, True, 0.1, norm.eps)) + bias
            norm_here = norm
        (out * torch.arange(out.numel()).reshape(out.shape).cos()).sum().backward()
        results.append([out.detach(), x.grad, scale.grad, bias.grad, norm_here.weight.grad, norm_here.bias.grad])
    for found, expected in zip(*results, strict=True):
        assert_close(found, expected)


@pytest.mark.parametrize("layout", FORMATS)
def test_padding_at_the_end_is_that_of_torch_and_keeps_the_layout(layout):
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=FORMATS[layout]).requires_grad_()
    padded = pad_end(x, training=True)
    assert_close(padded, F.pad(x, (0, 1, 0, 1)), rtol=0, atol=0)
    assert padded.is_contiguous(memory_format=FORMATS[layout])
    weights = torch.randn(padded.shape)
    padded.backward(weights)
    assert_close(x.grad, weights[..., :4, :5], rtol=0, atol=0)


def test_one_number_a_channel_is_refused_as_by_torch():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.BatchNorm2d(4).train()(torch.zeros(1, 4, 1, 1))


def test_the_part_of_a_map_has_the_layout_of_the_map():
    x = torch.zeros(2, 6, 4, 4)
    assert memory_format(x) == memory_format(x[:, 2:]) == torch.contiguous_format
    x = x.contiguous(memory_format=torch.channels_last)
    assert memory_format(x) == memory_format(x[:, 2:]) == torch.channels_last


def test_a_gradient_that_is_part_of_a_larger_one_arrives_on_its_own():
    arrived = []
    x = torch.randn(2, 4, 3, 3).contiguous(memory_format=torch.channels_last).requires_grad_()
    x.register_hook(arrived.append)
    joined = torch.cat([dense_gradient(x), x.detach()], dim=1)
    weights = torch.randn(joined.shape).contiguous(memory_format=torch.channels_last)
    joined.backward(weights)
    assert arrived[0].is_contiguous(memory_format=torch.channels_last)
    assert_close(x.grad, weights[:, :4])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_of_equal_cells_the_first_gets_the_gradient_in_every_precision(dtype):
    """By hand in float32 on a CPU; bf16 goes the way of a GPU, on which the result must be no other."""
    torch.manual_seed(0)
    values = torch.randint(0, 3, (2, 4, 9, 8)).to(dtype)  # most windows have equal cells
    results = []
    for pool in (lambda x: max_of_four(x, training=True), lambda x: F.max_pool2d(x, 2, 1)):
        x = values.clone().requires_grad_()
        pooled = pool(x)
        pooled.backward(torch.randint(0, 5, pooled.shape, generator=torch.Generator().manual_seed(1)).to(dtype))
        results.append((pooled.detach(), x.grad))
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)


def test_max_of_four_cells_gives_a_tie_to_the_first():
    x = torch.tensor([[[[1.0, 1.0, 0.0], [1.0, 2.0, 2.0], [2.0, 0.0, 2.0]]]], requires_grad=True)
    pooled = max_of_four(x, training=True)
    pooled.backward(torch.tensor([[[[1.0, 2.0], [4.0, 8.0]]]]))
    ours, x.grad = x.grad, None
    F.max_pool2d(x, 2, 1).backward(torch.tensor([[[[1.0, 2.0], [4.0, 8.0]]]]))
    assert_close(ours, x.grad)
