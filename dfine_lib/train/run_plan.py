"""What a run is made of: data that was checked, a recipe fitted to it, and by what it is known again."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dfine_lib.config import Recipe
from dfine_lib.data.coco import CocoIndex
from dfine_lib.data.source import CocoFolder
from dfine_lib.errors import DataError, DfineError
from dfine_lib.model.weights import locate_weights
from dfine_lib.recipes import RECIPES, adapted_to_length
from dfine_lib.train.checkpoint import CheckpointError
from dfine_lib.train.run_folder import RunFolder, recipe_to_dict

log = logging.getLogger(__name__)
LEAST_STEPS = 8  # steps an epoch that a batch of the recipe's own size should leave
_FREE = {  # may be others when a run goes on: they change no result, or its last digits only
    "data": ("num_workers", "eval_batch_size", "fit_batch_size"),
    "train": ("compile", "checkpoint_activations", "matmul_precision", "cudnn_benchmark"),
}


@dataclass(frozen=True, eq=False)
class RunPlan:
    """Everything that decides what a run computes."""

    recipe: Recipe  # fitted to the data
    train: CocoIndex
    val: CocoIndex
    seed: int
    weights: Path | None
    rows: Mapping[str, str] | None = None  # the weights' class to take for a class of the data

    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on: contents, not places, so that folders may move."""
        return {
            "recipe": recipe_to_dict(self.recipe),
            "seed": self.seed,
            "annotations": {"train": _digest(self.train.annotation_file), "val": _digest(self.val.annotation_file)},
            "images": {"train": len(self.train), "val": len(self.val)},
            "classes": list(self.train.category_names),
            "weights": _digest(self.weights) if self.weights else None,
            "rows": dict(self.rows) if self.rows else None,
        }

    def compare_with_earlier(self, folder: RunFolder) -> None:
        """A folder with another run's files is left alone.

        Raises:
            CheckpointError: it holds a run with other settings, or weights without their run.
        """
        if not folder.about.exists() or not (folder.last.exists() or folder.result.exists()):
            if folder.model.exists():
                raise CheckpointError(
                    f"{folder.path} holds weights but no run to go on with; choose another --out (and give "
                    f"--weights {folder.model} to start from them)"
                )
            return
        before = json.loads(folder.about.read_text(encoding="utf-8"))
        now = json.loads(json.dumps(self.identity()))
        defaults = json.loads(json.dumps(recipe_to_dict(Recipe(name=""))))
        for part in ("model", "loss", "data", "train"):  # fields that have come since were at their defaults
            before["recipe"][part] = defaults[part] | before["recipe"][part]
        for part, free in _FREE.items():
            for about in (before, now):
                about["recipe"][part] = {k: v for k, v in about["recipe"][part].items() if k not in free}
        differing = [_difference(key, before.get(key), now[key]) for key in now if before.get(key) != now[key]]
        if differing:
            raise CheckpointError(
                f"{folder.path} holds a run with other settings ({'; '.join(differing)}); choose another --out, or "
                "repeat the settings it was started with"
                + (f" (--weights {folder.model} in the new one starts from what it has learnt)" * folder.model.exists())
            )


def plan_run(
    recipe: Recipe,
    data: Path,
    seed: int,
    weights: str | Path | None,
    rows: Mapping[str, str] | None = None,
    source: CocoFolder | None = None,
) -> RunPlan:
    """Read both splits and fit the recipe to them; no image is opened.

    Raises:
        DataError: something is wrong with the annotation files.
        ValueError: rows without weights to take them from.
        WeightsError: there are no such weights.
    """
    if rows and not weights:
        raise DfineError("rows say which classes of a weights file to take: name the weights too")
    source = source or CocoFolder()
    index, val_index = source.open(data)
    _check_names(index, val_index)
    located = locate_weights(weights) if weights else None
    fitted = fitted_to_data(recipe, index, source.samples_per_epoch(index, recipe))
    return RunPlan(fitted, index, val_index, seed, located, rows)


def fitted_to_data(recipe: Recipe, index: CocoIndex, images: int | None = None) -> Recipe:
    """The recipe with as many classes as the data has, and settings that suit the run's length.

    A batch that is the recipe's own, made for a hundred thousand images, is lowered to what gives a small set
    `LEAST_STEPS` steps an epoch (8 images at least); one that was chosen (`data.fit_batch_size` false) stays.

    Args:
        recipe: as published, or as chosen.
        index: the training split.
        images: training samples of an epoch; None: one of each image.
    """
    images = len(index) if images is None else images
    batch_size = recipe.data.batch_size
    known = RECIPES.get(recipe.name)
    as_published = recipe.train.faithful or not recipe.train.adapt_to_length
    own = recipe.data.fit_batch_size and known is not None and batch_size == known.data.batch_size
    if own and not as_published and batch_size > 8 and images // batch_size < LEAST_STEPS:
        batch_size = max(8, 2 ** int(math.log2(max(images / LEAST_STEPS, 1))))
    if batch_size != recipe.data.batch_size:
        log.info("batch size %d instead of %d: there are only %d images", batch_size, recipe.data.batch_size, images)
    steps = max(1, images // batch_size) * recipe.train.epochs
    recipe = replace(
        recipe,
        model=replace(recipe.model, num_classes=index.num_classes),
        # Evaluation must fit where a training step does, which keeps several times as much for each image.
        data=replace(
            recipe.data, batch_size=batch_size, eval_batch_size=min(recipe.data.eval_batch_size, 4 * batch_size)
        ),
    )
    return adapted_to_length(recipe, steps)


def _check_names(train: CocoIndex, val: CocoIndex) -> None:
    names = dict(zip(train.category_ids, train.category_names, strict=True))
    for category_id, name in zip(val.category_ids, val.category_names, strict=True):
        if names.get(category_id, name) != name:
            raise DataError(
                f"{val.annotation_file}: category id {category_id} is {name!r}, but {names[category_id]!r} in "
                f"{train.annotation_file}; give both files the same list of categories"
            )


def _digest(file: Path) -> str | None:
    """Identity of a file whatever it is called; None where it is not there (reading it will tell)."""
    if not file.is_file():
        return None
    with open(file, "rb") as content:
        digest = hashlib.sha256()
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def _difference(key: str, before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        parts = [_difference(f"{key}.{k}", before.get(k), now.get(k)) for k in now if before.get(k) != now.get(k)]
        return "; ".join(parts)
    return f"{key} {before!r} then, {now!r} now"
