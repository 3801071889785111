"""AdamW with the parameter groups of the published runs, and the learning-rate schedule."""

from __future__ import annotations

import math

from torch import nn
from torch.optim import AdamW

from dfine_lib.config import Recipe
from dfine_lib.recipes import get_recipe

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)


def parameter_groups(model: nn.Module, recipe: str | Recipe) -> list[dict]:
    """Trainable parameters in named groups, each with its learning rate and weight decay.

    Groups: `backbone`, `backbone_norm`, `other_norm_and_bias` and `other`. What is decayed in a published run is
    what that run really decayed, even where its regular expression missed what it meant.

    Args:
        model: a module; parameters whose name starts with `backbone.` form the backbone groups.
        recipe: a name or a recipe.
    """
    train = get_recipe(recipe).train
    norms = {
        f"{name}.{own}" if name else own
        for name, module in model.named_modules()
        if isinstance(module, _NORMS)
        for own, _ in module.named_parameters(recurse=False)
    }
    members: dict[str, list[nn.Parameter]] = {
        name: [] for name in ("backbone", "backbone_norm", "other_norm_and_bias", "other")
    }
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith("backbone."):
            members["backbone_norm" if name in norms else "backbone"].append(parameter)
        else:
            free = name in norms or (name.endswith("bias") and not train.decay_bias)  # of weight decay
            members["other_norm_and_bias" if free else "other"].append(parameter)
    norm_decay = train.weight_decay if train.decay_backbone_norm else 0.0
    settings = {
        "backbone": (train.backbone_lr, train.weight_decay),
        "backbone_norm": (train.backbone_lr, norm_decay),
        "other_norm_and_bias": (train.lr, 0.0),
        "other": (train.lr, train.weight_decay),
    }
    return [
        {"name": name, "params": params, "lr": settings[name][0], "weight_decay": settings[name][1]}
        for name, params in members.items()
        if params
    ]


def build_optimizer(model: nn.Module, recipe: str | Recipe) -> AdamW:
    """AdamW over `parameter_groups`, one fused update for all."""
    recipe = get_recipe(recipe)
    groups = parameter_groups(model, recipe)
    return AdamW(
        groups, lr=recipe.train.lr, betas=recipe.train.betas, weight_decay=recipe.train.weight_decay, fused=True
    )


def warmup_factor(recipe: str | Recipe, iteration: int) -> float:
    """Linear warm-up: share of the full rate at a 0-based iteration, 1 from the end of the warm-up on."""
    steps = get_recipe(recipe).train.warmup_iterations
    return 1.0 if steps <= 0 else min(1.0, (iteration + 1) / steps)


def rate_factor(recipe: str | Recipe, iteration: int, total: int) -> float:
    """Share of the full learning rate at a 0-based iteration of a run of `total`: warm-up, flat part, cosine.

    Published runs are flat to the end (`flat_fraction` 1).
    """
    train = get_recipe(recipe).train
    factor = warmup_factor(recipe, iteration)
    flat = train.flat_fraction * total
    if iteration <= flat or total <= flat:
        return factor
    progress = min(1.0, (iteration - flat) / (total - flat))
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return factor * (train.final_lr_fraction + (1 - train.final_lr_fraction) * cosine)
