"""torch.compile for training and evaluation: few shapes, and never the reason why a run ends."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

log = logging.getLogger(__name__)
Result = TypeVar("Result")
MOST_SHAPES = 64  # a dozen sides of multi-scale, in training and in evaluation, and the last batch's size


def compile_model(model: nn.Module, backend: str = "inductor") -> None:
    """Compile backbone, encoder and the decoder's layers in place; each new input shape is compiled when it is met.

    Query selection, denoising queries and losses stay as they are: their shapes follow the boxes of a batch. Denoising
    queries are padded from now on, so that what is compiled sees one number of them. Copies of the model are compiled
    too. The state dict does not change.

    Args:
        model: a `DFINE`.
        backend: of `torch.compile`.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_SHAPES)
    try:
        for module, name in _parts(model):
            compiled = torch.compile(getattr(type(module), name), dynamic=False, backend=backend)
            setattr(module, name, functools.partial(compiled, module))
    except RuntimeError as error:  # as of a Python that torch cannot compile yet
        make_eager(model)
        _tell(error)
        return
    model.decoder.denoising_multiple = 2 * model.config.num_denoising


def is_compiled(model: nn.Module) -> bool:
    """Whether `compile_model` was called, and no compilation has failed since."""
    return hasattr(model, "decoder") and any(name in vars(module) for module, name in _parts(model))


def or_eager(model: nn.Module, function: Callable[..., Result], *arguments: Any) -> Result:
    """`function(*arguments)`, which runs the model; if that fails, once more without compiling, which then is for good.

    Where only the compiled model fails, one warning says why. What fails either way is raised as it is.
    """
    if not is_compiled(model):
        return function(*arguments)
    try:
        return function(*arguments)
    except Exception as error:  # of a compiler, or of what it made: it may be of any kind
        failure = error
    make_eager(model)
    result = function(*arguments)
    _tell(failure)
    return result


def _parts(model: nn.Module) -> list[tuple[nn.Module, str]]:
    return [(model.backbone, "forward"), (model.encoder, "forward"), (model.decoder, "_refine")]


def make_eager(model: nn.Module) -> None:
    """Take back what `compile_model` did."""
    for module, name in _parts(model):
        vars(module).pop(name, None)
    model.decoder.denoising_multiple = 0


def _tell(error: Exception) -> None:
    error = getattr(error, "inner_exception", error)
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    log.warning("torch.compile failed (%s); this goes on without it, with the same results, only not as fast", reason)
