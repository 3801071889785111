"""The stem's maximum of equal cells has one gradient, on every device."""

from __future__ import annotations

import torch
from fake_cuda import CUDA, fake_cuda

from dfine_lib.model.hgnetv2 import max_2x2


def test_the_first_of_equal_cells_gets_the_gradient():
    """In bf16 equal cells are frequent; `torch.maximum` would give each half."""
    x = torch.zeros(1, 1, 3, 3, requires_grad=True)
    max_2x2(x).sum().backward()
    assert x.grad[0, 0].tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    with fake_cuda():
        on_cuda = max_2x2(torch.zeros(1, 1, 3, 3, device=CUDA, requires_grad=True))
    assert on_cuda.grad_fn.name().startswith("MaxPool2D"), "another operation than the one that is checked above"
