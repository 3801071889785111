"""16-bit floating point where it does no harm: convolutions and linear layers.

Norms, softmax, the mean over bins, and all that has to do with places stay float32: 11 bits of a place in an image of
640 pixels are a third of a pixel.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from dfine_tools.deploy.graph import GraphModel


class Cast(nn.Module):
    """A part of the model that computes in one float type between neighbours of another.

    Args:
        part: its weights are of the type `takes`.
        takes: what its input is cast to.
        gives: what its output is cast to; None: it stays as it is.
    """

    def __init__(self, part: nn.Module, takes: torch.dtype, gives: torch.dtype | None = None) -> None:
        super().__init__()
        self.part, self.takes, self.gives = part, takes, gives

    def forward(self, x: Tensor) -> Tensor:
        found = self.part(x.to(self.takes))
        return found if self.gives is None else found.to(self.gives)


def half_form(model: GraphModel) -> GraphModel:
    """A copy of a graph with float16 convolutions and linear layers; images and answers stay float32.

    Args:
        model: of `graph_form`; left as it is.
    """
    model = copy.deepcopy(model)
    _halve_linear(model)
    encoder, decoder = model.encoder, model.decoder
    model.backbone = Cast(model.backbone.half(), torch.float16)
    attention = encoder.attention
    encoder.attention = nn.Identity()
    encoder.half()
    encoder.attention = Cast(attention, torch.float32, torch.float16)
    decoder.input_proj = nn.ModuleList(
        nn.Sequential(project.half(), Cast(nn.Identity(), torch.float32)) for project in decoder.input_proj
    )
    return model


def _halve_linear(module: nn.Module) -> None:
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, Cast(child.half(), torch.float16, torch.float32))
        else:
            _halve_linear(child)
