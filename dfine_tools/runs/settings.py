"""Recipes of runs: settings as people write them, another batch size or length, the recipe of an earlier run."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import replace
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from dfine_lib.config import DataConfig, LossConfig, ModelConfig, Recipe, TrainConfig
from dfine_lib.errors import DfineError
from dfine_lib.recipes import changed


def with_settings(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """The recipe with fields replaced, by dotted name: `{"train.lr": "1e-3"}`; see `dfine_lib.recipes.changed`.

    Args:
        recipe: what is changed.
        settings: values, or the text that writes them; none, true and false in any case. Whole floats pass as int,
            ints as float, lists as tuples.

    Raises:
        ValueError: no such field (the nearest names are given), a value of another type than the field's, or one that
            is out of its range.
    """
    return changed(recipe, {name: _value(recipe, name, value) for name, value in settings.items()})


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


def recipe_from_dict(values: Mapping[str, Any]) -> Recipe:
    """The recipe of which `values` is `dataclasses.asdict`, back from JSON; missing fields get their defaults."""
    parts = {"model": ModelConfig, "loss": LossConfig, "data": DataConfig, "train": TrainConfig}
    made = {
        name: part(**{k: tuple(v) if isinstance(v, list) else v for k, v in values[name].items()})
        for name, part in parts.items()
    }
    return Recipe(name=values["name"], **made)


def _value(recipe: Recipe, name: str, value: Any) -> Any:
    """The value as its field has it; as it is where there is no such field, which `changed` reports."""
    part, _, field = name.partition(".")
    hint = get_type_hints(type(getattr(recipe, part, None))).get(field)
    if hint is None:
        return value
    try:
        return _as_type(_literal(value) if isinstance(value, str) else value, hint)
    except (TypeError, ValueError, OverflowError) as error:
        wanted = hint if get_args(hint) else hint.__name__
        example = ", such as 320 or 384,640" if name == "data.image_size" else ""
        raise DfineError(f"{name} must be {wanted}{example}, got {value!r}") from error


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
