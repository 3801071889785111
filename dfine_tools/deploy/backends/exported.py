"""What exported files have in common, whatever runs them: their signature and what they say of themselves."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dfine_lib.config import parse_hw
from dfine_lib.evaluate.postprocess import Detections, postprocess
from dfine_tools.deploy.backends.backend import BackendError

CORES = os.cpu_count() or 1
STREAMS = min(CORES, 8)  # calls at a time that share the cores, where many images wait

INPUTS, OUTPUTS = ("images", "orig_target_sizes"), ("labels", "boxes", "scores")  # as the authors name them
RAW_OUTPUTS = ("pred_logits", "pred_boxes")  # of a file without post-processing; its one input is `images`

ABOUT = ("image_size", "names", "category_ids", "precision", "least_side")  # metadata that is read back


class LoadedModel(NamedTuple):
    """An exported file in its runtime."""

    run: Callable[[np.ndarray, np.ndarray], list[np.ndarray]]  # images, sizes to the outputs in order
    raw: bool  # without post-processing: RAW_OUTPUTS, not OUTPUTS
    image_shape: list[int | None]  # of `images`; None: any
    about: Mapping[str, str]  # its metadata
    device: str
    shared: Callable[[], LoadedModel] | None = None  # the same file anew, for STREAMS calls at a time


def signature(path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of inputs and outputs in our order, with or without post-processing.

    Raises:
        BackendError: a file of another kind.
    """
    for ours in ((INPUTS, OUTPUTS), (INPUTS[:1], RAW_OUTPUTS)):
        if set(ours[0]) <= set(inputs) and set(ours[1]) <= set(outputs):
            return ours
    raise BackendError(
        f"{path}: not a D-FINE detector: it maps {', '.join(inputs) or 'nothing'} to "
        f"{', '.join(outputs) or 'nothing'}, and should map {', '.join(INPUTS)} to {', '.join(OUTPUTS)}."
    )


def input_size(
    path: Path, shape: Sequence[int | None], about: Mapping[str, str], asked: int | tuple[int, int] | None
) -> tuple[tuple[int, int], int | None]:
    """Height and width of the input, and the batch if it is fixed.

    Raises:
        BackendError: a size that the file does not take, or it takes several and names none.
        ValueError: a side that is no multiple of 32.
    """
    batch, _, height, width = shape
    fixed = (height, width) if height and width else None
    own = fixed or _of_metadata(path, about)
    least = int(about.get("least_side", 0))  # of a file that takes images of any side from there on
    if fixed is None and not least:
        fixed = own
    if asked is None:
        if own is None:
            raise BackendError(f"{path}: takes images of several sizes and does not say which; give the image size.")
        return own, batch
    asked_hw = parse_hw(asked)
    if fixed and asked_hw != fixed:
        raise BackendError(
            f"{path}: made for images of {fixed[0]} x {fixed[1]} (height x width), not {asked_hw[0]} x {asked_hw[1]}",
            "fixed_input_shape",
        )
    if min(asked_hw) < least:
        raise BackendError(
            f"{path}: takes images with sides from {least} pixels on, not {asked_hw[0]} x {asked_hw[1]}."
        )
    return asked_hw, batch


def _of_metadata(path: Path, about: Mapping[str, str]) -> tuple[int, int] | None:
    if "image_size" not in about:
        return None
    try:
        height, width = (int(side) for side in json.loads(about["image_size"]))
    except (ValueError, TypeError) as error:
        raise BackendError(f"{path}: its image_size is {about['image_size']!r}, not [height, width].") from error
    return height, width


def listed(about: Mapping[str, str], key: str) -> list[Any]:
    """A JSON list in the metadata; anything else that another program may have put there counts as nothing."""
    try:
        value = json.loads(about.get(key, "[]"))
    except ValueError:
        return []
    return value if isinstance(value, list) else []


def as_detections(labels: np.ndarray, boxes: np.ndarray, scores: np.ndarray) -> list[Detections]:
    """Labels `[B, K]`, boxes in pixels `[B, K, 4]`, scores `[B, K]` of a file as one `Detections` an image."""
    found = []
    for image in zip(labels, boxes, scores, strict=True):
        label, box, score = (torch.from_numpy(np.ascontiguousarray(part)) for part in image)
        score = score.float()
        if len(score) > 1 and bool((score.diff() > 0).any()):
            order = score.argsort(descending=True, stable=True)
            label, box, score = label[order], box[order], score[order]
        found.append(Detections(label.long(), box.float(), score))
    return found


def raw_detections(logits: Tensor, boxes: Tensor, sizes_wh: Tensor, top_k: int) -> list[Detections]:
    """The same without post-processing, on the CPU: logits `[B, Q, C]`, boxes cxcywh `[B, Q, 4]` in 0..1."""
    outputs = SimpleNamespace(pred_logits=logits, pred_boxes=boxes)
    return postprocess(outputs, sizes_wh, top_k)


def first_line(error: Exception) -> str:
    """What a runtime's error says, in a line without its full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).rstrip(".")


def not_run(path: Path, runtime: str, images: np.ndarray, error: Exception) -> BackendError:
    """The error of a file that opened, but does not take these images `[B, 3, H, W]`, to be raised."""
    count, _, height, width = images.shape
    what = f"{count} image{'s' * (count > 1)} of {height} x {width}"
    return BackendError(f"{path}: {runtime} cannot run it on {what} ({first_line(error)}).")
