"""AdamW with the parameter groups of the published runs, and the schedule of the learning rate."""

from __future__ import annotations

import math

from torch import nn
from torch.optim import AdamW

from dfine_lib.config import TrainConfig

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)


def parameter_groups(model: nn.Module, train: TrainConfig) -> list[dict]:
    """Trainable parameters in named groups, each with its learning rate and weight decay.

    Groups: `backbone`, `backbone_norm`, `other_norm_and_bias` and `other`. Recipes of published runs decay what those
    runs really decayed, even where a regular expression of theirs missed what it meant.

    Args:
        model: a module; parameters whose name starts with `backbone.` form the backbone groups.
        train: learning rates and weight decay.
    """
    norm_decay = train.weight_decay if train.decay_backbone_norm else 0.0
    settings = {
        "backbone": (train.backbone_lr, train.weight_decay),
        "backbone_norm": (train.backbone_lr, norm_decay),
        "other_norm_and_bias": (train.lr, 0.0),
        "other": (train.lr, train.weight_decay),
    }
    norms = {
        own for module in model.modules() if isinstance(module, _NORMS) for own in module.parameters(recurse=False)
    }
    members: dict[str, list[nn.Parameter]] = {name: [] for name in settings}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith("backbone."):
            members["backbone_norm" if parameter in norms else "backbone"].append(parameter)
        else:
            undecayed = parameter in norms or (name.endswith("bias") and not train.decay_bias)
            members["other_norm_and_bias" if undecayed else "other"].append(parameter)
    return [
        {"name": name, "params": members[name], "lr": lr, "weight_decay": decay}
        for name, (lr, decay) in settings.items()
        if members[name]
    ]


def build_optimizer(model: nn.Module, train: TrainConfig) -> AdamW:
    """AdamW over `parameter_groups`, one fused update for all."""
    groups = parameter_groups(model, train)
    return AdamW(groups, lr=train.lr, betas=train.betas, weight_decay=train.weight_decay, fused=True)


def warmup_factor(train: TrainConfig, iteration: int) -> float:
    """LR multiplier of the linear warm-up at a 0-based iteration; 1 from the end of the warm-up on."""
    return 1.0 if train.warmup_iterations <= 0 else min(1.0, (iteration + 1) / train.warmup_iterations)


def lr_multiplier(train: TrainConfig, iteration: int, total: int) -> float:
    """What the learning rates are multiplied by at a 0-based iteration of a run of `total`: warm-up, constant, cosine.

    Published runs have a constant learning rate to the end (`flat_fraction` 1).
    """
    factor = warmup_factor(train, iteration)
    constant = train.flat_fraction * total
    if iteration <= constant or total <= constant:
        return factor
    progress = min(1.0, (iteration - constant) / (total - constant))
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return factor * (train.final_lr_fraction + (1 - train.final_lr_fraction) * cosine)
