"""Operations with a backward pass of our own: autograd's gives the same gradients and moves several times the bytes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def norm_relu_affine(x: Tensor, norm: nn.BatchNorm2d, scale: Tensor, bias: Tensor) -> Tensor:
    """`scale * relu(norm(x)) + bias` of a batch norm in training, written over the norm's own output.

    With a positive scale that is `max(scale * norm(x) + bias, bias)`, with a negative one the minimum: scale and bias
    go into the norm's weight and bias, and the maximum needs no copy. Only `x` and the result are kept for the backward
    pass. A scale of exactly 0 gets no gradient.

    Args:
        x: `[B, C, H, W]`, on the CPU: which of the two it is, is asked at once.
        norm: its running statistics move.
        scale, bias: one number each, `[1]`.
    """
    norm.num_batches_tracked.add_(1)
    weight, shift = norm.weight * scale, norm.bias * scale + bias
    x = F.batch_norm(x, norm.running_mean, norm.running_var, weight, shift, True, norm.momentum, norm.eps)
    return _Bound.apply(x, bias, scale.item() >= 0)


class _Bound(torch.autograd.Function):
    """`max(x, bound)` or `min(x, bound)`, in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: Tensor, below: bool) -> Tensor:
        x = x.clamp_(min=bound.item()) if below else x.clamp_(max=bound.item())
        ctx.mark_dirty(x)
        ctx.save_for_backward(x, bound)
        ctx.below = below
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, bound = ctx.saved_tensors
        if ctx.below:
            passed = torch.ops.aten.threshold_backward(grad, x, bound.item())  # 0 where x is not above the bound
        else:
            passed = torch.ops.aten.threshold_backward(grad, -x, -bound.item())
        return passed, (grad.sum() - passed.sum()).expand_as(bound), None


class MaxOfFour(torch.autograd.Function):
    """Max-pooling of 2 x 2 cells with stride 1, `[B, C, H + 1, W + 1]` to `[B, C, H, W]`.

    Of equal cells the first gets the gradient, as in `max_pool2d`.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return max_of_pairs(max_of_pairs(x, 3), 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _to_larger(_to_larger(grad, max_of_pairs(x, 3), 2), x, 3)


def max_of_pairs(x: Tensor, dim: int) -> Tensor:
    """The larger of each cell and the next one along `dim`: one cell fewer."""
    pairs = x.shape[dim] - 1
    return torch.maximum(x.narrow(dim, 0, pairs), x.narrow(dim, 1, pairs))


def _to_larger(grad: Tensor, x: Tensor, dim: int) -> Tensor:
    """Gradient of `max_of_pairs`: each number goes to the larger cell of its pair."""
    pairs = x.shape[dim] - 1
    first, second = x.narrow(dim, 0, pairs), x.narrow(dim, 1, pairs)
    to_second = torch.ops.aten.threshold_backward(grad, second - first, 0)  # 0 where the second is not larger
    out = torch.empty_like(x)
    torch.sub(grad, to_second, out=out.narrow(dim, 0, pairs))
    out.narrow(dim, pairs, 1).zero_()
    out.narrow(dim, 1, pairs).add_(to_second)
    return out
