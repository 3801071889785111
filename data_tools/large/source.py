"""Folders in COCO format, and the forms of data sets made for many images: tar shards, repeat-factor sampling."""

from __future__ import annotations

from typing import Any

from data_tools.large import shards
from data_tools.large.repeat_factor import draws_per_epoch, repeat_factors
from dfine_lib.config import Recipe
from dfine_lib.data.coco import CocoIndex
from dfine_lib.data.loader import EvalLoader, TrainLoader
from dfine_lib.data.source import CocoFolder


class LargeFolder(CocoFolder):
    """A folder of image files or of tar shards."""

    def samples_per_epoch(self, index: CocoIndex, recipe: Recipe) -> int:
        """Training samples of one epoch, with the repeats of images of rare classes."""
        return draws_per_epoch(repeat_factors(index, recipe.data.repeat_threshold))

    def train_loader(self, index: CocoIndex, recipe: Recipe, **options: Any) -> TrainLoader:
        """Shuffled, augmented batches; options are those of `TrainLoader`."""
        return shards.train_loader(index, recipe, **options)

    def eval_loader(self, index: CocoIndex, recipe: Recipe, **options: Any) -> EvalLoader:
        """Every image once; options are those of `EvalLoader`."""
        return shards.eval_loader(index, recipe, **options)
