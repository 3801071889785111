"""Exponential moving average of the weights: what is evaluated, kept and shipped."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from dfine_lib.config import Recipe
from dfine_lib.recipes import get_recipe


class ModelEMA:
    """Average over parameters and floating-point buffers; integer buffers keep their own value.

    The decay rises as decay * (1 - exp(-t / ramp)), t counted from 1 at the first update, so that early weights
    are forgotten quickly; a ramp of 0 means none.

    Attributes:
        module: the averaged model, in eval mode, without gradients.
        decay: may be lowered while training (the published restart of stage 2).
        updates: t.
    """

    def __init__(self, model: nn.Module, recipe: str | Recipe) -> None:
        train = get_recipe(recipe).train
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.ramp = train.ema_decay, train.ema_ramp
        self.updates = 0

    def decay_at(self, updates: int) -> float:
        """Decay of that update, counted from 1."""
        return self.decay * (1 - math.exp(-updates / self.ramp)) if self.ramp > 0 else self.decay

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's weights."""
        self.updates += 1
        averages, values = [], []
        own = self.module.state_dict()
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                averages.append(own[name])
                values.append(value.detach())
        torch._foreach_lerp_(averages, values, 1 - self.decay_at(self.updates))
