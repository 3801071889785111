"""How long a packed index of 1.7 million images takes to open, and what each worker adds to it in memory.

    python -m benchmarks.packed_index

The arrays are random, in the layout and size of Objects365's train split. "From disk": its pages are dropped from
memory before each turn. Workers are processes that open the index by what they are sent and look up random images; told
is what each holds for itself afterwards (private pages of /proc/PID/smaps_rollup) beyond what it held before.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ratio import arguments, measure, record, use_threads
from data_tools.large.packed import read_packed, write_packed
from dfine_lib.data.coco import CocoIndex


def made_up(images: int, boxes: int, folder: Path) -> CocoIndex:
    """An index of that size; names are as long as those of Objects365."""
    random = np.random.default_rng(0)
    names = b"".join(b"images/v2/patch%02d/objects365_v2_%08d.jpg" % (i % 51, i) for i in range(images))
    corners = random.random((boxes, 4), np.float32) * 320
    corners[:, 2:] += corners[:, :2]
    return CocoIndex(
        annotation_file=folder / "train.json",
        image_folder=folder,
        image_ids=np.arange(1, images + 1),
        sizes_wh=np.full((images, 2), 640, np.int32),
        name_bytes=np.frombuffer(names, np.uint8),
        name_offsets=np.arange(images + 1) * (len(names) // images),
        box_offsets=np.concatenate([[0], np.sort(random.integers(0, boxes, images - 1)), [boxes]]),
        boxes_xyxy=corners,
        labels=random.integers(0, 365, boxes),
        iscrowd=np.zeros(boxes, bool),
        category_ids=tuple(range(1, 366)),
        category_names=tuple(f"class {i}" for i in range(1, 366)),
    )


def forget(file: Path) -> None:
    """Drop the file's pages from memory, so that the next opening reads the disk."""
    with open(file, "rb") as content:
        os.fsync(content.fileno())
        os.posix_fadvise(content.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def private_mb() -> float:
    """What this process holds and shares with none."""
    lines = [line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()]
    return sum(int(line[1]) for line in lines if line[0] in ("Private_Clean:", "Private_Dirty:")) / 1e3


def _work(sent: bytes, seed: int, reads: int, results: Any, together: Any) -> None:
    places = np.random.default_rng(seed)
    before = private_mb()
    index = pickle.loads(sent)
    for _ in range(reads):
        i = int(places.integers(len(index)))
        labels, boxes = index.targets(i)
        float(boxes.sum()) + int(labels.sum()) + len(index.file_name(i).name)
    together.wait()  # until all have read: what is shared is shared now
    results.put(private_mb() - before)
    together.wait()


def worker_mb(index: CocoIndex, workers: int, reads: int) -> float:
    """Mean of what workers hold privately after looking up `reads` random images each."""
    context = multiprocessing.get_context("fork")
    results, together = context.Queue(), context.Barrier(workers)
    processes = [context.Process(target=_work, args=(pickle.dumps(index), i, reads, results, together))
                 for i in range(workers)]  # fmt: skip
    for process in processes:
        process.start()
    found = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return float(np.mean(found))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=1_700_000)
    parser.add_argument("--boxes", type=int, default=25_000_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--reads", type=int, default=20_000, help="images that each worker looks up")
    options = parser.parse_args()
    use_threads(options.threads)
    case = f"{options.images:,} images, {options.boxes:,} boxes"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = write_packed(made_up(options.images, options.boxes, folder), folder / "train.packed")
        size = {"file_mb": round(file.stat().st_size / 1e6, 1)}

        def again() -> float:
            start = time.perf_counter()
            index = read_packed(file, folder)
            index.targets(len(index) // 2)
            return time.perf_counter() - start

        def from_disk() -> float:
            forget(file)
            return again()

        rows = [
            measure(from_disk, turns=options.turns, what="opening a packed index", case=f"{case}, from disk",
                    at_most=2.0, details=size),
            measure(again, turns=options.turns, what="opening a packed index", case=f"{case}, again",
                    at_most=2.0, details=size),
            measure(lambda: worker_mb(read_packed(file, folder), options.workers, options.reads), turns=1, warmup=0,
                    what="memory of a worker's own", unit="MB", details=size,
                    case=f"the same index, {options.workers} workers, {options.reads:,} images each"),
        ]  # fmt: skip
    if not options.dry:
        print(record("packed_index", rows))


if __name__ == "__main__":
    main()
