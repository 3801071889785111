"""CUDA without a GPU: tensors that have a device, a type and a shape, and no numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

CUDA = torch.device("cuda", 0)


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Operations compute devices, types and shapes alone; tensors of two devices in one operation are an error.

    What the host reads is the one thing that needs numbers. `numpy()` of a fake tensor gives random ones, so matching
    solves real assignments; any other read (`item`, `tolist`, a boolean index) is an error, as torch has it.
    """
    numbers = np.random.default_rng(0)

    def read(tensor: Tensor) -> np.ndarray:
        assert tensor.device.type == "cpu", "numpy() of a tensor on a GPU is an error"
        shape = tuple(tensor.shape)
        return numbers.random(shape, np.float32) if tensor.is_floating_point() else np.zeros(shape, np.int64)

    # Real tensors are what `torch.from_numpy` makes, on the CPU: each becomes fake in its first operation.
    with pytest.MonkeyPatch.context() as patch, FakeTensorMode(allow_non_fake_inputs=True):
        patch.setattr(FakeTensor, "numpy", read, raising=False)
        patch.setattr(Tensor, "pin_memory", lambda tensor, *_: tensor)  # by the driver
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)  # or autocast is left out
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
        yield


def moved(model: nn.Module, device: torch.device = CUDA) -> nn.Module:
    """Put fake tensors in the place of all parameters and buffers, which `Module.to` cannot do for real ones."""
    known: dict[int, Tensor] = {}  # a parameter that two modules share stays one
    for module in model.modules():
        for own in (module._parameters, module._buffers):
            for name, real in own.items():
                if real is not None:
                    own[name] = known.setdefault(id(real), _like(real, device))
    return model


def _like(real: Tensor, device: torch.device) -> Tensor:
    fake = torch.empty_strided(real.shape, real.stride(), dtype=real.dtype, device=device)
    return nn.Parameter(fake, real.requires_grad) if isinstance(real, nn.Parameter) else fake


def gradients(loss: Tensor) -> dict[Tensor, Tensor]:
    """Gradients of all leaves, by running the nodes of the graph one by one: autograd's engine wants a CUDA driver.

    As in the engine, what a node gives is summed to the shape and cast to the type of where it goes. A gradient on
    another device than its tensor is an error.
    """
    waiting: dict[Any, list[Tensor | None]] = {loss.grad_fn: [torch.ones_like(loss)]}
    found: dict[Tensor, Tensor] = {}
    with torch.no_grad():
        for node in _in_order(loss.grad_fn):
            arrived = waiting.pop(node, None)
            if arrived is None:
                continue
            if hasattr(node, "variable"):
                found[node.variable] = arrived[0]
                continue
            given = getattr(node, "apply", node)(*arrived)  # `apply`: of functions that are written in Python
            given = given if isinstance(given, tuple) else (given,)
            for (target, index), gradient in zip(node.next_functions, given, strict=True):
                if target is None or gradient is None:
                    continue
                wanted = target._input_metadata[index]
                assert gradient.device == wanted.device, f"{node.name()} gives {gradient.device} for {wanted.device}"
                if gradient.shape != wanted.shape:
                    gradient = gradient.sum_to_size(tuple(wanted.shape))
                gradient = gradient.to(wanted.dtype)
                slots = waiting.setdefault(target, [None] * len(target._input_metadata))
                slots[index] = gradient if slots[index] is None else slots[index] + gradient
    return found


def _in_order(root: Any) -> list[Any]:
    """All nodes that a node leads to, each before those that it leads to."""
    ended: list[Any] = []
    seen = set()
    stack = [(root, False)]
    while stack:
        node, after = stack.pop()
        if after:
            ended.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(target, False) for target, _ in node.next_functions if target is not None]
    return ended[::-1]
