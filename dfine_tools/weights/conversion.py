"""What a weights file holds, and the same weights in another form: what `dfine weights` calls."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dfine_lib.config import DataConfig, Recipe
from dfine_lib.files import write_atomically
from dfine_lib.model.class_rows import of_heads
from dfine_lib.model.decoder import make_anchors
from dfine_lib.model.dfine import DFINE, open_model
from dfine_lib.model.weights import Weights, WeightsError, save_weights
from dfine_lib.recipes import SIZES, get_recipe
from dfine_tools.weights.categories import OBJECTS365, PUBLISHED_IDS
from dfine_tools.weights.huggingface import only_ours, save_huggingface
from dfine_tools.weights.named_rows import named_rows, take_rows, with_usable_names
from dfine_tools.weights.sources import read


def describe_weights(source: str | Path) -> dict[str, Any]:
    """What is in a weights file: its form, size, classes, parameters.

    Raises:
        WeightsError: missing, damaged, or no weights.
    """
    weights = read(source, unnamed_rows=True)
    state = {key: value for key, value in weights.state_dict.items() if value.is_floating_point()}
    about: dict[str, Any] = {"file": str(weights.path), "entries": len(weights.state_dict)}
    about["numbers"] = sum(value.numel() for value in state.values())
    if weights.backbone_only:
        return about | {"model": "a backbone alone"}
    about["model"] = _size_of(weights) or "none of the published sizes"
    about["classes"] = weights.num_classes
    named = [name for name in weights.category_names if name]
    if len(named) < len(weights.category_names):
        about["classes"], about["rows of no class"] = len(named), len(weights.category_names) - len(named)
    about["class names"] = ", ".join(named[:10]) + (" …" if len(named) > 10 else "") if named else "not in the file"
    if weights.data is not None:
        about["image size"] = weights.data.image_size
    return about


def convert_weights(
    source: str | Path,
    out: str | Path,
    *,
    recipe: str | Recipe | None = None,
    names: Sequence[str] = (),
    image_size: int | tuple[int, int] | None = None,
    half: bool = False,
) -> Path:
    """Write weights in another form; of a training checkpoint only the EMA weights are taken.

    Args:
        source: any source of weights.
        out: `….safetensors` for ours, `….pth` for the authors' code, anything else is a folder for Hugging Face's.
        recipe: the model, where neither the file nor its shapes tell it.
        names: of the classes, in the order of their rows, where the file does not hold them; "" for a row that stands
            for no class. Ours is written without such rows.
        image_size: side of the input, or (height, width), where the file does not hold it; 640 otherwise.
        half: floating-point numbers of 16 bits (ours only).

    Returns:
        What was written.

    Raises:
        WeightsError: no such weights, or nobody knows of which model; a wrong number of names; a model that only this
            library builds, for another than ours.
    """
    weights, out = read(source, unnamed_rows=True), Path(out)
    weights = replace(weights, model=weights.model_config(None if recipe is None else get_recipe(recipe).model))
    if (unknown := only_ours(weights.model)) and out.suffix != ".safetensors":
        raise WeightsError(
            f"{source}: trained with {unknown}, which neither the authors' code nor Hugging "
            f"Face's port can build. Only ours can hold it: {out.with_suffix('.safetensors')}."
        )
    if names:
        weights = _named(weights, tuple(names))
    weights = _in_order_of(out, weights)
    names = weights.category_names
    model, _ = open_model(weights)
    data = weights.data or DataConfig()
    if image_size is not None:
        data = replace(data, image_size=image_size)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".safetensors":
        ids = weights.category_ids or PUBLISHED_IDS.get(names, ())  # never made up: unknown ids stay unknown
        return save_weights(out, model, data=data, category_names=names, category_ids=ids, half=half)
    if out.suffix == ".pth":
        buffer = io.BytesIO()
        torch.save({"model": _with_anchors(model, data)}, buffer)
        write_atomically(out, buffer.getvalue())
        return out
    return save_huggingface(out, model, data=data, names=names)


def _named(weights: Weights, names: tuple[str, ...]) -> Weights:
    """With these names, instead of those that the file holds; empty ones beyond the last row do not count."""
    if not any(names[weights.num_classes :]):
        names = names[: weights.num_classes]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice or len(names) != weights.num_classes or not any(names):
        why = f"{twice[0]!r} is there twice" if twice else f"{weights.num_classes} classes, but {len(names)} names"
        raise WeightsError(f"{weights.path}: {why} for them. Give one name a class row; an empty one is of no class.")
    return with_usable_names(replace(weights, category_names=names))


def _in_order_of(out: Path, weights: Weights) -> Weights:
    """Class rows as a form has them: ours those with names alone; Objects365's of others begin with one of no class."""
    names = weights.category_names
    classes = tuple(name for name in names if name)
    if out.suffix == ".safetensors":
        return named_rows(weights)
    if classes != OBJECTS365:
        return weights
    model = replace(weights.model, num_classes=len(classes) + 1)
    named = [i for i, name in enumerate(names) if name]
    if "" in names:
        state = take_rows(weights.state_dict, [names.index(""), *named])
    else:
        state = _with_unused_row(weights.state_dict, named)
    return replace(weights, state_dict=state, model=model, category_names=("", *classes))


def _with_unused_row(state: Mapping[str, torch.Tensor], named: Sequence[int]) -> dict[str, torch.Tensor]:
    """Class rows after a row 0 that is never detected."""
    state = take_rows(state, [named[0], *named])
    for key in state:
        if of_heads(key):
            state[key][0] = -10.0 if key.endswith("bias") else 0.0  # a score of 0.00005
        elif "denoising_class_embed" in key:
            state[key][0] = 0.0
    return state


def _with_anchors(model: DFINE, data: DataConfig) -> dict[str, torch.Tensor]:
    """Our entries and the two that the authors' code derives from its input size and wants to find."""
    height, width = data.image_hw
    shapes = [(height // stride, width // stride) for stride in model.config.feat_strides]
    anchors, valid = make_anchors(shapes)
    return dict(model.state_dict()) | {"decoder.anchors": anchors, "decoder.valid_mask": valid}


def _size_of(weights: Weights) -> str | None:
    if weights.model is None:
        return None
    backbones = {(config.backbone, config.encoder_dim): size for size, config in SIZES.items()}
    return backbones.get((weights.model.backbone, weights.model.encoder_dim))
