"""A data folder of a few small pictures, settings that train on it in seconds, a score that needs no AP."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SMALL = {
    "data.image_size": 64, "data.batch_size": 4, "data.eval_batch_size": 4, "data.num_workers": 0,
    "train.epochs": 3, "train.warmup_iterations": 0,
    "model.encoder_dim": 32, "model.hidden_dim": 32, "model.encoder_feedforward": 32, "model.feedforward": 32,
    "model.num_queries": 10, "model.num_denoising": 4,
}  # fmt: skip


def write_folder(folder: Path, images: int = 8, names: tuple[str, ...] = ("dot", "bar"), side: int = 64) -> Path:
    """Bright boxes on dark ground, one or two a picture; ids start at 7 so that they are nobody's labels."""
    for split in ("train", "val"):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "annotations").mkdir(exist_ok=True)
        draw = np.random.RandomState(len(split))
        records, annotations = [], []
        for i in range(images):
            picture = draw.randint(0, 60, (side, side, 3)).astype(np.uint8)
            for k in range(1 + i % 2):
                x, y, w, h = (int(v) for v in (*draw.randint(2, side // 2, 2), *draw.randint(10, side // 2 - 4, 2)))
                label = (i + k) % len(names)
                picture[y : y + h, x : x + w] = (220, 40 + 90 * label, 40)
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": i + 1, "category_id": 7 + label, "bbox": [x, y, w, h],
                     "area": w * h, "iscrowd": 0}
                )  # fmt: skip
            Image.fromarray(picture).save(folder / "images" / split / f"{i}.png")
            records.append({"id": i + 1, "file_name": f"{i}.png", "width": side, "height": side})
        content = {
            "images": records, "annotations": annotations,
            "categories": [{"id": 7 + i, "name": name} for i, name in enumerate(names)],
        }  # fmt: skip
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


@dataclass
class Score:
    ap: float

    def to_dict(self) -> dict:
        return {"ap": self.ap}


def score_by_weights(model, *_, **__) -> Score:
    """A stand-in for AP: any function of the weights tells whether two runs are the same."""
    total = sum(p.double().abs().sum() for p in model.parameters())
    return Score(1 / (1 + total.item()))
