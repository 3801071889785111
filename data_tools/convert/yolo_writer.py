"""YOLO text files, written: images/SPLIT/, labels/SPLIT/ and data.yaml, in Ultralytics' form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_tools.convert.records import Category, ImageRecord
from dfine_lib.data.images import DataError


class YoloWriter:
    """images/SPLIT/, labels/SPLIT/NAME.txt, data.yaml. Crowd boxes have no form in YOLO and are left out."""

    def __init__(self, folder: Path, splits: tuple[str, ...]):
        self.folder, self.splits = folder, splits
        self.stems: dict[tuple[str, str], str] = {}
        for name in splits:
            (folder / "images" / name).mkdir(parents=True)
            (folder / "labels" / name).mkdir(parents=True)

    def image_path(self, image: ImageRecord) -> Path:
        """Where the image belongs, relative to the folder."""
        return Path("images") / image.split / image.file_name

    def add(self, image: ImageRecord, labels: list[int]) -> list[tuple[str, str]]:
        """Write the label file of one image. Returns reason and location of every box left out."""
        stem = image.file_name.rpartition(".")[0] or image.file_name
        if (other := self.stems.setdefault((image.split, stem), image.location)) != image.location:
            raise DataError(
                f"{image.location}: an image {stem[:80]!r} with another ending is there already, from {other}; both "
                "would have one label file. Rename one of them."
            )
        rows, lost = [], []
        for box, label in zip(image.boxes, labels, strict=True):
            if box.crowd or box.ignore:
                what = "crowd box" if box.crowd else "box to ignore"
                lost.append((f"{what}, which YOLO has no word for", box.location))
                continue
            width, height = image.width or 1, image.height or 1
            values = (
                (box.left + box.width / 2) / width, (box.top + box.height / 2) / height, box.width / width,
                box.height / height,
            )  # fmt: skip
            rows.append(f"{label} " + " ".join(f"{value:.12g}" for value in values) + "\n")
        parts = ["images", image.split, *f"{stem}.txt".split("/")]
        last = len(parts) - 1 - parts[::-1].index("images")  # readers exchange the last folder of that name
        file = self.folder.joinpath(*parts[:last], "labels", *parts[last + 1 :])
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(rows))
        return lost

    def finish(self, categories: list[Category], order: list[int]) -> list[str]:
        """The description of the set; the classes are known from the start, so `order` is theirs. No remarks."""
        import yaml

        content: dict[str, Any] = {name: f"images/{name}" for name in self.splits}
        content["names"] = {i: category.name for i, category in enumerate(categories)}
        (self.folder / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), "utf-8")
        return []

    def close(self) -> None:
        """Nothing stays open."""
