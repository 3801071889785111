"""The numbers of `dfine stats` as a page with figures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from data_tools.stats import Statistics, some_images
from dfine_tools.figures import data_set
from dfine_tools.pages.report import write_report


def write_statistics_page(found: Statistics, path: Path | str, *, images: int = 9, seed: int = 0) -> Path:
    """Numbers and figures as one page that needs no other file.

    Raises:
        OSError: it cannot be written.
    """
    rows = []
    for split in found.splits:
        mean, _, most = split.objects_an_image
        small, medium, large = split.small_medium_large
        rows.append({"split": split.name, "images": split.images, "without boxes": split.images_without_boxes,
                     "boxes": split.boxes, "objects an image": mean, "most": most, "small": small, "medium": medium,
                     "large": large})  # fmt: skip
    sections: list[tuple[str, Any]] = [("", rows)]
    full = [split for split in found.splits if split.boxes]
    if full:
        marks = {"4 px": 4.0, "32 px": 32.0, "96 px": 96.0}
        sections += [
            ("Classes", data_set.boxes_by_class({split.name: split.per_class for split in full}, found.names)),
            ("Sizes", data_set.object_sizes({split.name: split.sides_px for split in full}, image_size=found.image_size,
                                       marks_px=marks)),
            ("Anchors", data_set.anchors_in_objects({split.name: split.anchors for split in full})),
            ("Places", data_set.where_objects_lie({split.name: split.centres for split in full})),
        ]  # fmt: skip
    if images and (chosen := some_images(found, count=images, seed=seed)):
        sections.append(("Images", data_set.annotated_images(chosen, found.names)))
    return write_report(path, f"{os.path.basename(found.data.resolve())}: what is in it", sections)
