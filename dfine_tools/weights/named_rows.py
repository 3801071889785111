"""Class rows of a weights file and their names: which names are used, and the rows that stand for a class."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dfine_lib.model.class_rows import by_class, of_heads
from dfine_lib.model.weights import Weights
from dfine_tools.weights.categories import OBJECTS365

log = logging.getLogger(__name__)


def with_usable_names(weights: Weights) -> Weights:
    """The weights with a name for each class row, "" for a row of no class, or without names.

    Names of another number than there are class rows are dropped, and so are placeholders such as `LABEL_0`, which
    Hugging Face's port writes where it knows no names; and category ids of another number than there are names.
    """
    names, num_rows = weights.category_names, weights.num_classes or 0
    if len(names) == len(OBJECTS365) == num_rows - 1:
        names = (*names, "")  # trained by an earlier version: the row that stands for no class is last
    if not any(names) or names == tuple(f"LABEL_{i}" for i in range(num_rows)):
        names = ()
    elif len(names) != num_rows:
        words = "%s: has %d class rows and %d class names, so the names are not used"
        log.warning(words, weights.path, num_rows, len(names))
        names = ()
    known_ids = len(weights.category_ids) == sum(map(bool, names))
    return replace(weights, category_names=names, category_ids=weights.category_ids if known_ids else ())


def take_rows(state: Mapping[str, Tensor], rows: Sequence[int]) -> dict[str, Tensor]:
    """The state dict with these class rows only, in this order."""
    index = torch.tensor(rows, dtype=torch.int64)
    taken = dict(state)
    for key, value in state.items():
        if of_heads(key):
            taken[key] = value[index]
        elif by_class(key):  # the denoising embedding, whose last row is for padding
            taken[key] = torch.cat([value[index], value[-1:]])
    return taken


def named_rows(weights: Weights) -> Weights:
    """Only the class rows that have names; all of them where the file names none."""
    named = [i for i, name in enumerate(weights.category_names) if name]
    if len(named) == len(weights.category_names):
        return weights
    return replace(
        weights,
        state_dict=take_rows(weights.state_dict, named),
        category_names=tuple(weights.category_names[i] for i in named),
        model=weights.model and replace(weights.model, num_classes=len(named)),
    )
