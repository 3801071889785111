"""Batch norms synchronised over processes, without a stop for the host.

`torch.nn.SyncBatchNorm` leaves out processes without images by a boolean index, three times a norm, for which the host
waits for the GPU: 266 times a step in size n. Every process of a training has images, so nothing has to be left out.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


def synchronise_without_stops(model: nn.Module) -> bool:
    """Let every `SyncBatchNorm` of a model, and of its copies, train by `normalise`; whether there is one.

    Outputs, gradients and running statistics are those of one process with all images, up to floating-point error. In
    evaluation nothing changes. The state dict stays.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.SyncBatchNorm)]
    for norm in norms:
        norm.forward = functools.partial(normalise, norm)
    return bool(norms)


def normalise(norm: nn.SyncBatchNorm, x: Tensor) -> Tensor:
    """`norm(x)`, in training by the statistics of the feature maps of all processes.

    Args:
        norm: with weight, bias, running statistics and a momentum.
        x: `[B, C, H, W]`, on each process another batch.
    """
    if not norm.training:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    y, mean, var, count = _Normalise.apply(x, norm.weight, norm.bias, norm.eps)
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(var * (count / (count - 1)), norm.momentum)  # unbiased, as in every batch norm
    return y


class _Normalise(torch.autograd.Function):
    """One collective forward, one backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
        mean, var = torch.batch_norm_update_stats(x, None, None, 0.0)  # [C] each, float32 also of a bf16 map
        own = torch.cat([mean, var, mean.new_full((1,), x.numel() / x.shape[1])])
        rank, processes = dist.get_rank(), dist.get_world_size()
        rows = F.pad(own[None], (0, 0, rank, processes - 1 - rank))  # [processes, 2 C + 1], 0 but for the own row
        dist.all_reduce(rows)
        means, variances, counts = rows.split([len(mean), len(mean), 1], dim=1)
        count = counts.sum()
        mean = (counts / count * means).sum(0)
        # Not E[x²] - E[x]², whose terms cancel where the mean is large.
        var = (counts / count * (variances + (means - mean).square())).sum(0)
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, var, count)
        return F.batch_norm(x, mean, var, weight, bias, eps=eps), mean, var, count

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, var, count = ctx.saved_tensors
        # As though mean and variance were constants, and then what goes through them. Weight and bias have the
        # gradients of this process's images: DistributedDataParallel averages them as it does all others.
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        sums = torch.cat([grad_weight, grad_bias])
        dist.all_reduce(sums)
        scale = weight * (var + ctx.eps).rsqrt() / count
        through_var, through_mean = (scale * part for part in sums.chunk(2))
        grad_x = grad_x - F.batch_norm(x, mean, var, through_var, through_mean, eps=ctx.eps)
        return grad_x, grad_weight, grad_bias, None
