"""Activation checkpointing: training in less memory, at the price of a second forward pass.

Source: Training Deep Nets with Sublinear Memory Cost (arXiv 1604.06174).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from dfine_lib.model.dfine import DFINE


def checkpoint_activations(model: DFINE) -> None:
    """Keep, of each part, its inputs only; what is inside is computed again when the backward pass comes to it.

    The parts: stem and stages of the backbone, fusion blocks of the encoder, layers of the decoder. Losses, gradients
    and running statistics are those of a plain step. The state dict does not change.

    Args:
        model: changed in place; evaluation is not affected.
    """
    encoder, decoder = model.encoder, model.decoder.decoder
    for part in (
        model.backbone.stem,
        *model.backbone.stages,
        *encoder.fpn_blocks,
        *encoder.pan_blocks,
        *decoder.layers,
    ):
        part.forward = functools.partial(_checkpointed, part, vars(part).get("forward"))


def _checkpointed(part: nn.Module, other_form: Callable[..., Any] | None, *inputs: Any) -> Any:
    forward = other_form or functools.partial(type(part).forward, part)
    if not (part.training and torch.is_grad_enabled()):
        return forward(*inputs)
    # Nothing inside draws random numbers, so there is no random state to keep.
    return checkpoint(
        forward, *inputs, use_reentrant=False, preserve_rng_state=False,
        context_fn=lambda: (contextlib.nullcontext(), _statistics_kept(part)),
    )  # fmt: skip


@contextlib.contextmanager
def _statistics_kept(part: nn.Module) -> Iterator[None]:
    """The second pass leaves running statistics alone: a batch counts 0 in them, and is not counted.

    Otherwise norms do what they did in the first pass: `checkpoint` refuses a second pass that keeps other tensors.
    """
    norms = [m for m in part.modules() if isinstance(m, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)
