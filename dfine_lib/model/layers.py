"""Small blocks that several parts of the model share. Attribute names are the published state-dict keys."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor] | None


class FrozenBatchNorm2d(nn.Module):
    """Batch norm whose statistics, scale and shift are constants: `[B, C, H, W]` to the same shape."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def scale_shift(self) -> tuple[Tensor, Tensor]:
        """Scale and shift of each channel, `[C]` each: the norm is `x * scale + shift`."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.scale_shift()
        # Back to the dtype of x: under autocast x is bf16 and the constants are float32, so the product is too.
        return torch.addcmul(shift.view(-1, 1, 1), x, scale.view(-1, 1, 1)).to(x.dtype)


def as_tokens(x: Tensor) -> Tensor:
    """Flatten a feature map `[B, D, h, w]` to a sequence of tokens, row by row: `[B, h * w, D]`.

    Not by `flatten(2).transpose(1, 2)`: the gradient of that is in channels_last and, where B is 1, has an odd batch
    stride. For a map in torch's default layout, torch 2.14 on CPUs then silently computes wrong gradients in the
    backward pass of a batch norm. (A test in tests/model/test_layers.py fails when a later torch has fixed it.)
    """
    return x.permute(0, 2, 3, 1).flatten(1, 2)


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, activation: the encoder's and decoder's building block."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        activation: Activation = None,
    ) -> None:
        super().__init__()
        padding = (kernel_size - 1) // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return x if self.activation is None else self.activation(x)


class MLP(nn.Module):
    """Linear layers with ReLU between them: `[..., in]` to `[..., out]`."""

    def __init__(self, in_features: int, hidden: int, out_features: int, num_layers: int) -> None:
        super().__init__()
        widths = [in_features] + [hidden] * (num_layers - 1) + [out_features]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class SelfAttention(nn.Module):
    """Multi-head attention in which position enters query and key only, never the value.

    Parameter names are those of `torch.nn.MultiheadAttention`, so published keys load.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, position: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            x: `[B, Q, D]`.
            position: `[B, Q, D]` or `[1, Q, D]`, position embedding, added to query and key.
            attn_mask: bool `[Q, Q]`, true where a row may attend to a column. None: all attend to all.

        Returns:
            `[B, Q, D]`.
        """
        query, key, value = self.query_key_value(x, position)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask)
        return self.out_proj(attended.transpose(1, 2).reshape(x.shape))

    def query_key_value(self, x: Tensor, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The three projections of `[B, Q, D]`, head by head: `[B, heads, Q, D / heads]` each."""
        batch, length, width = x.shape
        weight_qk, weight_v = self.in_proj_weight.split([2 * width, width])
        bias_qk, bias_v = self.in_proj_bias.split([2 * width, width])
        query_key = F.linear(x + position, weight_qk, bias_qk).view(batch, length, 2, self.num_heads, -1)
        value = F.linear(x, weight_v, bias_v).view(batch, length, self.num_heads, -1).transpose(1, 2)
        query, key = query_key.permute(2, 0, 3, 1, 4)
        return query, key, value
