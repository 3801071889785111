"""Scale and shift of frozen batch norms, computed once and not in every forward pass: 400 launches fewer in size l."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from dfine_lib.model.layers import FrozenBatchNorm2d


def keep_constants(model: nn.Module) -> bool:
    """Let every frozen batch norm of a model, and of its copies, keep its scale and shift; whether there is one.

    They are computed again when a buffer of the norm was replaced, as by `.to`, or written, as by `load_state_dict`.
    (What is written through `.data` goes unnoticed.)
    """
    norms = [module for module in model.modules() if isinstance(module, FrozenBatchNorm2d)]
    for norm in norms:
        norm.forward = functools.partial(_normalise, norm)
    return bool(norms)


def _normalise(norm: FrozenBatchNorm2d, x: Tensor) -> Tensor:
    scale, shift = _constants(norm)
    return torch.addcmul(shift, x, scale).to(x.dtype)


def _constants(norm: FrozenBatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift, `[C, 1, 1]` each, of the buffers as they are now."""
    buffers = list(norm.buffers())
    versions = [buffer._version for buffer in buffers]
    known = norm.__dict__.get("kept")
    if known is None or known[1] != versions or any(a is not b for a, b in zip(known[0], buffers, strict=True)):
        with torch.inference_mode(False), torch.no_grad():  # or the constants could not be used in training later
            constants = tuple(constant.view(-1, 1, 1) for constant in norm.scale_shift())
        norm.kept = known = (buffers, versions, constants)
    return known[2]
