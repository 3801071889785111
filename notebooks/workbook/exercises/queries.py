"""Checkers of lesson 13."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dfine_lib.model.denoising import denoising_mask
from workbook.exercises.registry import Wrong, ask, exercise, near, numbers


@exercise("13.1")
def padding(answer: Callable[[list[int], int], int]) -> None:
    """Denoising queries of a batch that stand for no box."""
    for counts, wanted in (([3, 1], 24), ([5, 5], 100), ([40, 0, 7], 100), ([2], 7), ([150, 149], 100)):
        groups = max(1, wanted // max(counts))
        right = sum(2 * groups * (max(counts) - count) for count in counts)
        given = ask(answer, list(counts), wanted)
        if isinstance(given, bool) or given != right:
            raise Wrong(
                f"with {counts} boxes and {wanted} positives wanted, {right} queries are padding, you say {given}"
            )


@exercise("13.2")
def anchor_of(answer: Callable[..., Any]) -> None:
    """Anchor box of a token, by its number."""
    sizes = [(6, 8), (3, 4), (2, 2)]
    for token in (0, 7, 8, 47, 48, 53, 59, 60, 63):
        rest, level = token, 0
        while rest >= sizes[level][0] * sizes[level][1]:
            rest -= sizes[level][0] * sizes[level][1]
            level += 1
        h, w = sizes[level]
        right = [(rest % w + 0.5) / w, (rest // w + 0.5) / h, 0.05 * 2**level, 0.05 * 2**level]
        given = numbers(ask(answer, token, list(sizes)), 4, "cx, cy, width and height")
        for name, a, b in zip(("cx", "cy", "width", "height"), given, right):
            near(a, b, 1e-4, f"token {token} of maps {sizes} (height, width): {name} is {b:.4f}, yours is {a:.4f}")


@exercise("13.3")
def reaches(answer: Callable[..., Any]) -> None:
    """Whether anything of one query can reach another within some layers of self-attention."""
    mask = denoising_mask(2, 3, 4)  # three groups of four, then four matching queries
    chain = torch.eye(5, dtype=torch.bool)  # each query sees itself and the one before it
    chain[1:, :-1] |= torch.eye(4, dtype=torch.bool)
    cases = (
        ("the library's mask", mask, 0, 13, 6, False),
        ("the library's mask", mask, 13, 0, 1, True),
        ("the library's mask", mask, 0, 4, 6, False),
        ("the library's mask", mask, 0, 3, 1, True),
        ("a chain in which each query sees the one before it", chain, 0, 4, 3, False),
        ("a chain in which each query sees the one before it", chain, 0, 4, 4, True),
        ("a chain in which each query sees the one before it", chain, 0, 4, 9, True),
        ("a chain in which each query sees the one before it", chain, 4, 0, 9, False),
        ("a chain in which each query sees the one before it", chain, 1, 2, 1, True),
    )
    for name, mask, source, target, layers, right in cases:
        given = bool(ask(answer, mask.clone(), source, target, layers))
        if given != right:
            raise Wrong(
                f"{name}: within {layers} layers, {'something' if right else 'nothing'} of query {source} reaches "
                f"query {target}; you say {given}"
            )
