"""From records to a new folder: the image of each record, its boxes in that image's pixels, and the books of both."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from data_tools.convert.box_edges import cut, move, reach, to_pixels
from data_tools.convert.coco_writer import CocoWriter, category_ids
from data_tools.convert.image_files import ImageFiles, whose_name
from data_tools.convert.image_headers import UnreadableImage, read_header
from data_tools.convert.new_folder import bring
from data_tools.convert.records import Box, Category, ImageRecord, Source, clean_name
from data_tools.convert.report import Report, Result
from data_tools.convert.same_images import SameImages
from data_tools.convert.tables import with_known_ids
from data_tools.convert.units import Units, check_units
from data_tools.convert.voc import VocWriter
from data_tools.convert.yolo_writer import YoloWriter
from data_tools.image_frames import Evidence, Header, needs_decision
from dfine_lib.data.images import DataError

WRITERS = ("coco", "yolo", "voc")
OTHER_SIZE = "image of another size than its annotation says"
IGNORED = "difficult object, trained on and ignored in evaluation"
TINY = 0.01  # pixels: what a box sticks out by rounding is cut off and not counted


class Conversion:
    """One conversion: `run` goes through the records of a source once."""

    def __init__(self, found: Source, folder: Path, given: list[Category] | None, report: Report):
        self.found, self.folder, self.report = found, folder, report
        self.options, self.ledger, self.result = report.options, report.ledger, report.result
        self.images = ImageFiles(found.root, self.options.images, self.options.sizes, self.options.follow_links)
        self.ledger.found("images", len(self.images.files) + len(self.images.not_opened))
        self.categories = with_known_ids(given, found.categories) if given is not None else found.categories
        self.closed = self.categories is not None  # otherwise the list grows with the boxes
        if report.write == "yolo" and not self.closed:
            raise DataError(
                f"{report.source}: YOLO numbers its classes, and {report.read} has no list of them. Give it with "
                "--categories."
            )
        self.labels: dict[str, int] = {}
        for category in self.categories or ():
            if self.labels.setdefault(category.name, len(self.labels)) != len(self.labels) - 1:
                raise DataError(f"{report.source}: a second category named {category.name[:60]!r}; rename it.")
        self.strangers: dict[str, None] = {}  # classes of boxes that are not in the list
        self.same = SameImages(len(found.splits) > 1)
        self.names: dict[str, dict[str, str]] = {}  # split → file name → location of its record
        self.evidence = Evidence(self.options.exif)
        self.waiting: list[tuple[ImageRecord, Path, Header]] = []  # for a decision about the whole source
        self.copies: list[tuple[ImageRecord, Path, str]] = []  # images that another split has as well, and that split
        self.used: set[int] = set()  # labels of boxes that were taken
        self.repeated = 0  # boxes that stand twice in their image
        self.units: dict[str, Units] = {}  # by split, of boxes that are said to be in pixels

    def run(self) -> Result:
        """Convert.

        Raises:
            NothingLeft: no image or no box is left.
            DataError: see `convert`.
        """
        kind = {"coco": CocoWriter, "yolo": YoloWriter, "voc": partial(VocWriter, voc_corners=self.options.voc_corners)}
        self.writer = kind[self.report.write](self.folder, self.found.splits)
        self.result.images = dict.fromkeys(self.found.splits, 0)
        self.result.boxes = dict.fromkeys(self.found.splits, 0)
        try:
            bar = tqdm(
                self.found.records, "converting", self.found.total, leave=False, unit="image", dynamic_ncols=True,
                delay=2.0, disable=not self.options.progress,
            )  # fmt: skip
            for record in bar:
                self._take(record)
            self._take_waiting()
            self._settle_copies()
            for location, reason in self.images.left():
                self.ledger.left_out("images", reason, location)
            check_units(self.units, self.report)
            self._check_rest()
            return self._finish()
        finally:
            self.writer.close()

    def _take(self, record: ImageRecord) -> None:
        """Find the image of a record, and write both, unless their sizes need a decision first."""
        self.ledger.found("records")
        self.ledger.found("boxes", len(record.boxes))
        record.relative = record.relative or self.options.fractions
        said_name = record.file_name
        found = self.images.find(record) if self.images.expected else None
        if isinstance(found, str):
            self._leave(record, found)
            return
        if found is None:
            record.file_name = self._name_without_image(record)
            record.width, record.height = self.images.size(record)
            self._note_reach(record, (record.width, record.height))
            self._write(record, None)
            return
        self.same.add(found.path, record.split, record.location, found.path.name if record.own else said_name)
        record.file_name = found.name
        if found.how is not None:
            self.report.changed(found.how, f"{record.location}: {said_name[:200]} is {found.path}")
        if record.own and (whose := whose_name(record, found.path)):
            self.report.changed(whose, f"{record.location}: {record.name_inside[:200]}, image {found.path}")
        try:
            header, frames = read_header(found.path)
        except UnreadableImage as error:
            self._leave(record, f"image unreadable ({error})", found.path)
            return
        if frames > 1:
            self.report.changed("only the first frame of the image is used", f"{found.path}: {frames:,} frames")
        said = _said(record)
        self.evidence.add(said, header, None if record.relative else reach(record.boxes), str(found.path))
        if not record.relative and needs_decision(said, header):
            self.waiting.append((record, found.path, header))
        else:
            self._place(record, found.path, header)

    def _take_waiting(self) -> None:
        """Write the records that waited for the decision about turned images."""
        if self.waiting and self.evidence.frame() is None:
            raise DataError(
                f"{self.report.source}: {self.evidence.doubt()}. Look at one of them, and say --exif upright or "
                "--exif stored."
            )
        if self.evidence.frame() == "stored" and self.waiting:
            self.report.remark("boxes were drawn on the images as stored: turned upright with them, as EXIF says")
        elif self.evidence.turned and self.options.exif is None and not self.evidence.said_upright:
            self.report.remark(
                f"EXIF turns {self.evidence.turned:,} images: boxes are taken as drawn on the upright image (--exif "
                "stored takes them as drawn on the image as stored)"
            )
        for record, path, header in self.waiting:
            self._place(record, path, header)

    def _place(self, record: ImageRecord, path: Path, header: Header) -> None:
        """Bring the boxes into the pixels of the upright image, and write the record."""
        said = _said(record)
        placement = self.evidence.placement(None if record.relative else said, header)
        if placement is None and said is not None:
            true = header.upright
            self._leave(record, OTHER_SIZE, path,
                        f"says {said[0]} x {said[1]}, is {true[0]} x {true[1]}")  # fmt: skip
            return
        true = header.upright
        self._note_reach(record, said or true)
        if record.relative:
            to_pixels(record.boxes, header.stored if placement.turn else true)
        if not placement.is_identity:
            for box in record.boxes:
                move(box, placement.edges((box.left, box.top, box.left + box.width, box.top + box.height)),
                      placement.scale)  # fmt: skip
        if not record.relative and said is not None and said != true:
            what = "boxes scaled to the size of the image, which was resized" if placement.scale != (1.0, 1.0) else (
                "boxes turned with their image, as EXIF says" if placement.turn else "size taken from the image"
            )  # fmt: skip
            self.report.changed(what, f"{record.location}: says {said[0]} x {said[1]}, is {true[0]} x {true[1]}")
        elif placement.turn:
            self.report.changed("boxes turned with their image, as EXIF says", record.location)
        record.width, record.height, record.relative = *true, False
        self._write(record, path)

    def _write(self, record: ImageRecord, path: Path | None) -> None:
        """Write a record, unless another split has its image."""
        if path is not None and (other := self.same.split_with(path)) not in (None, record.split):
            self.copies.append((record, path, other))
            return
        self._add(record, path)

    def _settle_copies(self) -> None:
        """Leave out images that another split has under another name, unless nothing would be left of a split."""
        empty = {split for split, count in self.result.images.items() if not count}
        for record, path, other in self.copies:
            if record.split not in empty:
                self._leave(record, f"the same image is in {other}", path)
                continue
            self.report.remark(
                f"every image of {record.split} is a copy of one of {other}: kept, since nothing else is there; "
                f"a result on {other} says nothing about other images"
            )
            self._add(record, path)

    def _add(self, record: ImageRecord, path: Path | None) -> None:
        """Check the boxes, write the record, bring the image."""
        names = self.names.setdefault(record.split, {})
        if (other := names.setdefault(record.file_name, record.location)) != record.location:
            raise DataError(
                f"{record.location}: a second image named {record.file_name[:80]!r} in split {record.split}; the first "
                f"is that of {other}. Rename one of them, in the folder and in its annotation."
            )
        if record.relative:
            to_pixels(record.boxes, (record.width or 0, record.height or 0))
        boxes, labels, seen = [], [], set()
        for box in record.boxes:
            label = self._label(box)
            if label is not None and self._settle(box, record):
                at = label, round(box.left, 2), round(box.top, 2), round(box.width, 2), round(box.height, 2)
                self.repeated += at in seen and not (box.crowd or box.ignore)
                seen.add(at)
                boxes.append(box)
                labels.append(label)
                self.used.add(label)
                for note in (*box.notes, IGNORED) if box.difficult and self.report.write == "coco" else box.notes:
                    self.report.changed(note, box.location)
        record.boxes = boxes
        lost = self.writer.add(record, labels)
        for reason, location in lost:
            self.ledger.left_out("boxes", reason, location)
        kept = len(boxes) - len(lost)
        self.ledger.taken("records")
        self.ledger.taken("boxes", kept)
        self.result.images[record.split] += 1
        self.result.boxes[record.split] += kept
        if path is not None:
            self._mark(path)
            self.ledger.taken("images")
            self.same.remember(path, record.split)
            if self.options.image_files != "none":
                bring(path, self.folder / self.writer.image_path(record), self.options.image_files)

    def _leave(self, record: ImageRecord, reason: str, path: Path | None = None, more: str = "") -> None:
        """Leave out a record with its boxes, and its image where it has one."""
        more = f" {more}" if more else ""
        self.ledger.left_out("records", reason, f"{record.location}: {record.file_name}{more}")
        for box in record.boxes:
            self.ledger.left_out("boxes", "image left out", box.location)
        if path is not None:
            self._mark(path)
            self.ledger.left_out("images", reason, path)

    def _mark(self, path: Path) -> None:
        if not self.images.mark(path):  # its name has no ending of an image, so that it was not counted before
            self.ledger.found("images")

    def _name_without_image(self, record: ImageRecord) -> str:
        name = clean_name(record.file_name, record.location, record.may_be_path)
        known = self.images.sizes.get(name.rpartition(".")[0])
        return name if known is None else known[0]

    def _label(self, box: Box) -> int | None:
        label = self.labels.get(box.name)
        if label is None and not self.closed:
            label = self.labels[box.name] = len(self.labels)
        if label is None:
            self.strangers[box.name] = None
            self.ledger.left_out("boxes", f"class {box.name[:40]!r} is not in the list of categories", box.location)
        return label

    def _settle(self, box: Box, record: ImageRecord) -> bool:
        """Cut a box at the edges of its image; False, and counted, where nothing of it is left."""
        keep_outside = self.options.keep_outside and self.report.write != "yolo"
        out_by = cut(box, record.width or 0, record.height or 0, keep_outside)
        if isinstance(out_by, str):
            self.ledger.left_out("boxes", out_by, box.location)
            return False
        if out_by > TINY and not keep_outside:
            self.report.changed("box cut at the edge of its image", box.location)
        return True

    def _note_reach(self, record: ImageRecord, size: tuple[int, int]) -> None:
        """Remember the numbers of boxes in pixels, to know fractions and percentages by."""
        if not record.relative:
            boxes = ((box.left, box.top, box.width, box.height) for box in record.boxes)
            self.units.setdefault(record.split, Units()).add(boxes, size, record.location)

    def _check_rest(self) -> None:
        """Refuse a result with nothing in it, as a whole or in a split that the source names.

        Raises:
            NothingLeft: says which reason took most.
        """
        kinds = ("annotation files", "records", "boxes", "images")
        for name in self.images.linked_folders[:1]:
            count = len(self.images.linked_folders)
            self.report.remark(
                f"{count:,} linked folders were not entered, {name} the first (--follow-links enters them)"
            )
        if not any(self.result.images.values()):
            raise self.report.nothing_left("no image is left", kinds, self._way_out())
        if self.strangers and not any(self.result.boxes.values()):
            found = ", ".join(repr(name[:40]) for name in list(self.strangers)[:8])
            raise self.report.nothing_left(
                "no box is left", ("boxes",),
                f"Not one box is of a class in {str(self.options.categories or 'the list')[:80]}; its classes are "
                f"{found}{', …' if len(self.strangers) > 8 else ''}. Write them as they stand there.",
            )  # fmt: skip
        if not any(self.result.boxes.values()):
            raise self.report.nothing_left("no box is left", kinds)
        if empty := [name for name, count in self.result.images.items() if not count]:
            raise self.report.nothing_left(f"no image is left in split {empty[0]}", kinds, self._way_out())
        if unused := len(self.labels) - len(self.used):
            self.report.remark(f"{unused:,} of {len(self.labels):,} classes have no boxes")
        if self.repeated:
            self.report.remark(f"{self.repeated:,} boxes stand twice in their image (`dfine doctor --fix` drops them)")
        for name, count in self.result.boxes.items():
            if not count:
                self.report.remark(f"{name} has no boxes: nothing can be measured on it")

    def _way_out(self) -> str:
        """What to try, by why records were left out."""
        reasons = self.ledger.reasons("records")
        if next(iter(reasons), "") == OTHER_SIZE:
            return "Give the images that were annotated, in the source or with --images."
        if self.images.files and "image missing" not in reasons:
            return ""
        if self.images.named:
            return f"Is {self.images.home} the folder of the images?"
        return "Name the folder of the images with --images." if self.images.expected else ""

    def _finish(self) -> Result:
        if self.closed and self.categories is not None:
            listed, order = list(self.categories), list(range(len(self.labels)))
        else:
            names = sorted(self.labels)
            listed = [Category(name) for name in names]
            rank = {name: i for i, name in enumerate(names)}
            order = [rank[name] for name in self.labels]
        self.result.categories = len(listed)
        self.result.remarks += self.writer.finish(listed, order)
        if not self.images.expected:
            self.report.remark("no images found: annotations alone (name their folder with --images)")
        elif self.options.image_files == "none":
            self.report.remark("images left where they are: bring them yourself")
        written: list[dict[str, Any]] = [
            {"id": identity, "name": category.name}
            for identity, category in zip(category_ids(listed), listed, strict=True)
        ]
        return self.report.finish(written)


def _said(record: ImageRecord) -> tuple[int, int] | None:
    return (record.width, record.height) if record.width and record.height else None
