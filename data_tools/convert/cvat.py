"""CVAT's XML: boxes, polygons, polylines, ellipses, masks; turned boxes by the upright box around them.

"CVAT for images" names its images. "CVAT for video" numbers its frames, of which CVAT's own export makes images named
`frame_000000.PNG`; the images are looked for under that name. A project's export holds several tasks, and a folder may
hold several exports: images of one name in two tasks are two images, `task5/NAME` and `task6/NAME`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

from data_tools.convert.annotation_files import annotation_files
from data_tools.convert.cvat_tasks import Task, Tasks, frame_name, frame_of, label_of, task_index, whole
from data_tools.convert.packed import BoxColumns
from data_tools.convert.records import (
    Box,
    Category,
    ImageRecord,
    Source,
    around,
    around_turned,
    corners,
    number,
    size_or_none,
    text,
)  # fmt: skip
from data_tools.convert.source_folder import KIND, SourceFolder
from data_tools.convert.splits import in_order
from data_tools.convert.xml_stream import OtherXml, child_text
from dfine_lib.data.images import DataError

BOXLESS = ("points", "cuboid", "skeleton", "tag")
SHAPES = ("box", "polygon", "polyline", "ellipse", "mask", *BOXLESS)
NO_CLASS = ("points", "tag", "skeleton")  # types of labels whose shapes have no box


def read_cvat(source: SourceFolder) -> Source:
    """One XML file, or a folder with one or several; the `subset` of an image, a track or a task is its split."""
    files = annotation_files(source, ".xml", "CVAT files")
    reader = _Reader(source, files)
    for file in files:
        source.ledger.found(KIND)
        try:
            reader.look_through(file)
            source.ledger.taken(KIND)
        except OtherXml as error:
            if len(files) == 1:
                raise
            source.ledger.left_out(KIND, f"no <annotations> but <{error.tag[:40]}>", file)
    reader.sort()
    categories = [Category(name) for name in reader.classes] or None
    return Source(source.root, reader.records(), in_order(reader.splits), categories, reader.total)


class _Reader:
    """Two passes: classes, tasks, names and tracks; then the images."""

    def __init__(self, source: SourceFolder, files: list[Path]):
        self.source, self.ledger = source, source.ledger
        self.tasks = Tasks(source, files)
        self.classes: dict[str, None] = {}
        self.splits: dict[str, None] = {}
        self.files: dict[Path, set[int]] = {}  # file → keys of its images, by task and id
        self._images: list[tuple[Task, str, str]] = []  # task, subset, name
        self._tracks: dict[int, str] = {}  # task → the subset of its tracks
        self._labels: dict[str, int] = {}
        self._count = 0
        self._boxes = BoxColumns()

    def look_through(self, file: Path) -> None:
        """The first pass over a file."""
        metas: list[Element] = []
        self.files[file] = set()
        images, tracks = 0, 0
        kinds = ("label", "task", "job", "image", "track")
        for element in self.source.xml(file, *kinds, outermost="annotations"):
            if element.tag in ("image", "track") and metas:
                self.tasks.add(file, metas)
                metas = []
            if element.tag == "label":
                self._add_class(element, str(file))
            elif element.tag in ("task", "job"):
                metas.append(_copy(element))
            elif element.tag == "image":
                self._note_image(element, file, images)
                images += 1
            else:
                tracks += 1
                self._add_track(element, file, tracks)
        if metas:
            self.tasks.add(file, metas)
        if not images and not tracks:
            raise DataError(f"{file}: no <image> and no <track> in it. Export the annotations of CVAT again.")

    def _add_class(self, element: Element, location: str) -> None:
        if not (name := (child_text(element, "name") or "").strip()) or name in self.classes:
            return
        if (kind := child_text(element, "type")) in NO_CLASS:
            self.ledger.skip("classes", f"label of type {kind}, which has no boxes", f"{location}, label {name[:200]}")
            return
        self.ledger.accept("classes")
        self.classes[name] = None

    def _note_image(self, element: Element, file: Path, i: int) -> None:
        task = self.tasks.of(file, element.get("task_id"))
        location = f"{file}, image {(element.get('id') or str(i))[:40]}"
        self.tasks.note_subset(task, element.get("subset"))
        self._images.append((task, element.get("subset") or "", text(element.get("name"), location, "name")))
        if (element.get("id") or "").isdigit() and len(element.get("id") or "") < 8:
            self.files[file].add(task.key(int(element.get("id") or "")))

    def _add_track(self, track: Element, file: Path, i: int) -> None:
        location = f"{file}, track {i}"
        name = label_of(track, location)
        label = self._labels.setdefault(name, len(self._labels))
        task = self.tasks.of(file, track.get("task_id"))
        subset = self._tracks.setdefault(task.index, track.get("subset") or "")
        if subset != (track.get("subset") or ""):
            raise DataError(
                f"{location}: subset {track.get('subset')!r}, and {subset!r} in another track of the same frames. "
                "Export every task by itself."
            )
        self.tasks.note_subset(task, subset)
        for shape in track:
            if shape.tag not in SHAPES or shape.get("outside") == "1":  # the object has left the image
                continue
            frame = whole(shape.get("frame"), location, "frame")
            if shape.tag in BOXLESS:
                self.ledger.skip("boxes", f"<{shape.tag}>, which has no box", f"{location}, frame {frame}")
                continue
            shape.set("label", name)
            box = _box(shape, f"{location}, frame {frame}")
            self._boxes.add(task.key(frame), label, i, [box.left, box.top, box.width, box.height])

    def sort(self) -> None:
        """Between the passes: all splits, all names, the frames of all tracks."""
        self._boxes.sort()
        with_boxes: dict[int, set[int]] = {}
        for key in self._boxes.image_keys():
            task = self.tasks.all[task_index(key)]
            if key not in self.files[task.file]:
                with_boxes.setdefault(task.index, set()).add(frame_of(key))
        of_images = {task.index for task, *_ in self._images}
        self.frames = {task.index: sorted(with_boxes.get(task.index, ())) if task.index in of_images
                       else task.frames(with_boxes.get(task.index, set()))
                       for task in self.tasks.all if task.index in self._tracks}  # fmt: skip
        for task, subset, name in self._images:
            self._note(task, subset, name)
        for index, frames in self.frames.items():
            for frame in frames:
                self._note(self.tasks.all[index], self._tracks[index], frame_name(frame))
        self.total = len(self._images) + sum(map(len, self.frames.values()))
        self._images = []

    def _note(self, task: Task, subset: str, name: str) -> None:
        self.splits[self.tasks.split_of(task, subset)] = None
        self.tasks.note_name(task, subset, name)

    def records(self) -> Iterator[ImageRecord]:
        """The second pass: images, then frames, file by file; those of train in a pass of their own, the last."""
        for train in (False, True) if len(self.splits) > 1 else (self.splits.keys() == {"train"},):
            for file in self.files:
                yield from self._images_of(file, train)
                for index, frames in self.frames.items():
                    task = self.tasks.all[index]
                    if task.file == file and (self.tasks.split_of(task, self._tracks[index]) == "train") == train:
                        yield from (self._frame(task, frame) for frame in frames)

    def _images_of(self, file: Path, train: bool) -> Iterator[ImageRecord]:
        for i, image in enumerate(self.source.xml(file, "image")):
            identity = image.get("id") or str(i)
            location = f"{file}, image {identity[:40]}"
            task = self.tasks.of(file, image.get("task_id"))
            split = self.tasks.split_of(task, image.get("subset"))
            if (split == "train") != train:
                continue
            boxes = []
            for j, shape in enumerate(image):
                where = f"{location}, shape {j + 1}"
                if shape.tag in BOXLESS:
                    self.ledger.skip("boxes", f"<{shape.tag}>, which has no box", where)
                elif shape.tag in SHAPES:
                    boxes.append(_box(shape, where))
            if identity.isdigit() and (key := task.key(int(identity[:7]))) in self.files[file] and self._tracks:
                boxes += self._boxes_of(task, key)
            yield ImageRecord(
                split, width=size_or_none(image.get("width"), location, "width"),
                height=size_or_none(image.get("height"), location, "height"), boxes=boxes, location=location,
                **self.tasks.names(task, split, text(image.get("name"), location, "name")),
            )  # fmt: skip

    def _frame(self, task: Task, frame: int) -> ImageRecord:
        split = self.tasks.split_of(task, self._tracks[task.index])
        return ImageRecord(
            split, width=task.width, height=task.height, boxes=self._boxes_of(task, task.key(frame)),
            location=f"{task.location}, frame {frame}", **self.tasks.names(task, split, frame_name(frame)),
        )  # fmt: skip

    def _boxes_of(self, task: Task, key: int) -> list[Box]:
        return self._boxes.boxes_of(key, list(self._labels), f"{task.file}, track ", f", frame {frame_of(key)}")


def _copy(element: Element) -> Element:
    """A <task> or <job> that stays when its file is read on."""
    kept = Element(element.tag)
    kept.extend(list(element))
    return kept


def _box(shape: Element, location: str) -> Box:
    name = label_of(shape, location)

    def value(key: str) -> float:
        return number(shape.get(key), location, key)

    if shape.tag == "mask":
        return Box(value("left"), value("top"), value("width"), value("height"), name, location=location)
    if shape.tag in ("polygon", "polyline"):
        points = []
        for pair in (shape.get("points") or "").split(";"):
            x, comma, y = pair.partition(",")
            if not comma:
                raise DataError(f"{location}: points should be x,y;x,y;…, got {pair[:40]!r}.")
            points.append((number(x, location, "x"), number(y, location, "y")))
        return around(points, name, location)
    turn = math.radians(number(shape.get("rotation") or "0", location, "rotation"))
    if shape.tag == "ellipse":
        x, y, rx, ry = value("cx"), value("cy"), value("rx"), value("ry")
        half = (
            math.hypot(rx * math.cos(turn), ry * math.sin(turn)),
            math.hypot(rx * math.sin(turn), ry * math.cos(turn)),
        )
        return corners(x - half[0], y - half[1], x + half[0], y + half[1], name, location)
    x1, y1, x2, y2 = value("xtl"), value("ytl"), value("xbr"), value("ybr")
    if not turn:
        return corners(x1, y1, x2, y2, name, location)
    return around_turned(x1, y1, x2 - x1, y2 - y1, turn, name, location)
