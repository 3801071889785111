"""Deploy mode: a fused (re-parameterised) model with the same outputs from fewer operations.

What only training needs is taken out, batch norms and learnable affines go into the convolutions before them, and
parallel convolutions become one.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfine_lib.errors import DfineError
from dfine_lib.model.dfine import DFINE
from dfine_lib.model.hgnetv2 import ConvBlock, LearnableAffine
from dfine_lib.model.hybrid_encoder import Bottleneck
from dfine_lib.model.layers import ConvNorm, FrozenBatchNorm2d


def deploy_mode(model: DFINE) -> DFINE:
    """A copy of the model for inference alone, with the same last-layer outputs up to float rounding.

    Args:
        model: left as it is.

    Returns:
        In eval mode, without gradients. It gives the last layer's output only (`keep_layers=True` is refused) and
        cannot be trained; its state dict is no longer the published one.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    with torch.inference_mode(False), torch.no_grad():
        _fold(model)
    decoder = model.decoder
    for heads in (decoder.dec_score_head, decoder.decoder.lqe_layers):
        for i in range(len(heads) - 1):
            heads[i] = _Removed()
    decoder.denoising_class_embed = _Removed()
    return model


class _Removed(nn.Module):
    """In place of what only training, or a look at all layers, needs."""

    def forward(self, *_: Tensor) -> Tensor:
        raise DfineError("this model is in deploy mode, which has the last layer's output only")


def fold_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d | FrozenBatchNorm2d) -> nn.Conv2d:
    """One convolution with bias that does what a convolution and its batch norm do in eval mode.

    A norm in eval mode multiplies each channel by a constant and adds another; so does a convolution's weight and bias.
    """
    scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()  # [out]
    shift = norm.bias.double() - norm.running_mean.double() * scale
    if conv.bias is not None:
        shift = shift + conv.bias.double() * scale
    folded = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups
    ).to(conv.weight)
    folded.weight.copy_(conv.weight.double() * scale.view(-1, 1, 1, 1))
    folded.bias.copy_(shift)
    return folded.requires_grad_(False).eval()


def add_convolutions(large: nn.Conv2d, small: nn.Conv2d) -> nn.Conv2d:
    """One k x k convolution that gives the sum of a k x k and a 1 x 1 one: the small kernel is added in the centre.

    Both have a bias, the same channels, stride 1, and padding that keeps the size.
    """
    both = copy.deepcopy(large)
    reach = large.kernel_size[0] // 2
    both.weight.add_(F.pad(small.weight, (reach,) * 4))
    both.bias.add_(small.bias)
    return both


class ClampedConv(nn.Module):
    """Convolution, ReLU and learnable affine as a convolution and limits: s max(z, 0) + c is max(s z + c, c).

    With s below 0 it is min(s z + c, c). Borders stay as they are: a convolution pads what comes in, and c is in what
    goes out.
    """

    def __init__(self, conv: nn.Conv2d, scale: float, bias: float) -> None:
        super().__init__()
        self.conv = conv
        conv.weight.copy_(conv.weight.double() * scale)
        conv.bias.copy_(conv.bias.double() * scale + bias)
        self.low, self.high = (bias, math.inf) if scale >= 0 else (-math.inf, bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        largest = torch.finfo(x.dtype).max  # runtimes fold two finite limits into the convolution
        return x.clamp(max(self.low, -largest), min(self.high, largest))


class FoldedBottleneck(nn.Module):
    """A `Bottleneck` whose two convolutions have become one."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.conv(x))


def _fold(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, ConvNorm):
            child.conv, child.norm = fold_norm(child.conv, child.norm), nn.Identity()
        elif isinstance(child, ConvBlock):
            child.conv, child.bn = fold_norm(child.conv, child.bn), nn.Identity()
            if isinstance(child.lab, LearnableAffine):
                setattr(module, name, ClampedConv(child.conv, child.lab.scale.item(), child.lab.bias.item()))
        else:
            _fold(child)
        if isinstance(child, Bottleneck):
            setattr(module, name, FoldedBottleneck(add_convolutions(child.conv1.conv, child.conv2.conv)))
