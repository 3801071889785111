"""An image with its detections drawn into the pixels: quick enough for every frame of a video."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dfine_tools.figures.style import Figure, as_array, as_rgb, class_colour, new_figure, show_image, styled


def annotated(image: Any, boxes_xyxy: Any, labels: Any, words: Sequence[str]) -> np.ndarray:
    """A copy of the image with boxes and words in it.

    Args:
        image: `[3, H, W]` or `[H, W, 3]`, uint8 or 0..1.
        boxes_xyxy: `[K, 4]`, pixels of the image, the first on top.
        labels: `[K]`, class of each; decides its colour.
        words: text at each box.

    Returns:
        uint8 `[H, W, 3]`.
    """
    pixels = as_rgb(image)
    pixels = pixels if pixels.dtype == np.uint8 else (pixels * 255).round().astype(np.uint8)
    canvas = Image.fromarray(np.ascontiguousarray(pixels))
    draw = ImageDraw.Draw(canvas)
    side = max(canvas.size)
    width, font = max(1, round(side / 400)), _font(max(9, round(side / 52)))
    boxes = as_array(boxes_xyxy).reshape(-1, 4)
    limit = np.array([canvas.width, canvas.height] * 2, dtype=np.float64)
    for k in range(len(boxes))[::-1]:
        colour = _bytes(class_colour(int(labels[k])))
        x1, y1, x2, y2 = np.clip(np.nan_to_num(boxes[k]), -limit, 2 * limit)
        x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
        draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline="white", width=width + 2)
        draw.rectangle((x1, y1, x2, y2), outline=colour, width=width)
    for k in range(len(boxes))[::-1]:
        x, y = boxes[k][:2].clip(0, limit[:2] - 1)
        left, top, right, bottom = draw.textbbox((0, 0), words[k], font=font)
        y = max(0.0, y - (bottom + 2))
        draw.rectangle((x, y, x + right + 4, y + bottom + 2), fill=_bytes(class_colour(int(labels[k])), 0.7))
        draw.text((x + 2, y), words[k], fill="white", font=font)
    return np.asarray(canvas)


@styled
def annotated_image(image: Any, boxes_xyxy: Any, labels: Any, words: Sequence[str], title: str = "") -> Figure:
    """The same as a figure for a notebook; the arguments are those of `annotated`."""
    pixels = annotated(image, boxes_xyxy, labels, words)
    height, width = pixels.shape[:2]
    scale = min(9 / width, 9 / height)
    said = ", ".join(words[:12]) + (f" and {len(words) - 12} more" if len(words) > 12 else "")
    figure = new_figure(
        max(2.0, width * scale), max(2.0, height * scale) + 0.3, f"{title or 'A figure'}: {said or 'nothing found'}."
    )
    axes = figure.subplots()
    show_image(axes, pixels)
    if title:
        axes.set_title(title)
    return figure


@functools.lru_cache(maxsize=16)
def _font(size: int) -> Any:
    # matplotlib's own: Pillow's default font has no letters beyond ASCII (ö, é, ж).
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def _bytes(colour: tuple[float, float, float], shade: float = 1.0) -> tuple[int, int, int]:
    return tuple(round(255 * shade * part) for part in colour)
