"""Forms put on a model from outside: they change how it computes and never what it computes.

A form is a function of model, recipe and device that says whether it was put on. `FORMS` are those of `dfine train`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from dfine_lib.config import Recipe
    from dfine_lib.model.dfine import DFINE


def train_fast_on_cpu(model: DFINE, recipe: Recipe, device: torch.device) -> bool:
    """Backward passes of our own, for every training on a CPU that is not compiled; see `forms.fast_cpu`."""
    from dfine_tools.forms import fast_cpu

    if device.type != "cpu" or recipe.train.compile:
        return False
    fast_cpu.put_on(model)
    return True


def synchronise_batch_norms(model: DFINE, recipe: Recipe, device: torch.device) -> bool:
    """Synchronised batch norms that never stop for the host, where there are any: several processes on GPUs."""
    from dfine_tools.forms import batch_norm_sync

    return batch_norm_sync.synchronise_without_stops(model)


def keep_frozen_constants(model: DFINE, recipe: Recipe, device: torch.device) -> bool:
    """Constants of frozen batch norms kept on a GPU, where each launch counts; compiled code needs no such thing."""
    from dfine_tools.forms import frozen_norms

    return device.type == "cuda" and not recipe.train.compile and frozen_norms.keep_constants(model)


def checkpoint_activations(model: DFINE, recipe: Recipe, device: torch.device) -> bool:
    """Activation checkpointing, where the recipe asks for it."""
    from dfine_tools.forms import activation_checkpointing

    if recipe.train.checkpoint_activations:
        activation_checkpointing.checkpoint_activations(model)
    return recipe.train.checkpoint_activations


def compile_model(model: DFINE, recipe: Recipe, device: torch.device) -> bool:
    """`torch.compile`, where the recipe asks for it."""
    from dfine_tools.forms import compilation

    if recipe.train.compile:
        compilation.compile_model(model)
    return recipe.train.compile


FORMS = (train_fast_on_cpu, synchronise_batch_norms, keep_frozen_constants, checkpoint_activations, compile_model)
