"""COCO JSON to batches."""

from dfine_lib.data.coco import CocoIndex, DataError, check_images, find_split, read_coco
from dfine_lib.data.images import read_image
from dfine_lib.data.loader import Batch, EvalLoader, TrainLoader

__all__ = [
    "Batch",
    "CocoIndex",
    "DataError",
    "EvalLoader",
    "TrainLoader",
    "check_images",
    "find_split",
    "read_coco",
    "read_image",
]
