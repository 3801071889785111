"""Where a training takes its images from: a folder in COCO format, or anything that answers the same five questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dfine_lib.config import Recipe
from dfine_lib.data.coco import CocoIndex, find_split, read_coco
from dfine_lib.data.images import check_images
from dfine_lib.data.loader import EvalLoader, TrainLoader


class CocoFolder:
    """A folder of image files with annotation files in COCO format."""

    def open(self, data: Path) -> tuple[CocoIndex, CocoIndex]:
        """The training and the validation split, both with the classes of the training split; no image is opened.

        Raises:
            DataError: something is wrong with the annotation files.
        """
        train = read_coco(*find_split(data, "train"), training=True)
        classes = {"category_ids": train.category_ids, "category_names": train.category_names}
        return train, read_coco(*find_split(data, "val"), training=False, **classes)

    def check(self, index: CocoIndex, every: bool) -> None:
        """DataError for images that are missing or cut off; `every` decodes each one."""
        check_images(index, every=every)

    def samples_per_epoch(self, index: CocoIndex, recipe: Recipe) -> int:
        """Training samples of one epoch."""
        return len(index)

    def train_loader(self, index: CocoIndex, recipe: Recipe, **options: Any) -> TrainLoader:
        """Shuffled, augmented batches; options are those of `TrainLoader`."""
        return TrainLoader(index, recipe, **options)

    def eval_loader(self, index: CocoIndex, recipe: Recipe, **options: Any) -> EvalLoader:
        """Every image once; options are those of `EvalLoader`."""
        return EvalLoader(index, recipe, **options)
