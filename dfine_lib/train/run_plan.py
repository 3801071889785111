"""What a run is made of: checked data, a recipe fitted to it, and how a later start recognises the run."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dfine_lib.config import Recipe
from dfine_lib.data.coco import CocoIndex
from dfine_lib.data.source import CocoFolder
from dfine_lib.errors import DfineError
from dfine_lib.recipes import RECIPES, adapted_to_length
from dfine_lib.train.checkpoint import CheckpointError
from dfine_lib.train.run_folder import RunFolder

log = logging.getLogger(__name__)
LEAST_STEPS = 8  # steps an epoch that a batch of the recipe's own size should leave
_FREE = {  # may differ when a run resumes: they change no result, or its last digits only
    *("recipe.data.num_workers", "recipe.data.eval_batch_size", "recipe.data.fit_batch_size"),
    *("recipe.train.compile", "recipe.train.checkpoint_activations"),
    *("recipe.train.matmul_precision", "recipe.train.cudnn_benchmark"),
}


@dataclass(frozen=True, eq=False, kw_only=True)
class RunPlan:
    """Everything that decides what a run computes."""

    recipe: Recipe  # fitted to the data
    source: CocoFolder
    train: CocoIndex
    val: CocoIndex
    seed: int
    weights: Path | None
    class_rows: Mapping[str, str] | None  # the weights' class to take for a class of the data

    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to resume: contents, not paths, so that folders may move."""
        return {
            "recipe": asdict(self.recipe),
            "seed": self.seed,
            "annotations": {"train": _digest(self.train.annotation_file), "val": _digest(self.val.annotation_file)},
            "images": {"train": len(self.train), "val": len(self.val)},
            "classes": list(self.train.category_names),
            "weights": _digest(self.weights) if self.weights else None,
            "rows": dict(self.class_rows) if self.class_rows else None,
        }

    def check_same_run(self, folder: RunFolder) -> None:
        """Refuse a folder with another run's files.

        Raises:
            CheckpointError: it holds a run with other settings, or weights without their run.
        """
        if not folder.about.exists() or not (folder.last.exists() or folder.result.exists()):
            if folder.model.exists():
                raise CheckpointError(
                    f"{folder.path} holds weights but no run to resume", "other_out_from", weights=folder.model
                )
            return
        about, now = json.loads(folder.about.read_text(encoding="utf-8")), self.identity()
        # Fields that have come since the run was started were at their defaults.
        before = _flat({"recipe": asdict(Recipe(name=""))}) | _flat({name: about.get(name) for name in now})
        now = _flat(now)
        differing = [key for key in before | now if key not in _FREE and before.get(key) != now.get(key)]
        if differing:
            pairs = "; ".join(f"{key} {before.get(key)!r} then, {now.get(key)!r} now" for key in differing)
            raise CheckpointError(
                f"{folder.path} holds a run with other settings ({pairs}). Repeat the settings it was started with, or "
                "train into another folder",
                "other_out_from" if folder.model.exists() else "other_out", weights=folder.model,
            )  # fmt: skip


def plan_run(
    recipe: Recipe,
    data: Path,
    *,
    seed: int = 0,
    weights: str | Path | None = None,
    class_rows: Mapping[str, str] | None = None,
    source: CocoFolder | None = None,
) -> RunPlan:
    """Read both splits and fit the recipe to them; no image is opened. Arguments are those of `train`.

    Raises:
        DataError: something is wrong with the annotation files.
        DfineError: class rows without weights to take them from.
    """
    if class_rows and not weights:
        raise DfineError("class rows say which classes of a weights file to take: name the weights too")
    source = source or CocoFolder()
    train, val = source.open(data)
    return RunPlan(
        recipe=fitted_to_data(recipe, train, source.samples_per_epoch(train, recipe)), source=source, train=train,
        val=val, seed=seed, weights=Path(weights) if weights else None, class_rows=class_rows,
    )  # fmt: skip


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


def _digest(file: Path) -> str | None:
    """Identity of a file whatever its name; None if it is missing (reading it will report that)."""
    if not file.is_file():
        return None
    with open(file, "rb") as content:
        digest = hashlib.sha256()
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def _flat(values: Mapping[str, Any], parent: str = "") -> dict[str, Any]:
    """Nested values under names as `recipe.train.lr`; tuples as lists, which they are in JSON."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{parent}{name}.")
        else:
            flat[parent + name] = list(value) if isinstance(value, tuple) else value
    return flat
