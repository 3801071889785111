"""16-bit floating point where it does no harm: convolutions and linear layers.

Norms, softmax, the mean over bins, and all that has to do with places stay float32: 11 bits of a place in an image of
640 pixels are a third of a pixel.
"""

from __future__ import annotations

import copy

import torch.nn.functional as F
from torch import Tensor, nn

from dfine_tools.deploy.graph import GraphModel


class HalfLinear(nn.Module):
    """A linear layer in float16 between float32 neighbours."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear.half()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.half(), self.linear.weight, self.linear.bias).float()


class InFloat16(nn.Module):
    """A part of the model, of convolutions alone, in float16; so is what it gives."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part.half()

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.part(x.half())


class InFloat32(nn.Module):
    """A part of the model in float32 between float16 neighbours, which get float16 back unless `keep`."""

    def __init__(self, part: nn.Module, keep: bool = False) -> None:
        super().__init__()
        self.part, self.keep = part, keep

    def forward(self, x: Tensor) -> Tensor:
        found = self.part(x.float())
        return found if self.keep else found.to(x.dtype)


def half_form(model: GraphModel) -> GraphModel:
    """A copy of a graph with float16 convolutions and linear layers; images and answers stay float32.

    Args:
        model: of `graph_form`; left as it is.
    """
    model = copy.deepcopy(model)
    _halve_linear(model)
    encoder, decoder = model.encoder, model.decoder
    model.backbone = InFloat16(model.backbone)
    attention = encoder.attention
    encoder.attention = nn.Identity()
    encoder.half()
    encoder.attention = InFloat32(attention)
    decoder.input_proj = nn.ModuleList(
        nn.Sequential(project.half(), InFloat32(nn.Identity(), keep=True)) for project in decoder.input_proj
    )
    return model


def _halve_linear(module: nn.Module) -> None:
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, HalfLinear(child))
        else:
            _halve_linear(child)
