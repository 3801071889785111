"""Recipes by name: every published one and the teaching size, stated as differences from their parents.

Names are `{size}_{schedule}`: sizes n s m l x; schedules coco, obj365, obj2coco, ch (CrowdHuman), custom,
obj2custom. `pico` is the teaching recipe. Source: the authors' released configuration files.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from dfine_lib.config import SIZES, DataConfig, Recipe, TrainConfig
from dfine_lib.errors import DfineError

# What a size's own runs share. Left out: as D-FINE-L.
_SIZE_TRAIN: dict[str, dict[str, Any]] = {
    "n": dict(lr=8e-4, backbone_lr=4e-4, weight_decay=1e-4, decay_bias=False),
    "s": dict(lr=2e-4, backbone_lr=1e-4, weight_decay=1e-4, decay_bias=False),
    "m": dict(lr=2e-4, backbone_lr=2e-5, weight_decay=1e-4, decay_bias=False),
    "l": dict(),
    "x": dict(backbone_lr=2.5e-6),
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
    **{f"x_{s}": dict(ema_restart_decay=0.9998) for s in ("coco", "ch", "custom")},
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
    f"{size}_{schedule}": _published(size, schedule) for schedule, sizes in _LENGTH.items() for size in sizes
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
    """The recipe with fields replaced, by dotted name: `{"train.lr": 1e-3}`. Text is read as Python would read it.

    A batch size given here counts as chosen, whatever it is: `data.fit_batch_size` becomes false.

    Raises:
        ValueError: no such field (the nearest names are given), or a value of another type than the field's.
    """
    for name, value in settings.items():
        known = flat(recipe)
        if name not in known:
            raise DfineError(f"a recipe has no setting {name!r}; {_nearest(name, known)}")
        part, field = name.split(".")
        config = getattr(recipe, part)
        hint = get_type_hints(type(config))[field]
        try:
            fitting = _as_type(_literal(value) if isinstance(value, str) else value, hint)
        except (TypeError, ValueError, OverflowError) as error:
            wanted = hint if get_args(hint) else hint.__name__
            example = ", such as 320 or 384,640" if name == "data.image_size" else ""
            raise DfineError(f"{name} must be {wanted}{example}, got {value!r}") from error
        chosen = {"fit_batch_size": False} if name == "data.batch_size" else {}
        recipe = replace(recipe, **{part: replace(config, **{field: fitting}, **chosen)})
    return recipe


def _nearest(name: str, known: Iterable[str]) -> str:
    """What a person may have meant by an unknown name."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"did you mean {', '.join(near)}?" if near else f"known are {', '.join(known)}."


def _literal(text: str) -> Any:
    """The Python value that a text writes (none, true and false in any case), or the text itself."""
    try:
        return ast.literal_eval(text.capitalize() if text.lower() in ("none", "true", "false") else text)
    except (ValueError, SyntaxError):
        return text


def _as_type(value: Any, hint: Any) -> Any:
    """The value as that type: whole floats pass as int, ints as float, lists as tuples.

    Raises:
        TypeError, ValueError, OverflowError: it is of another type, or of another length than the tuple.
    """
    for option in get_args(hint) if isinstance(hint, UnionType) else (hint,):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if option in (int, float) and number and option(value) == value:
            return option(value)
        if get_origin(option) is tuple and isinstance(value, list | tuple):
            first, *rest = get_args(option)
            kinds = [first] * len(value) if rest == [Ellipsis] else [first, *rest]
            return tuple(_as_type(entry, kind) for entry, kind in zip(value, kinds, strict=True))
        if type(value) is option:
            return value
    raise TypeError(f"{value!r} is no {hint}")


def scaled(recipe: Recipe, batch: int) -> Recipe:
    """The recipe at another batch size: learning rates, EMA window, EMA ramp and warm-up keep their length in images.

    For a batch larger by the factor k: rates times k, EMA decay 1 - (1 - d) k, ramp and warm-up divided by k.
    """
    data, train = replace(recipe.data, batch_size=batch), recipe.train
    k = batch / recipe.data.batch_size
    decays = {"ema_decay": train.ema_decay, "ema_restart_decay": train.ema_restart_decay}
    train = replace(
        train,
        lr=train.lr * k,
        backbone_lr=train.backbone_lr * k,
        warmup_iterations=round(train.warmup_iterations / k),
        ema_ramp=round(train.ema_ramp / k),
        **{name: d if d is None else max(round(1 - (1 - d) * k, 12), 0.0) for name, d in decays.items()},
    )
    return replace(recipe, data=data, train=train)


def for_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe over another number of epochs; stage 2, where it has one, keeps its share of them, at least one."""
    train = recipe.train
    stop_epoch = train.stop_epoch
    if stop_epoch < train.epochs:
        stop_epoch = min(round(epochs * stop_epoch / train.epochs), epochs - 1)
    return replace(recipe, train=replace(train, epochs=epochs, stop_epoch=stop_epoch))


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
