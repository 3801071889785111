from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dfine_lib.config import DataConfig, ModelConfig, Recipe, TrainConfig
from dfine_lib.data import read_coco


def small_content() -> dict:
    """Two images of 64 x 48, sparse ids out of order, three boxes of two classes."""
    return {
        "images": [
            {"id": 70, "file_name": "b.png", "width": 64, "height": 48},
            {"id": 9, "file_name": "a.png", "width": 64, "height": 48},
        ],
        "annotations": [
            {"id": 5, "image_id": 9, "category_id": 90, "bbox": [10, 20, 30, 8]},
            {"id": 3, "image_id": 70, "category_id": 4, "bbox": [0.5, 1.5, 2, 3]},
            {"id": 8, "image_id": 9, "category_id": 4, "bbox": [0, 0, 64, 48]},
        ],
        "categories": [{"id": 90, "name": "brush"}, {"id": 4, "name": "plane"}],
    }


@pytest.fixture
def content() -> dict:
    return small_content()


@pytest.fixture
def write(tmp_path):
    """Writes a content as instances.json beside its images, and returns (annotation file, image folder)."""

    def write(content: dict | str | bytes, *, pictures: bool = False) -> tuple[Path, Path]:
        file, folder = tmp_path / "instances.json", tmp_path / "pictures"
        folder.mkdir(exist_ok=True)
        if isinstance(content, dict):
            if pictures:
                for i, image in enumerate(content["images"]):
                    noise = np.random.default_rng(i).integers(0, 256, (image["height"], image["width"], 3), np.uint8)
                    Image.fromarray(noise).save(folder / image["file_name"])
            content = json.dumps(content)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file, folder

    return write


@pytest.fixture
def many(write):
    """An index of 23 noise pictures, 40 x 32, each with as many boxes as its number modulo 4."""
    images = [{"id": 100 + 3 * i, "file_name": f"{i:02}.png", "width": 40, "height": 32} for i in range(23)]
    annotations = [
        {"id": 50 * i + k, "image_id": 100 + 3 * i, "category_id": 1 + k, "bbox": [4 + k, 3, 20, 10 + i % 9]}
        for i in range(23)
        for k in range(i % 4)
    ]
    categories = [{"id": i, "name": f"class {i}"} for i in (1, 2, 3)]
    return read_coco(*write({"images": images, "annotations": annotations, "categories": categories}, pictures=True))


@pytest.fixture
def recipe() -> Recipe:
    """Every augmentation, 64 px, batches of 4 in this process; stage 2 from epoch 2."""
    data = DataConfig(image_size=64, base_size_repeat=2, batch_size=4, eval_batch_size=6, num_workers=0)
    return Recipe(name="test", model=ModelConfig(), data=data, train=TrainConfig(epochs=4, stop_epoch=2))


@pytest.fixture
def varied(recipe):
    """The recipe with fields of its data or training part replaced."""

    def varied(*, accumulate: int | None = None, **data) -> Recipe:
        train = recipe.train if accumulate is None else replace(recipe.train, accumulate=accumulate)
        return replace(recipe, data=replace(recipe.data, **data), train=train)

    return varied
