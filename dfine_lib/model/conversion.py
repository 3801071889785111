"""What a weights file holds, and the same weights in another form: what `dfine weights` calls."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dfine_lib.categories import published_ids
from dfine_lib.config import DataConfig, Recipe
from dfine_lib.files import write_atomically
from dfine_lib.model.decoder import make_anchors
from dfine_lib.model.dfine import DFINE
from dfine_lib.model.huggingface import save_huggingface
from dfine_lib.model.weights import (
    CLASS_EMBEDDING,
    CLASS_ROWS,
    Weights,
    WeightsError,
    load_weights,
    read_weights,
    save_weights,
)  # fmt: skip
from dfine_lib.recipes import SIZES, get_recipe


def describe_weights(source: str | Path) -> dict[str, Any]:
    """What is in a weights file: its form, size, classes, parameters.

    Raises:
        WeightsError: missing, damaged, or no weights.
    """
    weights = read_weights(source)
    state = {key: value for key, value in weights.state_dict.items() if value.is_floating_point()}
    about: dict[str, Any] = {"file": str(weights.path), "entries": len(weights.state_dict)}
    about["numbers"] = sum(value.numel() for value in state.values())
    if weights.backbone_only:
        return about | {"model": "a backbone alone"}
    about["model"] = _size_of(weights) or "none of the published sizes"
    about["classes"] = weights.num_classes
    named = [name for name in weights.category_names if name]
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
    """Write weights in another form; of a training checkpoint only the averaged weights are taken.

    Args:
        source: anything that `read_weights` opens.
        out: `….safetensors` for ours, `….pth` for the authors' code, anything else is a folder for Hugging Face's.
        recipe: the model, where neither the file nor its shapes tell it.
        names: of the classes, in the order of their rows, where the file does not hold them.
        image_size: side of the input, or (height, width), where the file does not hold it; 640 otherwise.
        half: floating-point numbers of 16 bits (ours only).

    Returns:
        What was written.

    Raises:
        WeightsError: no such weights, or nobody knows of which model; a wrong number of names; a model that only this
            library builds, for another than ours.
    """
    weights, out = read_weights(source), Path(out)
    if recipe is not None:
        weights = replace(weights, model=replace(get_recipe(recipe).model, num_classes=weights.num_classes))
    if weights.model is None:
        raise WeightsError(f"{source}: nobody knows of which model these weights are. Name its recipe, as l_coco.")
    if weights.model.only_ours and out.suffix != ".safetensors":
        raise WeightsError(
            f"{source}: trained with {', '.join(weights.model.only_ours)}, which neither the authors' code nor Hugging "
            f"Face's port can build. Only ours can hold it: {out.with_suffix('.safetensors')}."
        )
    if not names and len(weights.category_names) + 1 == weights.num_classes and out.suffix != ".safetensors":
        weights = _with_spare_row_first(weights)
    names = tuple(names) or weights.category_names
    spare = names == weights.category_names and len(names) + 1 == weights.num_classes  # ours keeps it, last
    if names and not spare and len(names) != weights.num_classes:
        raise WeightsError(f"{source}: {weights.num_classes} classes, but {len(names)} names for them.")
    model = DFINE(weights.model)
    load_weights(model, replace(weights, category_names=()))
    data = weights.data or DataConfig()
    if image_size is not None:
        data = replace(data, image_size=image_size)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".safetensors":
        ids = weights.category_ids or published_ids(names)  # never made up: ids that nobody knows stay unknown
        return save_weights(out, model, data=data, category_names=names, category_ids=ids, half=half)
    if out.suffix == ".pth":
        buffer = io.BytesIO()
        torch.save({"model": _with_anchors(model, data)}, buffer)
        write_atomically(out, buffer.getvalue())
        return out
    return save_huggingface(out, model, data=data, names=names)


def _with_spare_row_first(weights: Weights) -> Weights:
    """A model of Objects365 trained here, with its rows in the published order.

    Here the row that stands for no class comes last, there first: a row's number is the class's id.
    """
    state, count = dict(weights.state_dict), weights.num_classes
    for key, value in state.items():
        if any(
            part in key for part in (*CLASS_ROWS, CLASS_EMBEDDING)
        ):  # the embedding has a row for padding at its end
            state[key] = torch.cat([value[count - 1 : count], value[: count - 1], value[count:]])
    return replace(weights, state_dict=state, category_names=("", *weights.category_names))


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
