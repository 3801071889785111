"""Recipes by name: every published one and the teaching size, stated as differences from their parents.

Names are `{size}_{schedule}`: sizes n s m l x; schedules coco, obj365, obj2coco, ch (CrowdHuman), custom,
obj2custom. `pico` is the teaching recipe. Source: the authors' released configuration files.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import Any

from dfine_lib.config import SIZES, DataConfig, Recipe, TrainConfig

# What a size's own runs share. Left out: as D-FINE-L.
_SIZE_TRAIN: dict[str, dict[str, Any]] = {
    "n": dict(lr=8e-4, backbone_lr=4e-4, weight_decay=1e-4, decay_bias=False),
    "s": dict(lr=2e-4, backbone_lr=1e-4, weight_decay=1e-4, decay_bias=False),
    "m": dict(lr=2e-4, backbone_lr=2e-5, weight_decay=1e-4, decay_bias=False),
    "l": dict(),
    "x": dict(backbone_lr=2.5e-6, ema_restart_decay=0.9998),
}
_SIZE_DATA: dict[str, dict[str, Any]] = {
    "n": dict(base_size_repeat=None, batch_size=128, eval_batch_size=256),
    "s": dict(base_size_repeat=20),
    "m": dict(base_size_repeat=6),
    "l": dict(),
    "x": dict(base_size_repeat=3),
}
# (epochs, first epoch of stage 2)
_LENGTH: dict[str, dict[str, tuple[int, int]]] = {
    "coco": {"n": (160, 148), "s": (132, 120), "m": (132, 120), "l": (80, 72), "x": (80, 72)},
    "obj365": {"n": (48, 500), "s": (36, 500), "m": (36, 500), "l": (24, 500), "x": (24, 500)},
    "obj2coco": {"n": (64, 56), "s": (64, 56), "m": (56, 48), "l": (36, 30), "x": (36, 30)},
    "ch": {"n": (220, 200), "s": (220, 200), "m": (220, 200), "l": (140, 120), "x": (140, 120)},
    "custom": {"n": (220, 200), "s": (220, 200), "m": (132, 120), "l": (80, 72), "x": (80, 72)},
    "obj2custom": {"s": (64, 56), "m": (56, 48), "l": (36, 30), "x": (36, 30)},
}
_CLASSES = {"coco": 80, "obj365": 366, "obj2coco": 80, "ch": 1, "custom": 777, "obj2custom": 777}
_BIGGER_STEPS = dict(lr=2.5e-4, weight_decay=1.25e-4)  # s and m, wherever they do not start from COCO's own schedule
_SCHEDULE_TRAIN: dict[str, dict[str, Any]] = {
    "obj365": dict(ema_restart_decay=None),
    "obj2coco": dict(warmup_iterations=0, ema_ramp=0),
    "obj2custom": dict(warmup_iterations=0, ema_ramp=0),
}
# One run's own settings, last word.
_OWN_TRAIN: dict[str, dict[str, Any]] = {
    "s_obj365": dict(_BIGGER_STEPS, backbone_lr=1.25e-4),
    "s_obj2coco": dict(_BIGGER_STEPS, backbone_lr=1.25e-4),
    "s_obj2custom": dict(_BIGGER_STEPS, backbone_lr=1.25e-4),
    "s_ch": dict(lr=4e-4, backbone_lr=2e-4),
    "s_custom": dict(lr=4e-4, backbone_lr=2e-4),
    **{f"m_{s}": dict(_BIGGER_STEPS, backbone_lr=2.5e-5) for s in _LENGTH if s != "coco"},
}
_OWN_DATA: dict[str, dict[str, Any]] = {
    "s_obj2coco": dict(base_size_repeat=10),
    "s_obj2custom": dict(base_size_repeat=10),
    "s_ch": dict(batch_size=64, eval_batch_size=128),
    "s_custom": dict(batch_size=64, eval_batch_size=128),
}


def _published(size: str, schedule: str) -> Recipe:
    name = f"{size}_{schedule}"
    epochs, stop_epoch = _LENGTH[schedule][size]
    train = _SIZE_TRAIN[size] | _SCHEDULE_TRAIN.get(schedule, {}) | _OWN_TRAIN.get(name, {})
    return Recipe(
        name=name,
        model=replace(SIZES[size], num_classes=_CLASSES[schedule]),
        data=DataConfig(**_SIZE_DATA[size] | _OWN_DATA.get(name, {})),
        train=TrainConfig(epochs=epochs, stop_epoch=stop_epoch, **train),
    )


_PICO = Recipe(
    name="pico",
    model=SIZES["pico"],
    data=DataConfig(
        image_size=160, base_size_repeat=None, photometric=0.0, zoom_out=0.0, iou_crop=0.0, batch_size=16, num_workers=1
    ),
    train=TrainConfig(
        epochs=24, stop_epoch=500, lr=1e-3, backbone_lr=1e-3, weight_decay=1e-4, decay_backbone_norm=False,
        decay_bias=False, ema_restart_decay=None, flat_fraction=0.5, clip_max_norm=1.0,
    ),
)  # fmt: skip

RECIPES: dict[str, Recipe] = {
    f"{size}_{schedule}": _published(size, schedule) for schedule, sizes in _LENGTH.items() for size in sizes
} | {"pico": _PICO}


def get_recipe(recipe: str | Recipe, **model_overrides: Any) -> Recipe:
    """The recipe of that name (or the recipe itself), with fields of its model replaced.

    Raises:
        ValueError: no such recipe (the nearest names are given) or no such model field.
    """
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            near = difflib.get_close_matches(recipe, RECIPES, n=3, cutoff=0.4)
            hint = f"did you mean {', '.join(near)}?" if near else f"known are {', '.join(RECIPES)}."
            raise ValueError(f"unknown recipe {recipe!r}; {hint}")
        recipe = RECIPES[recipe]
    if not model_overrides:
        return recipe
    try:
        return replace(recipe, model=replace(recipe.model, **model_overrides))
    except TypeError as error:
        raise ValueError(f"recipe {recipe.name!r}: {error}") from error
