"""torch.compile for training and evaluation: few shapes, and a machine that cannot compile goes on without."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
import torch._functorch.config  # not loaded by `import torch`
import torch.nn.functional as F
from torch import Tensor, nn

from dfine_lib.model.decoder import DFINEDecoder
from dfine_lib.model.outputs import DecoderOutput

log = logging.getLogger(__name__)
MOST_SHAPES = 64  # a dozen sides of multi-scale, in training and in evaluation, and the last batch's size


def compile_model(model: nn.Module, backend: str = "inductor") -> None:
    """Compile backbone, encoder and the decoder's layers in place; each new input shape is compiled when it is met.

    Query selection, denoising queries and losses stay as they are: their shapes follow the boxes of a batch. Padding
    queries follow the others, so that the compiled decoder meets one number of queries. Copies of the model are
    compiled too. The state dict does not change.

    Where compiling fails, one warning says why, and the model and its copies go on without, with the same results.
    Only the call of the part that failed is made again, before anything else has seen it: no step is repeated. Nothing
    is made again where batch norms are synchronised, since other processes may have answered already, nor where memory
    ran out: those errors are raised, and a run resumes from its last state when it is started without compiling.

    Args:
        model: a `DFINE`.
        backend: of `torch.compile`.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_SHAPES)
    # The backward pass is compiled with the forward pass, so that it fails there, where a call can be made again.
    if hasattr(torch._functorch.config, "force_non_lazy_backward_lowering"):  # older releases compile it when it runs
        torch._functorch.config.force_non_lazy_backward_lowering = True
    compilation = _Compilation(model)
    model.compiled = True
    try:
        for module, name in _parts(model):
            compiled = torch.compile(getattr(type(module), name), dynamic=False, backend=backend)
            setattr(module, name, functools.partial(_call, module, compilation, name, compiled))
    except RuntimeError as error:  # as of a Python that torch cannot compile yet
        compilation.fail(_in_words(error))
        return
    model.decoder.refine = functools.partial(_refine_padded, model.decoder, model.decoder.refine)


def is_compiled(model: nn.Module) -> bool:
    """Whether `compile_model` was called, and no compilation has failed since."""
    return getattr(model, "compiled", False)


def make_eager(model: nn.Module) -> None:
    """Take back what `compile_model` did."""
    for module, name in _parts(model):
        vars(module).pop(name, None)
    model.compiled = False


class _Compilation:
    """What a compiled model and its copies share: what was compiled already, and whether that has failed."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.failed = model, False
        self.seen: set[tuple[Any, ...]] = set()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Compilation:
        return self

    def fail(self, reason: str) -> None:
        """Compile nothing from now on, and say why."""
        self.failed = True
        make_eager(self.model)
        log.warning("torch.compile failed (%s); this goes on without it, with the same results, only slower", reason)


def _parts(model: nn.Module) -> list[tuple[nn.Module, str]]:
    return [(model.backbone, "forward"), (model.encoder, "forward"), (model.decoder, "refine")]


def _refine_padded(
    decoder: DFINEDecoder, refine: Callable[..., DecoderOutput], content: Tensor, reference: Tensor,
    levels: list[Tensor], attn_mask: Tensor | None, keep_layers: bool,
) -> DecoderOutput:  # fmt: skip
    """`refine` with padding queries, to which no other query attends.

    Compiled code is made for one number of queries, and the number of denoising queries follows the boxes of a batch.
    """
    if attn_mask is None:
        return refine(content, reference, levels, None, keep_layers)
    length, config = content.shape[1], decoder.config
    more = (config.num_queries - length) % (2 * config.num_denoising)
    content, reference = (F.pad(x, (0, 0, 0, more)) for x in (content, reference))
    # Padding queries attend to every query: a row of the mask without any true value would give NaN.
    attn_mask = F.pad(F.pad(attn_mask, (0, more)), (0, 0, 0, more), value=True)
    return refine(content, reference, levels, attn_mask, keep_layers).split(length)[0]


def _call(
    module: nn.Module, compilation: _Compilation, name: str, compiled: Callable[..., Any], *arguments: Any
) -> Any:
    """A part of the model, compiled; plain where compiling it for these shapes fails."""
    plain = getattr(type(module), name)
    if compilation.failed:
        return plain(module, *arguments)
    key = (id(module), module.training, torch.is_grad_enabled(), *map(_shapes, arguments))
    # What has run once is compiled: an error that comes later is none of the compiler.
    if key in compilation.seen or any(isinstance(part, nn.SyncBatchNorm) for part in module.modules()):
        return compiled(module, *arguments)
    buffers = list(module.buffers()) if module.training else []
    before = [buffer.clone() for buffer in buffers]
    try:
        result = compiled(module, *arguments)
        compilation.seen.add(key)
        return result
    except Exception as error:  # of a compiler, or of what it made: it may be of any kind
        failure = getattr(error, "inner_exception", error)
        if isinstance(failure, torch.cuda.OutOfMemoryError | MemoryError):
            raise failure from None  # itself, not the compiler's error around it
        reason = _in_words(failure)
        del failure  # or the frames of the failed call would stay, and their tensors
    for buffer, value in zip(buffers, before, strict=True):  # running statistics may have moved before the error
        buffer.copy_(value)
    result = plain(module, *arguments)  # what fails either way is raised as it is
    compilation.fail(reason)
    return result


def _shapes(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_shapes, value))
    return (value.shape, value.dtype) if isinstance(value, Tensor) else value


def _in_words(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
