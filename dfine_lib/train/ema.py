"""Exponential moving average (EMA) of the weights: the model that is evaluated, kept and exported."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from dfine_lib.config import TrainConfig


class ModelEMA:
    """EMA of parameters and floating-point buffers; integer buffers keep their own value.

    EMA warm-up: the decay rises as decay * (1 - exp(-t / ramp)), t counted from 1 at the first update, so that early
    weights are forgotten quickly; a ramp of 0 means none.

    Attributes:
        module: the model with the EMA weights, in eval mode, without gradients.
        decay: may be lowered while training (as the published runs do in their second stage).
        updates: t.
    """

    def __init__(self, model: nn.Module, train: TrainConfig) -> None:
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.ramp = train.ema_decay, train.ema_ramp
        self.updates = 0
        self._source: nn.Module | None = None  # the model of the last update, whose tensors are in `_values`

    def decay_at(self, updates: int) -> float:
        """Decay of that update, counted from 1."""
        return self.decay * (1 - math.exp(-updates / self.ramp)) if self.ramp > 0 else self.decay

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the EMA weights towards the model's weights, which change in place between updates."""
        self.updates += 1
        if model is not self._source:  # tensors are looked up once: a GPU would wait while two state dicts are made
            self._source, self._averages, self._values = model, _averaged(self.module), _averaged(model)
        torch._foreach_lerp_(self._averages, self._values, 1 - self.decay_at(self.updates))


def _averaged(model: nn.Module) -> list[Tensor]:
    """Parameters and floating-point buffers of the state dict: the tensors themselves."""
    return [tensor for tensor in model.state_dict(keep_vars=True).values() if tensor.is_floating_point()]
