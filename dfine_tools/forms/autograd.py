"""Operations with a backward pass of our own: autograd's gives the same gradients and moves several times the bytes."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def by_hand(x: Tensor, training: bool) -> bool:
    """Whether to take a backward pass of our own: in training on a CPU, in full precision, not in compiled code.

    On other devices and in compiled code passes over memory cost less, or are fused.
    """
    return (
        training
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and x.numel() > x.shape[1]  # torch's own norm refuses a single number a channel
        and not torch.compiler.is_compiling()
    )


def memory_format(x: Tensor) -> torch.memory_format:
    """The layout of a map `[B, C, H, W]`, which may be some channels of a larger one."""
    return torch.channels_last if x.stride(1) == 1 else torch.contiguous_format


def batch_norm(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """A batch norm in training, `[B, C, H, W]` to the same shape; running statistics move.

    Torch's own takes ten times as long for its backward pass on maps in channels_last, where the gradient is part of a
    larger map (a concatenation's) or C is no multiple of 16.
    """
    norm.num_batches_tracked.add_(1)
    return _Norm.apply(x, norm.weight, norm.bias, None, True, norm)


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
    return _Norm.apply(x, norm.weight * scale, norm.bias * scale + bias, bias, scale.item() >= 0, norm)


class _Norm(torch.autograd.Function):
    """Batch norm, then `max(y, bound)` (`below`) or `min(y, bound)` in place, where there is a bound."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, bound: Tensor | None, below: bool, norm: nn.BatchNorm2d
    ) -> Tensor:
        running = norm.running_mean, norm.running_var
        y, mean, invstd = torch.native_batch_norm(x, weight, bias, *running, True, norm.momentum, norm.eps)
        if bound is not None:
            y = y.clamp_(min=bound.item()) if below else y.clamp_(max=bound.item())
        ctx.save_for_backward(x, weight, mean, invstd, *(() if bound is None else (y, bound)))
        ctx.below, ctx.eps = below, norm.eps
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, invstd, *bounded = ctx.saved_tensors
        if not bounded:
            return *_norm_gradients(grad, x, weight, mean, invstd, ctx.eps), None, None, None
        y, bound = bounded
        if ctx.below:
            passed = torch.ops.aten.threshold_backward(grad, y, bound.item())  # 0 where y is not above the bound
        else:
            passed = torch.ops.aten.threshold_backward(grad, -y, -bound.item())
        to_x, to_weight, to_bias = _norm_gradients(passed, x, weight, mean, invstd, ctx.eps)
        to_bound = grad.sum() - to_bias.sum()  # what was not passed
        return to_x, to_weight, to_bias, to_bound.expand_as(bound), None, None


_LANES = 16  # float32 numbers in the widest register


def _norm_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, invstd: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a batch norm's input, weight and bias.

    In channels_last torch's kernel takes channels 16 at a time and the rest one by one. Where there is a rest, k cells
    side by side count as one of k * C channels, a multiple of 16. Each of these then has sums of its own; what the sums
    over all cells make of the gradient instead is added: `a * x + b` with an a and a b for each channel.
    """
    last = x.is_contiguous(memory_format=torch.channels_last)
    grad = grad.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    batch, channels, height, width = x.shape
    k = _LANES // math.gcd(channels, _LANES)
    kernel = torch.ops.aten.native_batch_norm_backward
    if k == 1 or not last or width % k:
        return kernel(grad, x, weight, None, None, mean, invstd, True, eps, (True, True, True))

    def wide(flat: Tensor, numbers: int) -> Tensor:
        """That many numbers of the memory side by side as the channels of one cell."""
        return flat.view(1, -1, 1, numbers).permute(0, 3, 1, 2)

    flat_grad, flat_x = (one.permute(0, 2, 3, 1).view(-1) for one in (grad, x))
    repeated = weight.repeat(k), None, None, mean.repeat(k), invstd.repeat(k)
    of_parts, *sums = kernel(
        wide(flat_grad, k * channels), wide(flat_x, k * channels), *repeated, True, eps, (True, True, True)
    )
    parts = [each.view(k, channels) for each in sums]
    to_weight, to_bias = (part.sum(0) for part in parts)
    factor = weight * invstd / (batch * height * width)
    a = factor * invstd * (k * parts[0] - to_weight)
    b = factor * (k * parts[1] - to_bias) - a * mean
    # Whole rows of the map: torch's loops run along the numbers that have factors of their own.
    a, b = (v.flatten().repeat(width // k)[None, :, None, None] for v in (a, b))
    flat = of_parts.permute(0, 2, 3, 1).view(-1)
    wide(flat, width * channels).add_(b).addcmul_(wide(flat_x, width * channels), a)
    return flat.view(batch, height, width, channels).permute(0, 3, 1, 2), to_weight, to_bias


class _DenseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.format = memory_format(x)
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.contiguous(memory_format=ctx.format)


def dense_gradient(x: Tensor) -> Tensor:
    """`x` itself, `[B, C, H, W]`; its gradient is copied where it is a part of a larger map.

    For operations whose backward pass is many times slower on such a part than the copy takes.
    """
    return _DenseGradient.apply(x) if by_hand(x, x.requires_grad) else x


def pad_end(x: Tensor, training: bool) -> Tensor:
    """A row of zeros below and a column to the right, so that 2 x 2 kernels keep the size of `[B, C, H, W]`."""
    return _PadEnd.apply(x) if by_hand(x, training) else F.pad(x, (0, 1, 0, 1))


class _PadEnd(torch.autograd.Function):
    """`[B, C, H, W]` to `[B, C, H + 1, W + 1]`. `F.pad` fills the whole map first, and copies the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        out = torch.empty(
            batch, channels, height + 1, width + 1, dtype=x.dtype, device=x.device, memory_format=memory_format(x)
        )
        out[..., :-1, :-1].copy_(x)
        out[..., -1, :].zero_()
        out[..., -1].zero_()
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad[..., :-1, :-1]


def max_of_four(x: Tensor, training: bool) -> Tensor:
    """Max-pooling of 2 x 2 cells with stride 1, `[B, C, H + 1, W + 1]` to `[B, C, H, W]`.

    On CPUs several times faster than `max_pool2d`. Of equal cells the first gets the gradient, on every device and in
    every precision: `torch.maximum` would share it, and in bf16 equal cells are frequent.
    """
    if by_hand(x, training):
        return _MaxOfFour.apply(x)
    return F.max_pool2d(x, 2, 1) if x.requires_grad else _max_of_pairs(_max_of_pairs(x, 3), 2)


class _MaxOfFour(torch.autograd.Function):
    """Of equal cells the first gets the gradient, as in `max_pool2d`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _max_of_pairs(_max_of_pairs(x, 3), 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _to_larger(_to_larger(grad, _max_of_pairs(x, 3), 2), x, 3)


def _max_of_pairs(x: Tensor, dim: int) -> Tensor:
    """The larger of each cell and the next one along `dim`: one cell fewer."""
    pairs = x.shape[dim] - 1
    return torch.maximum(x.narrow(dim, 0, pairs), x.narrow(dim, 1, pairs))


def _to_larger(grad: Tensor, x: Tensor, dim: int) -> Tensor:
    """Gradient of `_max_of_pairs`: each number goes to the larger cell of its pair."""
    pairs = x.shape[dim] - 1
    first, second = x.narrow(dim, 0, pairs), x.narrow(dim, 1, pairs)
    to_second = torch.ops.aten.threshold_backward(grad, second - first, 0)  # 0 where the second is not larger
    out = torch.empty_like(x)
    torch.sub(grad, to_second, out=out.narrow(dim, 0, pairs))
    out.narrow(dim, pairs, 1).zero_()
    out.narrow(dim, 1, pairs).add_(to_second)
    return out
