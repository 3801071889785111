"""`convert`: a reader, the checks that are the same for all formats, and a writer, into a folder that appears whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tqdm.auto import tqdm

from data_tools.convert.coco import CocoWriter, read_coco_files
from data_tools.convert.createml import read_createml
from data_tools.convert.crowdhuman import read_crowdhuman
from data_tools.convert.csv_rows import read_csv_rows
from data_tools.convert.cvat import read_cvat
from data_tools.convert.labelme import read_labelme
from data_tools.convert.new_folder import check_out, new_folder
from data_tools.convert.objects365 import read_objects365
from data_tools.convert.openimages import read_openimages
from data_tools.convert.pictures import Pictures, UnreadablePicture, bring
from data_tools.convert.records import Box, Category, Picture, Source, leaves, split_name
from data_tools.convert.tables import read_categories
from data_tools.convert.voc import Corners, VocWriter, read_voc
from data_tools.convert.yolo import YoloWriter, read_yolo
from dfine_lib.data.images import DataError

READERS: dict[str, Callable[..., Source]] = {
    "voc": read_voc, "yolo": read_yolo, "crowdhuman": read_crowdhuman, "objects365": read_objects365,
    "labelme": read_labelme, "cvat": read_cvat, "openimages": read_openimages, "createml": read_createml,
    "csv": read_csv_rows, "coco": read_coco_files,
}  # fmt: skip
WRITERS = ("coco", "yolo", "voc")
REPORT = "conversion_report.json"
TINY = 0.01  # pixels: what a box sticks out by rounding is cut off without a word
SMALLEST = 1e-6  # pixels; a side below is no side


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to convert; see `dfine data convert --help`."""

    images: Path | None = None
    categories: str | None = None
    split: str = "train"
    pictures: Literal["link", "copy", "none"] = "link"
    sizes: Path | None = None
    keep_outside: bool = False
    follow_links: bool = False
    voc_corners: Corners = "plain"
    person_box: Literal["full", "visible", "head"] = "full"
    progress: bool = True


@dataclass
class Result:
    """What was made of what."""

    out: Path
    images: dict[str, int] = field(default_factory=dict)  # by split
    boxes: dict[str, int] = field(default_factory=dict)
    categories: int = 0
    dropped: dict[str, int] = field(default_factory=dict)  # reason → how many
    changed: dict[str, int] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def convert(
    source: Path | str, out: Path | str, *, read: str, write: str = "coco", options: Options | None = None
) -> Result:
    """Convert a data set.

    A picture that is missing or unreadable, and a box without area or wholly outside of its picture, is left out,
    counted and listed in `OUT/conversion_report.json`; a box that sticks out is cut at the edge (`keep_outside`: kept
    as it is). Sizes are those of the upright pictures where there are pictures. What cannot be understood is refused.

    Args:
        source: folder or file; never changed.
        out: folder to make; it must be empty or not be there, and lie outside of `source`.
        read: format of `source`, a key of `READERS`.
        write: one of `WRITERS`.
        options: the rest.

    Returns:
        Counts.

    Raises:
        DataError: the source is not what it should be (file, line or record, and the way out), or `out` is in use.
        OSError: `out` cannot be written.
    """
    source, out, options = Path(source), Path(out), options or Options()
    if read not in READERS or write not in WRITERS:
        raise DataError(f"no way from {read!r} to {write!r}; from {', '.join(READERS)} to {', '.join(WRITERS)}.")
    if not source.exists():
        raise DataError(f"{source}: no such file or folder.")
    check_out(source, out)
    split = split_name(options.split)
    given = None if options.categories is None else read_categories(options.categories)
    found = _reader(read, options, given)(source, split)
    with new_folder(out, source) as unfinished:
        result = _Conversion(found, unfinished, given, read, write, source, options).run()
    result.out = out
    return result


def _reader(read: str, options: Options, given: list[Category] | None) -> Callable[[Path, str], Source]:
    own: dict[str, Any] = {}
    if read == "voc":
        own = {"voc_corners": options.voc_corners}
    elif read in ("coco", "objects365"):
        own = {"progress": options.progress}
    elif read == "crowdhuman":
        own = {"person_box": options.person_box}
    elif read == "yolo":
        own = {"images": options.images, "spare_names": None if given is None else [found.name for found in given]}
    return partial(READERS[read], follow_links=options.follow_links, **own)


class _Conversion:
    def __init__(
        self, found: Source, folder: Path, given: list[Category] | None, read: str, write: str, source: Path,
        options: Options,
    ):  # fmt: skip
        self.found, self.folder, self.options, self.source = found, folder, options, source
        self.read, self.write = read, write
        self.result = Result(folder)
        self.pictures = Pictures(found.root, options.images, options.sizes, options.follow_links)
        self.categories = _with_known_ids(given, found.categories) if given is not None else found.categories
        self.closed = self.categories is not None  # otherwise the list grows with the boxes
        if write == "yolo" and not self.closed:
            raise DataError(
                f"{source}: YOLO numbers its classes, and {read} has no list of them. Give it with --categories."
            )
        self.labels: dict[str, int] = {}
        for category in self.categories or ():
            if self.labels.setdefault(category.name, len(self.labels)) != len(self.labels) - 1:
                raise DataError(f"{source}: a second category named {category.name[:60]!r}; rename it.")
        self.strangers: dict[str, None] = {}  # classes of boxes that are not in the list
        self.names: dict[str, set[str]] = {}

    def run(self) -> Result:
        kind = {"coco": CocoWriter, "yolo": YoloWriter, "voc": partial(VocWriter, voc_corners=self.options.voc_corners)}
        self.writer = kind[self.write](self.folder, self.found.splits)
        self.result.images = dict.fromkeys(self.found.splits, 0)
        self.result.boxes = dict.fromkeys(self.found.splits, 0)
        spool = self.folder / ".report"
        try:
            with spool.open("w+", encoding="utf-8") as self.spool:
                for reason, place in self.found.listed:
                    self._note(self.result.dropped, reason, place)
                bar = tqdm(
                    self.found.pictures, "converting", self.found.total, leave=False, unit="image", dynamic_ncols=True,
                    delay=2.0, disable=not self.options.progress,
                )  # fmt: skip
                for picture in bar:
                    self._one(picture)
                self._finish()
                self._write_report()
        finally:
            self.writer.close()
            spool.unlink(missing_ok=True)
        return self.result

    def _note(self, counts: dict[str, int], reason: str, place: str) -> None:
        counts[reason] = counts.get(reason, 0) + 1
        entry = {"what": reason, "where": place}
        self.spool.write(json.dumps(entry, ensure_ascii=True) + "\n")

    def _one(self, picture: Picture) -> None:
        for reason, place in picture.dropped:
            self._note(self.result.dropped, reason, place)
        name = picture.file_name.replace("\\", "/")
        if picture.may_be_path and self.options.images is not None and leaves(name):
            self._note(self.result.changed, "folders left off the picture's name", f"{picture.place}: {name[:200]}")
            picture.file_name = name.rpartition("/")[2]
        path, fault = self.pictures.find(picture)
        change = None
        if fault is None:
            try:
                change = self.pictures.settle_size(picture, path)
            except UnreadablePicture as error:
                fault = f"picture unreadable ({error.__cause__.__class__.__name__})"
        if fault is not None:
            self._note(self.result.dropped, f"image: {fault}", f"{picture.place}: {picture.file_name}")
            for box in picture.boxes:
                self._note(self.result.dropped, "box of an image left out", box.place)
            return
        if change:
            self._note(self.result.changed, "size taken from the picture", f"{picture.place}: {change}")
        names = self.names.setdefault(picture.split, set())
        if picture.file_name in names:
            raise DataError(
                f"{picture.place}: a second record for picture {picture.file_name!r} in split {picture.split}. "
                "Remove one of them."
            )
        names.add(picture.file_name)
        boxes, labels = [], []
        for box in picture.boxes:
            label = self._label(box)
            if label is not None and self._settle(box, picture):
                boxes.append(box)
                labels.append(label)
        picture.boxes = boxes
        lost = self.writer.add(picture, labels)
        for reason, place in lost:
            self._note(self.result.dropped, reason, place)
        self.result.images[picture.split] += 1
        self.result.boxes[picture.split] += len(boxes) - len(lost)
        if path is not None and self.options.pictures != "none":
            bring(path, self.folder / self.writer.picture_place(picture), self.options.pictures)

    def _label(self, box: Box) -> int | None:
        label = self.labels.get(box.name)
        if label is None and not self.closed:
            label = self.labels[box.name] = len(self.labels)
        if label is None:
            self.strangers[box.name] = None
            self._note(self.result.dropped, f"class {box.name[:40]!r} is not in the list of categories", box.place)
        return label

    def _settle(self, box: Box, picture: Picture) -> bool:
        """Bring a box to pixels and into its picture; False, and noted, where nothing of it is left."""
        width, height = picture.width or 0, picture.height or 0
        if picture.relative:
            box.left, box.width = box.left * width, box.width * width
            box.top, box.height = box.top * height, box.height * height
        if box.width < 0 or box.height < 0:
            self._note(self.result.dropped, "box of negative width or height", box.place)
            return False
        if box.width < SMALLEST or box.height < SMALLEST:
            self._note(self.result.dropped, "box without area", box.place)
            return False
        right, bottom = box.left + box.width, box.top + box.height
        if box.left >= width or box.top >= height or right <= 0 or bottom <= 0:
            self._note(self.result.dropped, "box wholly outside of its image", box.place)
            return False
        out_by = max(-box.left, -box.top, right - width, bottom - height)
        if out_by > 1e-9 and not (self.options.keep_outside and self.write != "yolo"):
            area = box.width * box.height
            left, top = max(box.left, 0.0), max(box.top, 0.0)
            box.left, box.top, box.width, box.height = left, top, min(right, width) - left, min(bottom, height) - top
            if box.area is not None:  # of an outline, or of the whole box
                box.area = None if abs(box.area - area) < 1e-3 * area else min(box.area, box.width * box.height)
            if box.width < SMALLEST or box.height < SMALLEST:
                self._note(self.result.dropped, "box wholly outside of its image", box.place)
                return False
            if out_by > TINY:
                self._note(self.result.changed, "box cut at the edge of its image", box.place)
        return True

    def _finish(self) -> None:
        result = self.result
        if not any(result.images.values()):
            if not result.dropped:
                raise DataError(f"{self.source}: not one record in it. Is it the right file, is it whole?")
            tried = self.pictures.tried()
            raise DataError(f"{self.source}: not one usable image of {sum(result.dropped.values())} records. {tried}")
        if self.options.categories is not None and self.strangers and not any(result.boxes.values()):
            found = ", ".join(repr(name[:40]) for name in list(self.strangers)[:8])
            raise DataError(
                f"{self.source}: not one box is of a class in --categories {self.options.categories[:80]}; its classes "
                f"are {found}{', …' if len(self.strangers) > 8 else ''}. Write them as they stand there."
            )
        if not self.labels:
            raise DataError(f"{self.source}: not one box, so no classes are known. Give them with --categories.")
        if self.closed and self.categories is not None:
            listed, order = list(self.categories), list(range(len(self.labels)))
        else:
            names = sorted(self.labels)
            listed = [Category(name) for name in names]
            rank = {name: i for i, name in enumerate(names)}
            order = [rank[name] for name in self.labels]
        result.categories = len(listed)
        if isinstance(self.writer, CocoWriter):
            result.remarks += self.writer.finish(listed, order)
        else:
            self.writer.finish(listed)
        if not self.pictures.expected:
            result.remarks.append("no pictures found: annotations alone (name their folder with --images)")
        elif self.options.pictures == "none":
            result.remarks.append("pictures left where they are: bring them yourself")
        self.listed = listed

    def _write_report(self) -> None:
        from data_tools.convert.coco import category_ids

        result = self.result
        summary = {
            "source": str(self.source), "from": self.read, "to": self.write,
            "options": {key: str(value) if isinstance(value, Path) else value
                        for key, value in vars(self.options).items() if key != "progress"},
            "images": result.images, "boxes": result.boxes, "dropped": result.dropped, "changed": result.changed,
            "remarks": result.remarks,
            "categories": [{"id": identity, "name": category.name}
                           for identity, category in zip(category_ids(self.listed), self.listed, strict=True)],
        }  # fmt: skip
        with (self.folder / REPORT).open("w", encoding="utf-8") as out:
            out.write(json.dumps(summary, indent=1)[:-2] + ',\n "listed": [')
            self.spool.seek(0)
            for i, row in enumerate(self.spool):
                out.write(("," if i else "") + "\n  " + row.rstrip())
            out.write("\n ]\n}\n")


def _with_known_ids(given: list[Category], known: list[Category] | None) -> list[Category]:
    """Given names without ids take those that the source has for them, if it has one for each."""
    ids = {category.name: category for category in known or ()}
    if all(category.identity is None and category.name in ids for category in given):
        return [ids[category.name] for category in given]
    return given


def summary(result: Result, read: str, write: str) -> str:
    """One line for a person."""
    images = ", ".join(f"{name} {count:,}" for name, count in result.images.items())
    parts = [f"{read} → {write}: {sum(result.images.values()):,} images ({images}), "
             f"{sum(result.boxes.values()):,} boxes, {result.categories} categories in {result.out}"]  # fmt: skip
    for word, counts in (("dropped", result.dropped), ("changed", result.changed)):
        if counts:
            listed = ", ".join(f"{reason}: {count:,}" for reason, count in list(counts.items())[:6])
            more = ", …" if len(counts) > 6 else ""
            parts.append(f"{word} {sum(counts.values()):,} ({listed}{more})")
    return "; ".join([*parts, *result.remarks, f"report: {result.out / REPORT}"])
