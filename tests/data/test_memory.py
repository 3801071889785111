"""A large annotation file: 50,000 images of 500,000 boxes, behind all of them one small picture."""

from __future__ import annotations

from time import process_time

import numpy as np
import psutil
import pytest
from PIL import Image

from dfine_lib.data import TrainLoader, check_images, read_coco

IMAGES, BOXES = 50_000, 500_000


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Annotation file and image folder."""
    folder = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(folder / "one.png")
    boxes = np.concatenate([rng.integers(0, 40, (BOXES, 2)), rng.integers(1, 25, (BOXES, 2))], axis=1).tolist()
    image_of, classes = rng.integers(0, IMAGES, BOXES).tolist(), rng.integers(1, 81, BOXES).tolist()
    images = ",".join(f'{{"id":{i},"file_name":"one.png","width":64,"height":64}}' for i in range(IMAGES))
    categories = ",".join(f'{{"id":{i},"name":"class {i}"}}' for i in range(1, 81))
    annotations = ",".join(
        f'{{"id":{i},"image_id":{image},"category_id":{category},"bbox":{box},"area":1.0,"iscrowd":0}}'
        for i, (image, category, box) in enumerate(zip(image_of, classes, boxes, strict=True))
    )
    file = folder / "instances.json"
    file.write_text(f'{{"images":[{images}],"annotations":[{annotations}],"categories":[{categories}]}}')
    return file, folder


@pytest.fixture(scope="module")
def timed(large):
    """The file's training index, and the seconds of one core that reading it took."""
    start = process_time()
    return read_coco(*large), process_time() - start


@pytest.fixture
def index(timed):
    return timed[0]


def test_half_a_million_boxes_are_read_in_seconds(timed):
    index, seconds = timed
    assert seconds < 15  # 2 s on an idle core
    assert (len(index), len(index.labels)) == (IMAGES, BOXES)


def test_fifty_thousand_entries_of_one_picture_are_checked_at_once(index):
    start = process_time()
    check_images(index, every=True)
    assert process_time() - start < 5


def memory_of_workers(loader) -> np.ndarray:
    """Resident and unshared bytes of every worker, `[workers, 2]`."""
    found = [psutil.Process(worker.pid).memory_full_info() for worker in loader._loader._iterator._workers]
    return np.array([[memory.rss, memory.uss] for memory in found], dtype=float)


def growth_over_five_epochs(index, varied, batches: int) -> np.ndarray:
    """Growth of both kinds of memory as a share of the resident, over the last `batches` of epochs 1 to 5 after 0."""
    strong = dict(image_size=64, base_size_repeat=None, photometric=0.1, zoom_out=0.1, iou_crop=0.2)
    loader = TrainLoader(index, varied(batch_size=50, num_workers=2, **strong), seed=0)
    first = None
    for epoch in range(6):
        for _ in loader.epoch(epoch, len(loader) - batches):
            pass
        first = memory_of_workers(loader) if first is None else first
    return (memory_of_workers(loader) - first) / first[:, :1]


def test_workers_memory_stays_flat_over_epochs(index, varied):
    assert (growth_over_five_epochs(index, varied, batches=20) < 0.03).all()


@pytest.mark.slow
def test_workers_memory_stays_flat_over_whole_epochs(index, varied):
    assert (growth_over_five_epochs(index, varied, batches=1000) < 0.03).all()
