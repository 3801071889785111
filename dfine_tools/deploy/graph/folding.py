"""Consecutive linear maps are one linear map."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def pointwise(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A 1 x 1 convolution of a matrix `[out, in]` and a bias `[out]`, in float32."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, device=weight.device)
    conv.weight.copy_(weight[:, :, None, None])
    conv.bias.copy_(bias)
    return conv.requires_grad_(False)


def matrix(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Matrix `[out, in]` and bias `[out]` of a 1 x 1 convolution, in float64."""
    return conv.weight[:, :, 0, 0].double(), conv.bias.double()


def composed(weight: Tensor, bias: Tensor, first: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Matrix and bias of `weight @ first(x) + bias`, for a 1 x 1 convolution that nothing follows but this."""
    inner, shift = matrix(first)
    return weight @ inner, bias + weight @ shift


def linear_layer(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer of a matrix `[out, in]` and a bias, in float32."""
    layer = nn.Linear(
        weight.shape[1], weight.shape[0], bias=bias is not None, device=weight.device, dtype=torch.float32
    )
    layer.weight.copy_(weight)
    if bias is not None:
        layer.bias.copy_(bias)
    return layer.requires_grad_(False)
