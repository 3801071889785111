"""Hybrid encoder: attention on the coarsest feature map, then a top-down and a bottom-up path (FPN, PAN).

Source: RT-DETR (arXiv 2304.08069), section 4.2, with the lighter fusion block of D-FINE.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfine_lib.config import ModelConfig
from dfine_lib.model.layers import ConvNorm, SelfAttention, as_tokens


def position_embedding(
    height: int, width: int, dim: int, published: bool = False, device: torch.device | None = None
) -> Tensor:
    """Sine and cosine of a cell's row and column, at falling frequencies.

    Args:
        height, width: cells of the map.
        dim: D, a multiple of 4.
        published: pair tokens with cells as the authors' code does; the same on square maps, wrong on others.

    Returns:
        float32 `[1, height * width, D]`, tokens row by row. A token's D numbers are
        sin(y), cos(y), sin(x), cos(x), each over D / 4 frequencies: the transposed order that the published
        weights were trained with.
    """
    omega = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float32, device=device) / (dim // 4))
    sides = (width, height) if published else (height, width)  # theirs: down the columns, while tokens run along rows
    indices = (torch.arange(side, dtype=torch.float32, device=device) for side in sides)
    grid = torch.meshgrid(*indices, indexing="ij")
    slow, fast = (index.flatten()[:, None] * omega for index in grid)  # [S, D / 4]
    return torch.cat([slow.sin(), slow.cos(), fast.sin(), fast.cos()], dim=1)[None]


class EncoderLayer(nn.Module):
    """One post-norm transformer layer on tokens `[B, S, D]`."""

    def __init__(self, dim: int, num_heads: int, feedforward: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(dim, num_heads)
        self.linear1 = nn.Linear(dim, feedforward)
        self.linear2 = nn.Linear(feedforward, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, position: Tensor) -> Tensor:
        tokens = self.norm1(tokens + self.self_attn(tokens, position))
        return self.norm2(tokens + self.linear2(F.gelu(self.linear1(tokens))))


class TransformerEncoder(nn.Module):
    """A stack of encoder layers."""

    def __init__(self, dim: int, num_heads: int, feedforward: int, num_layers: int = 1) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(dim, num_heads, feedforward) for _ in range(num_layers))

    def forward(self, tokens: Tensor, position: Tensor) -> Tensor:
        for layer in self.layers:
            tokens = layer(tokens, position)
        return tokens


class Bottleneck(nn.Module):
    """A 3 x 3 and a 1 x 1 convolution added, then SiLU; the two fold into one 3 x 3 for deployment."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(width, width, 3)
        self.conv2 = ConvNorm(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.conv1(x) + self.conv2(x))


class CSPBlock(nn.Module):
    """Bottlenecks on one 1 x 1 projection, a second projection passed by, summed."""

    def __init__(self, in_channels: int, out_channels: int, num_bottlenecks: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, out_channels, 1, activation=F.silu)
        self.conv2 = ConvNorm(in_channels, out_channels, 1, activation=F.silu)
        self.bottlenecks = nn.Sequential(*(Bottleneck(out_channels) for _ in range(num_bottlenecks)))

    def forward(self, x: Tensor) -> Tensor:
        return self.bottlenecks(self.conv1(x)) + self.conv2(x)


class FusionBlock(nn.Module):
    """Two maps, concatenated to `[B, 2D, h, w]`, become one `[B, D, h, w]`."""

    def __init__(self, dim: int, expansion: float, depth_mult: float) -> None:
        super().__init__()
        width, num_bottlenecks = round(expansion * dim // 2), round(3 * depth_mult)
        self.cv1 = ConvNorm(2 * dim, 2 * dim, 1, activation=F.silu)
        self.cv2 = nn.Sequential(CSPBlock(dim, width, num_bottlenecks), ConvNorm(width, width, 3, activation=F.silu))
        self.cv3 = nn.Sequential(CSPBlock(width, width, num_bottlenecks), ConvNorm(width, width, 3, activation=F.silu))
        self.cv4 = ConvNorm(2 * dim + 2 * width, dim, 1, activation=F.silu)

    def forward(self, x: Tensor) -> Tensor:
        passed, half = self.cv1(x).chunk(2, dim=1)
        first = self.cv2(half)
        return self.cv4(torch.cat([passed, half, first, self.cv3(first)], dim=1))


class Downsample(nn.Module):
    """1 x 1 convolution, then a depthwise 3 x 3 of stride 2; no activation."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.cv1 = ConvNorm(dim, dim, 1)
        self.cv2 = ConvNorm(dim, dim, 3, stride=2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.cv2(self.cv1(x))


class HybridEncoder(nn.Module):
    """Feature maps of the backbone to as many feature maps `[B, D, h, w]`; fine to coarse, both."""

    def __init__(self, config: ModelConfig, in_channels: list[int]) -> None:
        super().__init__()
        dim = config.encoder_dim
        fusion = (dim, config.encoder_expansion, config.encoder_depth_mult)
        steps = range(len(in_channels) - 1)
        self.dim = dim
        self.published_positions = config.published_positions
        self.input_proj = nn.ModuleList(ConvNorm(channels, dim, 1) for channels in in_channels)
        self.encoder = nn.ModuleList([TransformerEncoder(dim, config.num_heads, config.encoder_feedforward)])
        self.lateral_convs = nn.ModuleList(ConvNorm(dim, dim, 1) for _ in steps)
        self.upsample = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.fpn_blocks = nn.ModuleList(FusionBlock(*fusion) for _ in steps)
        self.downsample_convs = nn.ModuleList(nn.Sequential(Downsample(dim)) for _ in steps)
        self.pan_blocks = nn.ModuleList(FusionBlock(*fusion) for _ in steps)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = [project(x) for project, x in zip(self.input_proj, maps, strict=True)]
        maps[-1] = self._attend(maps[-1])

        # Top-down. The output of a lateral convolution replaces its input: the bottom-up path concatenates the output.
        inner = [maps[-1]]  # coarse to fine
        for lateral, fuse, finer in zip(self.lateral_convs, self.fpn_blocks, maps[-2::-1], strict=True):
            inner[-1] = lateral(inner[-1])
            inner.append(fuse(torch.cat([self.upsample(inner[-1]), finer], dim=1)))

        # Bottom-up.
        outer = [inner[-1]]  # fine to coarse
        for downsample, fuse, coarser in zip(self.downsample_convs, self.pan_blocks, inner[-2::-1], strict=True):
            outer.append(fuse(torch.cat([downsample(outer[-1]), coarser], dim=1)))
        return outer

    def _attend(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        position = position_embedding(height, width, self.dim, self.published_positions, x.device).to(x.dtype)
        tokens = self.encoder[0](as_tokens(x), position)
        return tokens.transpose(1, 2).reshape(x.shape)
