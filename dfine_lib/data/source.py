"""Where a run takes its images and boxes from: a data folder in COCO format, unless another source is passed in."""

from __future__ import annotations

from pathlib import Path

from dfine_lib.config import Recipe
from dfine_lib.data.coco import CocoIndex, find_split, read_coco
from dfine_lib.data.images import check_images
from dfine_lib.data.loader import EvalLoader, TrainLoader
from dfine_lib.errors import DataError


class CocoFolder:
    """Annotation files in COCO format and folders of images, laid out as `find_split` knows them.

    A subclass may open other forms of data: `data_tools.large.source.LargeFolder` opens packed annotations and
    images in tar shards.
    """

    read = staticmethod(read_coco)  # one split
    check = staticmethod(check_images)
    train_loader, eval_loader = TrainLoader, EvalLoader

    def open(self, data: Path | str) -> tuple[CocoIndex, CocoIndex]:
        """The training and the validation split, both with the classes of the training split; no image is opened.

        Raises:
            DataError: an annotation file is missing or cannot be used, or a category id has two names.
        """
        train = self.read(*find_split(data, "train"))
        classes = {"category_ids": train.category_ids, "category_names": train.category_names}
        val = self.read(*find_split(data, "val"), training=False, **classes)
        _check_names(train, val)
        return train, val

    def samples_per_epoch(self, index: CocoIndex, recipe: Recipe) -> int:
        """Samples of one epoch: every image once."""
        return len(index)


def _check_names(train: CocoIndex, val: CocoIndex) -> None:
    names = dict(zip(train.category_ids, train.category_names, strict=True))
    for category_id, name in zip(val.category_ids, val.category_names, strict=True):
        if names.get(category_id, name) != name:
            raise DataError(
                f"{val.annotation_file}: category id {category_id} is {name!r}, but {names[category_id]!r} in "
                f"{train.annotation_file}; give both files the same list of categories"
            )
