"""Models filled with the golden weights, and what the golden files say of them."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import torch
from fill import fill_state_dict, target_boxes
from torch import Tensor, nn

from dfine_lib import DFINE

HERE = Path(__file__).parent
SIZES = ("n", "s", "m", "l", "x")
DERIVED = ("anchors", "valid_mask")  # last parts of keys that published files hold and the model drops


def read(name: str) -> dict:
    """A golden JSON file."""
    return json.loads((HERE / name).read_text())


@lru_cache(maxsize=1)
def published_state(size: str, seed: int = 1) -> dict[str, Tensor]:
    """A state dict as published for that size: same keys and shapes, derived entries included, filled from the seed."""
    shapes = read(f"manifest_{size}.json")["state_dict"]
    filled = fill_state_dict({key: torch.zeros(shape) for key, shape in shapes.items()}, seed)
    for key in filled:
        leaf = key.rsplit(".", 1)[-1]
        if leaf == "up":
            filled[key] = torch.tensor([0.5])
        elif leaf == "reg_scale":
            filled[key] = torch.tensor([8.0 if size == "x" else 4.0])
    return filled


def golden_model(size: str, **model_overrides: int) -> DFINE:
    """A model of that size with the golden weights."""
    model = DFINE.from_recipe(f"{size}_coco", **model_overrides)
    model.load_state_dict(dict(published_state(size)))
    return model


def filled(model: nn.Module, seed: int = 1) -> nn.Module:
    """The model with every weight and statistic drawn from the seed: no zero heads, no layer that does nothing."""
    model.load_state_dict(fill_state_dict(model.state_dict(), seed))
    return model


def as_targets(counts: list[int], num_classes: int = 80, seed: int = 301) -> list[dict[str, Tensor]]:
    """Labels and boxes of a batch, so many boxes an image."""
    return [{k: torch.from_numpy(v) for k, v in t.items()} for t in target_boxes(counts, num_classes, seed)]
