"""A sound data folder of six pictures to break."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image


def make_folder(folder: Path, images: int = 6, side: int = 64) -> Path:
    """One box a picture; annotation i + 1 belongs to image i + 1, whose file is i.png."""
    pixels = np.random.RandomState(0).randint(0, 255, (side, side, 3)).astype(np.uint8)  # noise: large enough to cut
    for split in ("train", "val"):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "annotations").mkdir(exist_ok=True)
        for i in range(images):
            Image.fromarray(pixels).save(folder / "images" / split / f"{i}.png")
        content = {
            "images": [{"id": i + 1, "file_name": f"{i}.png", "width": side, "height": side} for i in range(images)],
            "annotations": [
                {"id": i + 1, "image_id": i + 1, "category_id": 7 + i % 2, "bbox": [5 + i, 8, 20, 30]}
                for i in range(images)
            ],
            "categories": [{"id": 7, "name": "dot"}, {"id": 8, "name": "bar"}],
        }
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder
