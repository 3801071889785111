"""Detections on a few images as plain values: a run keeps them, to look at while it trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dfine_lib.data.loader import EvalLoader
from dfine_lib.data.samples import collate, to_batch
from dfine_lib.evaluate.postprocess import postprocess

IMAGES = 4  # the first ones of the validation split, the same at every evaluation
LEAST_SCORE = 0.05  # detections below it are left out
MOST = 50  # detections of one image


def sample_detections(
    model: nn.Module, loader: EvalLoader, device: torch.device | str, images: int = IMAGES
) -> list[dict[str, Any]]:
    """Ground truth and detections of the first `images` images of a loader's index.

    Args:
        model: maps images to an output with `pred_logits` and `pred_boxes`; left in the mode it was found in.
        loader: its index says which images, its recipe at which input size.
        device: where the model is.
        images: how many; all, where the index has fewer.

    Returns:
        For each image `file`, `image_id`, `size_wh` (pixels), ground truth (`labels`, `boxes_xyxy`) and `detections`
        (`labels`, `boxes_xyxy`, `scores`): what `postprocess` gives with a score of at least `LEAST_SCORE`, by
        falling score, at most `MOST`. Boxes are in pixels of the image file, labels are 0..C-1. JSON-safe.

    Raises:
        ValueError: the model has another number of classes than the index.
    """
    index, data = loader.index, loader.recipe.data
    chosen = range(min(images, len(index)))
    batch = to_batch(collate([loader.images[i] for i in chosen]), index, data.image_hw, device)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            outputs = model(batch.images)
    finally:
        model.train(was_training)
    if (rows := outputs.pred_logits.shape[-1]) != index.num_classes:
        raise ValueError(f"a model of {rows} classes, for {index.num_classes} of {index.annotation_file}")
    found = [each.above(LEAST_SCORE) for each in postprocess(outputs, batch.sizes_wh, MOST)]
    return [_plain(index, i, detections) for i, detections in zip(chosen, found, strict=True)]


def _plain(index: Any, i: int, found: Any) -> dict[str, Any]:
    labels, boxes_xyxy = index.targets(i)
    detections = {name: getattr(found, name).tolist() for name in ("labels", "boxes_xyxy", "scores")}
    return {
        "file": str(index.file_name(i).absolute()),  # whoever looks may stand in another folder
        "image_id": int(index.image_ids[i]),
        "size_wh": index.sizes_wh[i].tolist(),
        "truth": {"labels": labels.tolist(), "boxes_xyxy": boxes_xyxy.tolist()},  # old name
        "detections": detections,
    }
