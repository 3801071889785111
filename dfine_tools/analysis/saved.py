"""A weights file on a data folder: what `dfine eval` and the evaluation notebook call."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from data_tools.large.source import LargeFolder
from dfine_lib.config import DataConfig, Recipe
from dfine_lib.data import EvalLoader, find_split
from dfine_lib.device import pick_device, set_backends
from dfine_lib.distributed import current_ranks
from dfine_lib.evaluate.coco_ap import ENGINES, CocoEvaluator, CocoMetrics, evaluate_model
from dfine_lib.model.dfine import DFINE
from dfine_lib.model.weights import WeightsError, load_weights
from dfine_lib.recipes import get_recipe
from dfine_tools.forms.compilation import compile_model
from dfine_tools.runs.settings import with_settings
from dfine_tools.weights.sources import locate, read


@dataclass(frozen=True)
class LoadedModel:
    """The model of a weights file, and the data to score it on."""

    model: DFINE
    loader: EvalLoader  # `loader.index` holds the images, `loader.recipe` the input size
    device: torch.device
    class_rows: dict[str, str | int | None]  # of `load_weights`: the file's class, or row, for each class; often empty

    def detect(self, engine: str = ENGINES[0]) -> tuple[CocoMetrics, CocoEvaluator]:
        """Run the model over all images: the metrics, and the evaluator that still holds every detection.

        Of several processes each runs the model over some of the images, and all have the detections and metrics of
        all images.

        Args:
            engine: what computes the metrics, as in `CocoEvaluator`.
        """
        evaluator = CocoEvaluator(self.loader.index, self.loader.index.category_ids, engine=engine)
        return evaluate_model(self.model, self.loader, evaluator, self.device, ranks=current_ranks()), evaluator


def evaluate_weights(
    weights: Path | str,
    data: Path | str,
    *,
    recipe: str | Recipe | None = None,
    settings: dict[str, object] | None = None,
    device: str = "auto",
    rows: Mapping[str, str] | None = None,
    compiled: bool = False,
) -> CocoMetrics:
    """Score a weights file on the val split of a COCO-style folder; arguments and errors are those of `open_saved`.

    Args:
        compiled: with `torch.compile`, where that works here.
    """
    loaded = open_saved(weights, data, recipe=recipe, settings=settings, device=device, rows=rows)
    if compiled:
        compile_model(loaded.model)
    return loaded.detect()[0]


def open_saved(
    weights: Path | str,
    data: Path | str,
    *,
    recipe: str | Recipe | None = None,
    settings: dict[str, object] | None = None,
    device: str = "auto",
    rows: Mapping[str, str] | None = None,
) -> LoadedModel:
    """Load a weights file for the val split of a COCO-style folder.

    Classes are matched by name where the file holds names, so a folder with fewer classes, or in another order, is
    scored on what it has. A file without names is scored in the order of its class rows where it has as many as the
    folder has classes, which is logged, and refused where it has not. Of several processes that are joined, each gets
    some of the images.

    Args:
        weights: `.safetensors` of ours, or a published `.pth`.
        data: folder with a val split.
        recipe: shape of the model and size of its input; None: as the file says.
        settings: fields to replace, as `{"data.image_size": 320}`.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        rows: the file's class, or class row, for a class of the folder, as in `load_weights`.

    Raises:
        WeightsError: the file is missing, damaged, of another model, lacks a class of the folder, has no names for
            another number of classes, or says nothing of its shape and no recipe was given.
        DataError: the folder's val split is missing or faulty.
        ValueError: unknown recipe or setting.
    """
    ranks = current_ranks()
    ranks.on_rank_zero(lambda: locate(weights))  # a download is reported once
    stored = read(weights)
    if recipe is not None:
        recipe = get_recipe(recipe)
    else:
        recipe = Recipe(name=stored.path.stem, model=stored.model_config(), data=stored.data or DataConfig())
    if stored.data is not None:  # the size that the model was trained with
        recipe = replace(recipe, data=replace(recipe.data, image_size=stored.data.image_size))
    recipe = with_settings(recipe, settings or {})

    annotation_file, image_folder = find_split(data, "val")
    source = LargeFolder()
    index = source.read(annotation_file, image_folder, training=False)
    ranks.on_rank_zero(lambda: source.check(index, every=False))
    named, rows = bool(stored.category_names), rows or {}
    if not named and not rows and stored.num_classes != index.num_classes:
        raise WeightsError(
            f"{weights}: {stored.num_classes} class rows without names, for the {index.num_classes} classes of "
            f"{annotation_file}: nothing says which row is which class",
            "name_row_of_each_class", class_name=shlex.quote(index.category_names[0]), path=stored.path,
        )  # fmt: skip
    model = DFINE.from_recipe(recipe, num_classes=index.num_classes)
    taken = load_weights(model, stored, index.category_names, rows).get("rows", {})
    unknown = [name for name, source in taken.items() if source is None]
    if unknown:
        has = f"has {', '.join(stored.category_names)}" if named else f"names none of its {stored.num_classes} rows"
        raise WeightsError(
            f"{weights}: knows no class {', '.join(map(repr, unknown[:5]))} of {annotation_file}; it {has}",
            "unknown_class", class_name=shlex.quote(unknown[0]), its="ITS_NAME" if named else "ITS_ROW",
        )  # fmt: skip
    where = pick_device(device, ranks)
    set_backends(recipe.train.matmul_precision, where)
    loader = source.eval_loader(index, recipe, rank=ranks.rank, world_size=ranks.size, device=where)
    layout = torch.channels_last if where.type == "cuda" else torch.preserve_format  # on a GPU as in training
    return LoadedModel(model.to(where, memory_format=layout), loader, where, taken)
