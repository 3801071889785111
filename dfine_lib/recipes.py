"""Recipes by name: every published one and those of the teaching size.

Names are `{size}_{schedule}`: sizes n s m l x; schedules coco, obj365, obj2coco, ch (CrowdHuman), custom,
obj2custom. `pico` is the teaching recipe. Source: the authors' released configuration files.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from dfine_lib.config import SIZES, DataConfig, Recipe, TrainConfig
from dfine_lib.errors import DfineError

# Of each schedule: classes of the data set, and by size the epochs and the first no-augmentation epoch.
_SCHEDULES: dict[str, tuple[int, dict[str, tuple[int, int]]]] = {
    "coco": (80, {"n": (160, 148), "s": (132, 120), "m": (132, 120), "l": (80, 72), "x": (80, 72)}),
    "obj365": (366, {"n": (48, 500), "s": (36, 500), "m": (36, 500), "l": (24, 500), "x": (24, 500)}),
    "obj2coco": (80, {"n": (64, 56), "s": (64, 56), "m": (56, 48), "l": (36, 30), "x": (36, 30)}),
    "ch": (1, {"n": (220, 200), "s": (220, 200), "m": (220, 200), "l": (140, 120), "x": (140, 120)}),
    "custom": (777, {"n": (220, 200), "s": (220, 200), "m": (132, 120), "l": (80, 72), "x": (80, 72)}),
    "obj2custom": (777, {"s": (64, 56), "m": (56, 48), "l": (36, 30), "x": (36, 30)}),
}
# Of a run, or of all other runs of a size: batch size, base_size_repeat, lr, backbone_lr, weight_decay.
_SETTINGS: dict[str, tuple[int, int | None, float, float, float]] = {
    "n": (128, None, 8e-4, 4e-4, 1e-4),
    "s_coco": (32, 20, 2e-4, 1e-4, 1e-4),
    "s_obj365": (32, 20, 2.5e-4, 1.25e-4, 1.25e-4),
    "s_obj2coco": (32, 10, 2.5e-4, 1.25e-4, 1.25e-4),
    "s_obj2custom": (32, 10, 2.5e-4, 1.25e-4, 1.25e-4),
    "s": (64, 20, 4e-4, 2e-4, 1e-4),
    "m_coco": (32, 6, 2e-4, 2e-5, 1e-4),
    "m": (32, 6, 2.5e-4, 2.5e-5, 1.25e-4),
    "l": (32, 4, 2.5e-4, 1.25e-5, 1.25e-4),
    "x": (32, 3, 2.5e-4, 2.5e-6, 1.25e-4),
}


def _published(size: str, schedule: str) -> Recipe:
    name, (num_classes, lengths) = f"{size}_{schedule}", _SCHEDULES[schedule]
    batch_size, base_size_repeat, lr, backbone_lr, weight_decay = _SETTINGS.get(name) or _SETTINGS[size]
    train = TrainConfig(
        epochs=lengths[size][0], stop_epoch=lengths[size][1], lr=lr, backbone_lr=backbone_lr,
        weight_decay=weight_decay, decay_bias=size in ("l", "x"),
    )  # fmt: skip
    if schedule == "obj365":
        train = replace(train, ema_restart_decay=None)
    elif schedule.startswith("obj2"):  # from weights that have learned already
        train = replace(train, warmup_iterations=0, ema_ramp=0)
    elif size == "x":
        train = replace(train, ema_restart_decay=0.9998)
    return Recipe(
        name=name,
        model=replace(SIZES[size], num_classes=num_classes),
        data=DataConfig(batch_size=batch_size, eval_batch_size=2 * batch_size, base_size_repeat=base_size_repeat),
        train=train,
    )


# The teaching recipes: 160 px images, light augmentation, minutes on a laptop CPU.
_PICO = Recipe(
    name="pico",
    model=SIZES["pico"],
    data=DataConfig(
        image_size=160, base_size_repeat=None, photometric=0.0, zoom_out=0.0, iou_crop=0.0, batch_size=16, num_workers=1
    ),
    train=TrainConfig(
        epochs=4, stop_epoch=500, lr=1e-3, backbone_lr=1e-3, weight_decay=1e-4, decay_backbone_norm=False,
        decay_bias=False, ema_restart_decay=None, flat_fraction=0.5,
    ),
)  # fmt: skip
# Fine-tuning of the teaching checkpoint, on anything and on digits, which must not be mirrored.
_PICO_CUSTOM = replace(
    _PICO,
    name="pico_custom",
    train=replace(_PICO.train, epochs=5, lr=8e-4, backbone_lr=4e-4, flat_fraction=0.3),
)
_PICO_DIGITS = replace(_PICO_CUSTOM, name="pico_digits", data=replace(_PICO.data, flip=0.0))

RECIPES: dict[str, Recipe] = {
    f"{size}_{schedule}": _published(size, schedule) for schedule, (_, sizes) in _SCHEDULES.items() for size in sizes
} | {recipe.name: recipe for recipe in (_PICO, _PICO_CUSTOM, _PICO_DIGITS)}


def get_recipe(recipe: str | Recipe, **model_overrides: Any) -> Recipe:
    """The recipe of that name (or the recipe itself), with fields of its model replaced.

    Raises:
        ValueError: no such recipe (the nearest names are given) or no such model field.
    """
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise DfineError(f"unknown recipe {recipe!r}; {_nearest(recipe.lower(), RECIPES)}")
        recipe = RECIPES[recipe]
    if not model_overrides:
        return recipe
    try:
        return replace(recipe, model=replace(recipe.model, **model_overrides))
    except TypeError as error:
        raise DfineError(f"recipe {recipe.name!r}: {error}") from error


def flat(recipe: Recipe) -> dict[str, Any]:
    """Every field under its dotted name, as `train.lr`; the name of the recipe aside."""
    parts = {part: config for part, config in vars(recipe).items() if part != "name"}
    return {f"{part}.{field}": value for part, config in parts.items() for field, value in vars(config).items()}


def changed(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """The recipe with fields replaced, by dotted name: `{"train.lr": 1e-3}`.

    A batch size given here counts as chosen, whatever it is: `data.fit_batch_size` becomes false.

    Raises:
        ValueError: no such field (the nearest names are given), or a value out of the field's range.
    """
    for name, value in settings.items():
        known = flat(recipe)
        if name not in known:
            raise DfineError(f"a recipe has no setting {name!r}; {_nearest(name, known)}")
        part, field = name.split(".")
        chosen = {"fit_batch_size": False} if name == "data.batch_size" else {}
        recipe = replace(recipe, **{part: replace(getattr(recipe, part), **{field: value}, **chosen)})
    return recipe


def _nearest(name: str, known: Iterable[str]) -> str:
    """What a person may have meant by an unknown name."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"did you mean {', '.join(near)}?" if near else f"known are {', '.join(known)}."


def adapted_to_length(recipe: Recipe, steps: int) -> Recipe:
    """The recipe with a warm-up and an EMA window that fit into a run of so many optimizer steps.

    The published numbers are made for runs of 100,000 steps and more. On 1,000 steps an EMA without a ramp (that of
    fine-tuning) still consists of the initial weights for the greater part, and finds nothing; one with the published
    ramp looks back over a step or two, and averages nothing. So, unless the recipe says otherwise:

    - a warm-up longer than a tenth of the run becomes that tenth, at most 500 steps;
    - an EMA window 1 / (1 - decay) longer than two fifths of the run becomes a twentieth (decay at least 0.9), the ramp
      shrinks with it;
    - the second stage of such a run continues from the end of the first: returning to its best would undo most of it;
    - where the window had to shrink, a rate that is flat to the end falls along a cosine over the second half.

    Returns:
        The recipe itself where nothing has to change: run long enough, `faithful`, or `adapt_to_length` off.
    """
    if steps < 1:
        raise DfineError(f"a run needs at least 1 step, got {steps}")
    train, changes = recipe.train, {}
    if train.faithful or not train.adapt_to_length:
        return recipe
    if train.warmup_iterations > steps / 10:
        changes["warmup_iterations"] = min(max(steps // 10, 1), 500)
    window = 1 / (1 - train.ema_decay)
    shorter = max(steps / 20, 10)
    if window > max(0.4 * steps, 10):  # every published run on its own data stays as it was
        changes["ema_decay"] = round(1 - 1 / shorter, 12)
        changes["ema_ramp"] = round(train.ema_ramp * shorter / window)
        changes["ema_restart_decay"] = None
        if train.flat_fraction == 1.0:
            changes["flat_fraction"] = 0.5
    return replace(recipe, train=replace(train, **changes)) if changes else recipe
