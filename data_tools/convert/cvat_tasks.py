"""The tasks of CVAT's XML: whose image or frame is whose, in which split, and under which name it is looked for."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from data_tools.convert.records import number, size_or_none, text
from data_tools.convert.source_folder import SourceFolder
from data_tools.convert.splits import split_name
from data_tools.convert.xml_stream import child_text
from dfine_lib.data.images import DataError

MOST_FRAMES = 5_000_000
_FRAME_BITS = 40  # a frame of a task is one integer


@dataclass(slots=True)
class Task:
    """One task of one file; a file of a single task does not number it."""

    file: Path
    index: int  # among all tasks of the source
    identity: str = ""
    name: str = ""
    subset: str = ""
    start: int = 0
    stop: int | None = None  # the last frame; None where the file does not say
    step: int = 1
    offset: int = 0  # of its frames in a project, which counts on from task to task of a subset
    width: int | None = None
    height: int | None = None

    @property
    def location(self) -> str:
        """For messages."""
        return f"{self.file}, task {self.identity}" if self.identity else str(self.file)

    def key(self, frame: int) -> int:
        """One integer for a frame of this task."""
        return self.index << _FRAME_BITS | frame

    def read_meta(self, element: Element) -> None:
        """Take what <task> or <job> says."""
        self.name = (child_text(element, "name") or "").strip()
        self.subset = (child_text(element, "subset") or "").strip()
        self.start = whole(child_text(element, "start_frame") or "0", self.location, "start_frame")
        if (stop := child_text(element, "stop_frame")) is not None:
            self.stop = whole(stop, self.location, "stop_frame")
            if self.stop - self.start > MOST_FRAMES:
                raise DataError(
                    f"{self.location}: stop_frame is {self.stop:,}; more than {MOST_FRAMES:,} frames are no video."
                )
        step = re.fullmatch(r"\s*step\s*=\s*([1-9]\d{0,6})\s*", child_text(element, "frame_filter") or "")
        self.step = int(step[1]) if step else 1
        sizes = (child_text(element, f"original_size/{key}") for key in ("width", "height"))
        self.width, self.height = (size_or_none(value, self.location, "original_size") for value in sizes)

    def frames(self, with_boxes: set[int]) -> list[int]:
        """Frames with boxes, and those of the task that have none."""
        frames = set(with_boxes)
        if self.stop is not None:
            shift = self.offset if max(frames, default=0) > self.stop else 0
            frames |= {frame + shift for frame in range(self.start, self.stop + 1, self.step)}
        return sorted(frames)


def frame_of(key: int) -> int:
    """The frame of a key."""
    return key & ((1 << _FRAME_BITS) - 1)


def task_index(key: int) -> int:
    """The index of the task of a key."""
    return key >> _FRAME_BITS


def frame_name(frame: int) -> str:
    """As CVAT names the images that it makes of a video."""
    return f"frame_{frame:06d}.png"


class Tasks:
    """All tasks of a source with these annotation files, and how often an image's name occurs in them."""

    def __init__(self, source: SourceFolder, files: list[Path]):
        self.source, self.root = source, source.root
        self.folders = Counter(file.parent for file in files)
        self.all: list[Task] = []
        self._by_name: dict[tuple[Path, str], Task] = {}
        self._names: dict[str, set[tuple[int, str]]] = {}  # image's name → its tasks, with their splits
        self._subsets: set[str] = set()

    def add(self, file: Path, metas: list[Element]) -> None:
        """Take the <task> and <job> elements of a file."""
        offsets: Counter[str] = Counter()
        for element in metas:
            alone = len(metas) == 1
            task = self.of(file, "" if alone else (child_text(element, "id") or "").strip())
            task.read_meta(element)
            if alone and (identity := (child_text(element, "id") or "").strip()):
                self._by_name[file, identity] = task
            task.offset = offsets[task.subset]
            size = whole(child_text(element, "size") or "0", task.location, "size")
            offsets[task.subset] += task.start + task.step * size

    def of(self, file: Path, identity: str | None) -> Task:
        """The task with that number in a file; made where it is new."""
        key = (file, identity or "")
        if key not in self._by_name:
            self._by_name[key] = Task(file, len(self.all), key[1])
            self.all.append(self._by_name[key])
        return self._by_name[key]

    def note_subset(self, task: Task, subset: str | None) -> None:
        """Note that a subset occurs: `default` is the split that the user names, where there is no other."""
        self._subsets.add((subset or task.subset or "").strip())

    def split_of(self, task: Task, subset: str | None) -> str:
        """The split of an image or a track."""
        name = (subset or task.subset or "").strip()
        if name.lower() == "default" and not any(other.lower() not in ("", "default") for other in self._subsets):
            name = ""
        return split_name(name) if name else self.source.split_of(task.file)

    def note_name(self, task: Task, subset: str | None, name: str) -> None:
        """Note that a task has an image of that name; all subsets must be known."""
        self._names.setdefault(name, set()).add((task.index, self.split_of(task, subset)))

    def names(self, task: Task, split: str, name: str) -> dict[str, Any]:
        """`file_name`, `own`, `folders` and `spare_names` of the record of one image.

        An image whose name another task has as well is looked for in a folder of its task, and only where that task
        is one of another split also in the folder of the split.
        """
        folder = task.file.parent
        places = (folder / "images", folder) if folder != self.root else ()
        with_name = self._names.get(name, set())
        if len(with_name) < 2:
            return {"file_name": name, "folders": places}
        within = sum(own == split for _, own in with_name) > 1
        own: tuple[Path, ...] = ()
        if self.folders[folder] == 1 and folder != self.root and sum(
            self.all[index].file == task.file for index, _ in with_name) == 1:  # fmt: skip
            stem = Path(name).with_suffix("")
            own = tuple(place / stem for place in places)
        first, *others = self._task_folders(task)
        spare = [f"{folder}/{name}" for folder in others] + ([] if within else [name])
        return {"file_name": f"{first}/{name}", "own": own, "spare_names": tuple(spare)}

    def _task_folders(self, task: Task) -> list[str]:
        """Folders that an image of one task may lie in; the first tells the images apart in the new folder."""
        below = task.file.relative_to(self.root)
        of_file = below.parent.as_posix() if below.parent.parts else below.stem
        if not task.identity:
            return [of_file]
        several = len({other.file for other in self.all}) > 1
        named = [f"task{task.identity}", f"task_{task.identity}"]
        if re.fullmatch(r"\w[\w .-]*", task.name) and sum(other.name == task.name for other in self.all) == 1:
            named.append(task.name)
        return [f"{of_file}/{folder}" for folder in named] if several else named


def whole(value: str | None, location: str, what: str) -> int:
    """A whole number from 0, small enough for a frame.

    Raises:
        DataError: it is none.
    """
    found = number(value, location, what)
    if found < 0 or found != int(found):
        raise DataError(f"{location}: {what} should be a whole number from 0, got {found:g}.")
    return int(found)


def label_of(element: Element, location: str) -> str:
    """The class of a shape or track."""
    return text(element.get("label"), location, "label").strip()
