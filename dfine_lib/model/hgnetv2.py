"""HGNetV2, the backbone: a few wide blocks that concatenate everything they computed.

Source: PaddlePaddle's PP-HGNetV2, with the learnable affine block (LAB) of the small D-FINE sizes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfine_lib.errors import DfineError
from dfine_lib.model.layers import FrozenBatchNorm2d


class StageShape(NamedTuple):
    """Shape of one stage."""

    in_channels: int
    mid_channels: int  # of every layer inside a block
    out_channels: int
    num_blocks: int
    downsample: bool  # whether the stage begins with a convolution of stride 2
    light: bool  # whether its layers are `LightConvBlock`s
    kernel_size: int
    num_layers: int  # in each block


class Architecture(NamedTuple):
    """Channels of the stem (in, inside, out) and the four stages at strides 4, 8, 16, 32."""

    stem: tuple[int, int, int]
    stages: tuple[StageShape, StageShape, StageShape, StageShape]


def _family(stem: tuple[int, int, int], rows: list[tuple[int, int, int, int]], layers: int) -> Architecture:
    """Rows are in, mid and out channels, and blocks; the rest is the same in all sizes."""
    stages = [
        StageShape(*row, downsample=i > 0, light=i > 1, kernel_size=5 if i > 1 else 3, num_layers=layers)
        for i, row in enumerate(rows)
    ]
    return Architecture(stem, tuple(stages))


ARCHITECTURES: dict[str, Architecture] = {
    "pico": _family((3, 16, 16), [(16, 16, 32, 1), (32, 24, 96, 1), (96, 48, 192, 1), (192, 64, 256, 1)], 3),
    "B0": _family((3, 16, 16), [(16, 16, 64, 1), (64, 32, 256, 1), (256, 64, 512, 2), (512, 128, 1024, 1)], 3),
    "B1": _family((3, 24, 32), [(32, 32, 64, 1), (64, 48, 256, 1), (256, 96, 512, 2), (512, 192, 1024, 1)], 3),
    "B2": _family((3, 24, 32), [(32, 32, 96, 1), (96, 64, 384, 1), (384, 128, 768, 3), (768, 256, 1536, 1)], 4),
    "B3": _family((3, 24, 32), [(32, 32, 128, 1), (128, 64, 512, 1), (512, 128, 1024, 3), (1024, 256, 2048, 1)], 5),
    "B4": _family((3, 32, 48), [(48, 48, 128, 1), (128, 96, 512, 1), (512, 192, 1024, 3), (1024, 384, 2048, 1)], 6),
    "B5": _family((3, 32, 64), [(64, 64, 128, 1), (128, 128, 512, 2), (512, 256, 1024, 5), (1024, 512, 2048, 2)], 6),
    "B6": _family((3, 48, 96), [(96, 96, 192, 2), (192, 192, 512, 3), (512, 384, 1024, 6), (1024, 768, 2048, 3)], 6),
}


class LearnableAffine(nn.Module):
    """Learnable affine block (LAB): one scale and one bias for a whole feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        # In the dtype of x: under autocast, float32 numbers would make the map float32, which is kept for the gradient.
        return torch.addcmul(self.bias.to(x.dtype), x, self.scale.to(x.dtype))


class ConvBlock(nn.Module):
    """Convolution, batch norm, then ReLU and LAB where asked for."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        activate: bool = True,
        use_lab: bool = False,
    ) -> None:
        super().__init__()
        padding = (kernel_size - 1) // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.activate = activate
        self.lab = LearnableAffine() if activate and use_lab else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return self.lab(F.relu(x)) if self.activate else x


class LightConvBlock(nn.Module):
    """A 1 x 1 convolution mixes channels, then a depthwise k x k one looks around."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, use_lab: bool) -> None:
        super().__init__()
        self.conv1 = ConvBlock(in_channels, out_channels, 1, activate=False)
        self.conv2 = ConvBlock(out_channels, out_channels, kernel_size, groups=out_channels, use_lab=use_lab)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))


def max_2x2(x: Tensor) -> Tensor:
    """The maximum of every 2 x 2 window, with stride 1: `[B, C, H, W]` to `[B, C, H - 1, W - 1]`."""
    if torch.is_grad_enabled():  # of equal cells the first gets the gradient, on every device; `maximum` would share it
        return F.max_pool2d(x, 2, stride=1)
    x = torch.maximum(x[..., :-1, :], x[..., 1:, :])  # forty times as fast on a CPU
    return torch.maximum(x[..., :-1], x[..., 1:])


class Stem(nn.Module):
    """Image `[B, 3, H, W]` to `[B, out, H/4, W/4]`: a pooled and a convolved branch, concatenated."""

    def __init__(self, in_channels: int, mid: int, out: int, use_lab: bool) -> None:
        super().__init__()
        self.stem1 = ConvBlock(in_channels, mid, 3, stride=2, use_lab=use_lab)
        self.stem2a = ConvBlock(mid, mid // 2, 2, use_lab=use_lab)
        self.stem2b = ConvBlock(mid // 2, mid, 2, use_lab=use_lab)
        self.stem3 = ConvBlock(2 * mid, mid, 3, stride=2, use_lab=use_lab)
        self.stem4 = ConvBlock(mid, out, 1, use_lab=use_lab)

    def forward(self, images: Tensor) -> Tensor:
        end = (0, 1, 0, 1)  # 2 x 2 kernels have no centre: one column on the right and one row below keep the size
        x = F.pad(self.stem1(images), end)
        pooled = max_2x2(x)
        convolved = self.stem2b(F.pad(self.stem2a(x), end))
        return self.stem4(self.stem3(torch.cat([pooled, convolved], dim=1)))


class HGBlock(nn.Module):
    """A chain of layers; its input and the output of each layer, concatenated, go through two 1 x 1 convolutions."""

    def __init__(self, shape: StageShape, first: bool, use_lab: bool) -> None:
        super().__init__()
        in_channels = shape.in_channels if first else shape.out_channels
        mid, out = shape.mid_channels, shape.out_channels
        self.residual = not first
        self.layers = nn.ModuleList()
        for i in range(shape.num_layers):
            before = mid if i else in_channels
            self.layers.append(
                LightConvBlock(before, mid, shape.kernel_size, use_lab)
                if shape.light
                else ConvBlock(before, mid, shape.kernel_size, use_lab=use_lab)
            )
        total = in_channels + shape.num_layers * mid
        self.aggregation = nn.Sequential(
            ConvBlock(total, out // 2, 1, use_lab=use_lab), ConvBlock(out // 2, out, 1, use_lab=use_lab)
        )

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        out = self.aggregation(torch.cat(maps, dim=1))
        return out + x if self.residual else out


class Stage(nn.Module):
    """A convolution of stride 2 (except in the first stage), then the blocks."""

    def __init__(self, shape: StageShape, use_lab: bool) -> None:
        super().__init__()
        width = shape.in_channels
        self.downsample = (
            ConvBlock(width, width, 3, stride=2, groups=width, activate=False) if shape.downsample else nn.Identity()
        )
        self.blocks = nn.Sequential(*(HGBlock(shape, i == 0, use_lab) for i in range(shape.num_blocks)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class HGNetV2(nn.Module):
    """Images `[B, 3, H, W]` to a list of feature maps, fine to coarse: those of the last `num_maps` stages."""

    def __init__(
        self, name: str, num_maps: int = 3, use_lab: bool = False, freeze_norm: bool = False, freeze_stem: bool = False
    ) -> None:
        super().__init__()
        if name not in ARCHITECTURES:
            raise DfineError(f"backbone must be one of {', '.join(ARCHITECTURES)}, got {name!r}")
        architecture = ARCHITECTURES[name]
        self.num_maps = num_maps
        self.out_channels = [stage.out_channels for stage in architecture.stages[-num_maps:]]
        self.stem = Stem(*architecture.stem, use_lab)
        self.stages = nn.ModuleList(Stage(stage, use_lab) for stage in architecture.stages)
        if freeze_norm:
            _freeze_norms(self)
            _keep_variance(self)
        if freeze_stem:
            self.stem.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.stem(images)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[-self.num_maps :]


def _freeze_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(child.num_features, child.eps))
        else:
            _freeze_norms(child)


def _keep_variance(module: nn.Module) -> None:
    """He initialisation: frozen norms cannot rescale what randomly initialised convolutions shrink."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, nonlinearity="relu")
