"""The data folder as the commands open it: also packed annotations, images in tar shards, repeat-factor sampling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from data_tools.large.packed import read_index
from data_tools.large.repeat_factor import draw_epoch, repeat_factors, samples_per_epoch
from data_tools.large.shards import ShardEvalLoader, ShardTrainLoader
from data_tools.large.tars import SHARD_INDEX, check_shards, is_sharded
from dfine_lib.config import Recipe
from dfine_lib.data.coco import CocoIndex
from dfine_lib.data.loader import EvalLoader, TrainLoader
from dfine_lib.data.seeds import Draw, derived_seed
from dfine_lib.data.source import CocoFolder
from dfine_lib.errors import DataError


class LargeFolder(CocoFolder):
    """`CocoFolder`, whose annotations may be packed and whose images may be in tar shards.

    `data.repeat_threshold` of a recipe is honoured: images of rare classes are oversampled.
    """

    def read(self, annotation_file: Path, image_folder: Path, **options: Any) -> CocoIndex:
        """One split; options are those of `read_coco`. A packed index serves training only."""
        return read_index(annotation_file, image_folder, **options)

    def check(self, index: CocoIndex, every: bool) -> None:
        """Open the images of an index; of shards, only their number and sizes are checked."""
        if is_sharded(index):
            return check_shards(index)
        in_tars = next(index.image_folder.glob("*.tar"), None) is not None
        if in_tars and not any(index.file_name(i).is_file() for i in range(len(index))):
            raise DataError(
                f"{index.image_folder}: tar archives, but no {SHARD_INDEX} beside them and no images. Copy it there, "
                "or write the shards again."
            )
        return super().check(index, every=every)

    def samples_per_epoch(self, index: CocoIndex, recipe: Recipe) -> int:
        """Samples of one epoch: repeated images count as often as they are drawn."""
        return samples_per_epoch(repeat_factors(index, recipe.data.repeat_threshold))

    def train_loader(self, index: CocoIndex, recipe: Recipe, **options: Any) -> TrainLoader:
        """Training batches out of shards or a folder of images."""
        if is_sharded(index):
            return ShardTrainLoader(index, recipe, **options)
        if recipe.data.repeat_threshold is not None:
            factors, seed = repeat_factors(index, recipe.data.repeat_threshold), options["seed"]
            options["sample_indices"] = lambda epoch: draw_epoch(
                factors, np.random.default_rng(derived_seed(Draw.ORDER, seed, epoch))
            )
        return super().train_loader(index, recipe, **options)

    def eval_loader(self, index: CocoIndex, recipe: Recipe, **options: Any) -> EvalLoader:
        """Validation batches out of shards or a folder of images."""
        return (ShardEvalLoader if is_sharded(index) else EvalLoader)(index, recipe, **options)
