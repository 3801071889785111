"""A data folder, and what was found on it, in the FiftyOne app (an extra; it brings its own database)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_tools.parts import no_shards
from dfine_lib.data.coco import CocoIndex, find_split, read_coco
from dfine_lib.data.images import DataError

LARGEST_FILE = 2 << 30  # bytes of a file of predictions
Found = dict[int, list[tuple[str, list[float], float]]]  # by place in the index: class, left top width height, score


def load_fiftyone() -> Any:
    """The module, its database running.

    Raises:
        DataError: it is not installed, does not load, or its database does not start; says what to do.
    """
    os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "true")
    try:
        import fiftyone
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "fiftyone"
        what = "is not installed" if missing else f"does not load ({error})"
        raise DataError(
            f'FiftyOne {what}: pip install -e ".[fiftyone]". Without it, `dfine stats DATA --html page.html` shows '
            "figures and images."
        ) from error
    try:
        fiftyone.list_datasets()
    except Exception as error:  # of its configuration, its service, or the driver of its database
        raise DataError(
            f"FiftyOne is installed, but its database does not start: {str(error).strip()[:500]} "
            "(It needs MongoDB's `mongod`, or the address of one in FIFTYONE_DATABASE_URI.) "
            "Without it, `dfine stats DATA --html page.html` shows figures and images."
        ) from error
    return fiftyone


def read_predictions(file: Path, index: CocoIndex) -> Found:
    """Detections by image, from what `dfine predict --json` or pycocotools' results files hold.

    Args:
        file: a list of objects with `path` and `detections`, or with `image_id`, `category_id`, `bbox` and `score`.
        index: the images; those of other images are left out.

    Raises:
        DataError: another file, or no detection in it is of an image of the index.
    """
    if not file.is_file() or file.stat().st_size > LARGEST_FILE:
        raise DataError(f"{file}: {'too large' if file.is_file() else 'no such file'}. Give a file of predictions.")
    try:
        records = json.loads(file.read_bytes())
        if not isinstance(records, list):
            raise DataError(f"{file}: expected a list of predictions.")
        by_image = bool(records) and "detections" in records[0]
        rows: Found = {}
        for place, row in (_of_images if by_image else _of_boxes)(records, index):
            rows.setdefault(place, []).append(row)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{file}: no predictions ({type(error).__name__}: {str(error)[:200]}). Give what `dfine predict --json` "
            "wrote, or a results file in COCO format."
        ) from error
    if records and not rows:
        raise DataError(f"{file}: holds no detection on an image of {index.annotation_file}.")
    return rows


def _of_images(records: list[dict[str, Any]], index: CocoIndex) -> Iterator[tuple[int, Any]]:
    """`dfine predict --json`: a record an image."""
    places = {str(index.file_name(i).resolve()): i for i in range(len(index))}
    for record in records:
        place = places.get(str(Path(record["path"]).resolve()))
        for one in record["detections"] if place is not None else ():
            x1, y1, x2, y2 = map(float, one["box_xyxy"])
            yield place, (str(one["name"]), [x1, y1, x2 - x1, y2 - y1], float(one["score"]))


def _of_boxes(records: list[dict[str, Any]], index: CocoIndex) -> Iterator[tuple[int, Any]]:
    """COCO's results: a record a box."""
    places = {int(identity): i for i, identity in enumerate(index.image_ids)}
    names = dict(zip(index.category_ids, index.category_names, strict=True))
    for record in records:
        left, top, width, height = (float(value) for value in record["bbox"])
        if record["image_id"] in places:
            name = names.get(record["category_id"], str(record["category_id"]))
            yield places[record["image_id"]], (name, [left, top, width, height], float(record["score"]))


def samples(fiftyone: Any, index: CocoIndex, predictions: Found | None) -> list[Any]:
    """A FiftyOne sample of every image: `ground_truth`, and `predictions` where there are some."""

    def boxes(i: int, rows: list[tuple[str, list[float], dict[str, Any]]]) -> Any:
        width, height = index.sizes_wh[i].tolist()
        scale = (width, height, width, height)
        return fiftyone.Detections(
            detections=[
                fiftyone.Detection(label=label, bounding_box=[v / s for v, s in zip(box, scale, strict=True)], **more)
                for label, box, more in rows
            ]
        )

    made = []
    for i in range(len(index)):
        labels, boxes_xyxy = index.targets(i)
        crowd = index.iscrowd[index.box_offsets[i] : index.box_offsets[i + 1]]
        boxes_of_image = [
            (index.category_names[label], [x1, y1, x2 - x1, y2 - y1], {"iscrowd": bool(group)})
            for label, (x1, y1, x2, y2), group in zip(labels, boxes_xyxy.tolist(), crowd, strict=True)
        ]
        fields = {"ground_truth": boxes(i, boxes_of_image), "image_id": int(index.image_ids[i])}
        if predictions is not None:
            found = [(label, box, {"confidence": score}) for label, box, score in predictions.get(i, [])]
            fields["predictions"] = boxes(i, found)
        made.append(fiftyone.Sample(filepath=str(index.file_name(i).resolve()), **fields))
    return made


def view(
    data: Path | str, *, split: str = "val", predictions: Path | None = None, port: int = 5151, wait: bool = True
) -> str:
    """Open a split in the FiftyOne app, and stay until it is closed.

    Args:
        data: what `find_split` understands.
        split: `train` or `val`.
        predictions: see `read_predictions`.
        port: of the app's page, on this machine only.
        wait: until the page is closed; otherwise return at once.

    Returns:
        One line that sums up.

    Raises:
        DataError: the data cannot be used, or FiftyOne is not there or does not start.
    """
    annotation_file, folder = find_split(data, split)  # type: ignore[arg-type]
    no_shards(folder)
    index = read_coco(annotation_file, folder, training=False)
    found = None if predictions is None else read_predictions(predictions, index)
    fiftyone = load_fiftyone()
    dataset = fiftyone.Dataset()  # not kept: it goes with this process
    dataset.add_samples(samples(fiftyone, index, found))
    session = fiftyone.launch_app(dataset, port=port, address="127.0.0.1")
    if wait:
        session.wait()
    many = sum(map(len, (found or {}).values()))
    return f"{split}: {len(index):,} images, {len(index.labels):,} boxes" + (f", {many:,} predictions" if found else "")
