"""Parameters and FLOPs of backbone, encoder and decoder, counted as in the published table.

The table is of the deployed model at 640 × 640, as the authors' script counts it with the package calflops 0.3: 2 for
each multiply-add of a convolution or linear layer, and the element-wise operations of norms, activations, softmaxes and
biases. Of what that counter leaves out, `left_out_macs` holds the larger part.

torch's `FlopCounterMode` counts in another convention: matrix products and convolutions, attention's among them, and
no element-wise operation. A test holds the multiply-adds here equal to its.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dfine_lib.config import ModelConfig, Recipe
from dfine_lib.model.decoder import DecoderLayer
from dfine_lib.model.deformable_attention import DeformableAttention
from dfine_lib.model.dfine import DFINE
from dfine_lib.model.hgnetv2 import ConvBlock, Stem
from dfine_lib.model.hybrid_encoder import Bottleneck, EncoderLayer
from dfine_lib.model.layers import MLP, ConvNorm, SelfAttention
from dfine_lib.recipes import get_recipe


@dataclass(frozen=True)
class PartProfile:
    """Counts of one part of a model, for one image."""

    parameters: int  # in training
    deployed_parameters: int  # in deploy mode, as published: encoder norms folded, early class heads gone
    macs: int  # multiply-adds of convolutions and linear layers, deployed
    elementwise_flops: int  # norms, activations, softmaxes, biases
    left_out_macs: int  # attention products and bilinear sampling, which the published count leaves out

    @property
    def flops(self) -> int:
        """As published: two for each multiply-add, and the element-wise operations."""
        return 2 * self.macs + self.elementwise_flops

    def __add__(self, other: PartProfile) -> PartProfile:
        return PartProfile(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass(frozen=True)
class ModelProfile:
    """Counts of a whole model, part by part."""

    backbone: PartProfile
    encoder: PartProfile
    decoder: PartProfile

    @property
    def parts(self) -> dict[str, PartProfile]:
        """The three by name, in the order of the forward pass."""
        return vars(self).copy()

    @property
    def total(self) -> PartProfile:
        """All three together."""
        return self.backbone + self.encoder + self.decoder


def profile(model: str | Recipe | ModelConfig | DFINE, image_hw: tuple[int, int] = (640, 640)) -> ModelProfile:
    """Count parameters and operations.

    Args:
        model: a recipe's name such as `"n_coco"`, a recipe, a model's shape, or a model, of which only the shape is
            read.
        image_hw: input height and width in pixels, multiples of 32.

    Raises:
        ValueError: unknown recipe, or an image size that the model refuses.
    """
    if isinstance(model, (str, Recipe)):
        model = get_recipe(model).model
    config = model.config if isinstance(model, DFINE) else model
    with _Weightless():
        built = DFINE(config).eval()
    trained, removed = {}, {}
    for name, part in built.named_children():
        trained[name] = sum(p.numel() for p in part.parameters())
        removed[name] = sum(_removed(module) for module in _gone_or_folded(built, name))

    built.to("meta")  # the forward pass too is one of shapes
    counts = {name: [0, 0, 0] for name in trained}
    folded = {id(m.norm) for m in _gone_or_folded(built, "encoder") if isinstance(m, ConvNorm)}
    folded |= {id(m.conv2.conv) for m in built.modules() if isinstance(m, Bottleneck)}
    for name, part in built.named_children():
        for module in part.modules():
            rule = _RULES.get(type(module))
            if rule is not None and id(module) not in folded:
                module.register_forward_hook(_adding(counts[name], rule))
        for module in _gone_or_folded(built, name):
            if isinstance(module, ConvNorm):
                module.register_forward_hook(_adding(counts[name], _one_each))
        for bottleneck in (m for m in part.modules() if isinstance(m, Bottleneck)):  # two branches, one bias
            bottleneck.register_forward_hook(_adding(counts[name], lambda m, x, y: (0, -y.numel(), 0)))
    for lateral in built.encoder.lateral_convs:  # what it gives is upsampled: one operation a number
        lateral.register_forward_hook(_adding(counts["encoder"], _one_each))
    with torch.no_grad():
        built(torch.empty(1, 3, *image_hw, device="meta"))
    bins, layers = config.reg_max + 1, config.num_decoder_layers
    edges = 4 * min(config.num_queries, sum((image_hw[0] // s) * (image_hw[1] // s) for s in config.feat_strides))
    distributions = 0 if config.direct_regression else edges * layers
    # The mean over bins is a product with one vector. The authors' counter takes that vector for a layer with as many
    # outputs as bins, so it counts it `bins` times; so do we.
    counts["decoder"][0] += distributions * bins * bins
    # Softmaxes: before each mean, and for LQE.
    counts["decoder"][1] += bins * (distributions + edges * config.has_quality_head)
    return ModelProfile(
        **{name: PartProfile(trained[name], trained[name] - removed[name], *counts[name]) for name in trained}
    )


class _Weightless(TorchFunctionMode):
    """Weights that `torch.empty` makes inside have shapes but no numbers, so that building takes no time."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


# From module, input and output to macs, element-wise flops and left-out macs.
Rule = Callable[[Any, Tensor, Tensor], tuple[int, int, int]]


def _adding(counts: list[int], rule: Rule) -> Callable[[nn.Module, tuple, Tensor], None]:
    def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        for i, count in enumerate(rule(module, inputs[0], output)):
            counts[i] += count

    return hook


def _gone_or_folded(model: DFINE, part: str) -> list[nn.Module]:
    """What the published deploy mode changes: convolutions whose norms fold, bottlenecks, heads of early layers."""
    if part == "encoder":
        return [
            module
            for name, module in model.encoder.named_modules()
            if isinstance(module, (ConvNorm, Bottleneck)) and not name.startswith("input_proj")
        ]
    if part == "decoder":
        return [*model.decoder.dec_score_head[:-1], *model.decoder.decoder.lqe_layers[:-1]]
    return []


def _removed(module: nn.Module) -> int:
    """Parameters that deployment saves: a norm's scale and shift become a bias; a second branch goes into the first."""
    if isinstance(module, ConvNorm):
        return module.conv.out_channels
    if isinstance(module, Bottleneck):
        return module.conv2.conv.weight.numel() + module.conv2.conv.out_channels
    return sum(p.numel() for p in module.parameters())


def _one_each(m: nn.Module, x: Tensor, y: Tensor) -> tuple[int, int, int]:
    return 0, y.numel(), 0


def _conv(m: nn.Conv2d, x: Tensor, y: Tensor) -> tuple[int, int, int]:
    return y.numel() * m.weight[0].numel(), 0, 0


def _linear(m: nn.Linear, x: Tensor, y: Tensor) -> tuple[int, int, int]:
    return y.numel() * m.in_features, 0, 0


def _self_attention(m: SelfAttention, x: Tensor, y: Tensor) -> tuple[int, int, int]:
    tokens, width = x.shape[1:]
    return 3 * tokens * width * width, m.num_heads * tokens * tokens, 2 * tokens * tokens * width


def _deformable(m: DeformableAttention, x: Tensor, y: Tensor) -> tuple[int, int, int]:
    points = x.shape[1] * sum(m.points_per_level)
    return 0, points * m.num_heads, 5 * points * x.shape[2]  # four corners of a cell, and the weight


def _hidden_relu(m: MLP, x: Tensor, y: Tensor) -> tuple[int, int, int]:
    return 0, x[..., 0].numel() * sum(layer.out_features for layer in m.layers[:-1]), 0


def _stem_pool(m: Stem, x: Tensor, y: Tensor) -> tuple[int, int, int]:
    height, width = x.shape[-2] // 2 + 1, x.shape[-1] // 2 + 1  # padded by one
    return 0, m.stem1.conv.out_channels * height * width, 0


_RULES: dict[type[nn.Module], Rule] = {
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    SelfAttention: _self_attention,
    DeformableAttention: _deformable,
    MLP: _hidden_relu,
    Stem: _stem_pool,
    nn.BatchNorm2d: lambda m, x, y: (0, 2 * y.numel(), 0),  # frozen norms are not seen by the counter
    nn.LayerNorm: lambda m, x, y: (0, 5 * y.numel(), 0),
    ConvBlock: lambda m, x, y: (0, y.numel() if m.activate else 0, 0),
    ConvNorm: lambda m, x, y: (0, 0 if m.activation is None else y.numel(), 0),
    Bottleneck: lambda m, x, y: (0, y.numel(), 0),
    EncoderLayer: lambda m, x, y: (0, x.shape[1] * m.linear1.out_features, 0),
    DecoderLayer: lambda m, x, y: (0, x.shape[1] * m.linear1.out_features, 0),
}
