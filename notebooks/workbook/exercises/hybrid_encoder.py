"""Checkers of lesson 11."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from dfine_lib.model.hybrid_encoder import position_embedding
from workbook.exercises.registry import Wrong, ask, exercise


@exercise("11.1")
def attention_memory(answer: Callable[..., Any]) -> None:
    """Bytes of the attention weights of all heads on one map."""
    for width, height, stride, heads in ((640, 640, 32, 8), (640, 640, 8, 8), (1280, 736, 16, 8), (160, 320, 32, 4)):
        tokens = (width // stride) * (height // stride)
        right = 4 * heads * tokens**2
        given = float(ask(answer, width, height, stride, heads))
        if not abs(given - right) < 0.5:
            raise Wrong(
                f"{width} x {height} px, stride {stride}, {heads} heads: {right:,} bytes, yours is {given:,.0f}"
            )


@exercise("11.2")
def one_head(answer: Callable[..., Any]) -> None:
    """What one head of attention gives."""
    generator = torch.Generator().manual_seed(11)
    for tokens, width in ((1, 4), (3, 2), (10, 8), (25, 12)):
        query, key, value = (2 * torch.randn(tokens, width, generator=generator) for _ in range(3))
        right = F.scaled_dot_product_attention(query[None], key[None], value[None])[0]
        given = torch.as_tensor(ask(answer, query.clone(), key.clone(), value.clone()), dtype=torch.float32)
        if given.shape != right.shape:
            raise Wrong(f"{tokens} tokens of width {width}: return {list(right.shape)}, yours is {list(given.shape)}")
        worst = float((given - right).abs().max())
        if not worst < 1e-4:
            raise Wrong(f"{tokens} tokens of width {width}: your numbers are up to {worst:.3f} off")


@exercise("11.3")
def cell_of_embedding(answer: Callable[..., Any]) -> None:
    """Row and column of the cell that a position embedding belongs to, noise added."""
    generator = torch.Generator().manual_seed(12)
    for height, width, dim in ((5, 5, 96), (20, 20, 128), (12, 30, 64), (30, 7, 256)):
        table = position_embedding(height, width, dim)[0]
        for token in torch.randint(height * width, (3,), generator=generator).tolist():
            noisy = table[token] + 0.02 * torch.randn(dim, generator=generator)
            given = ask(answer, noisy, height, width)
            row, column = (int(x) for x in given)
            if (row, column) != (token // width, token % width):
                cell = f"row {token // width}, column {token % width}"
                raise Wrong(f"map of {height} by {width} cells: the vector is of {cell}, you say {row}, {column}")
