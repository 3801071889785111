"""What describes a YOLO data set: `data.yaml`, darknet's `obj.data`, and lists of class names, one a line."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_tools.convert.class_names import MOST, names_of, names_of_lines, read_yaml
from data_tools.convert.source_folder import SourceFolder
from data_tools.convert.splits import known_split
from data_tools.convert.yolo_files import CLASS_LISTS, YoloFiles, inside, is_absolute
from dfine_lib.data.images import DataError

_USUAL = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml", "obj.data")
_NO_SPLITS = ("path", "names", "nc", "download", "kpt_shape", "flip_idx", "kpt_names", "classes", "backup", "eval",
              "results", "task", "colors", "images", "labels", "yaml_file", "roboflow", "license")  # fmt: skip


@dataclass
class Settings:
    """What the description of a data set says."""

    file: Path | None = None
    folder: str = ""  # of the file, below the root
    base: str = ""  # `path`
    entries: dict[str, list[str]] = field(default_factory=dict)  # key of a split → its paths, as they are written
    names: list[str] | None = None  # "": the number of an empty line
    keypoints: int = 0  # numbers behind the box
    outlines: bool = False  # `task` says that longer rows are; otherwise they show it themselves

    @property
    def folders(self) -> list[str]:
        """What relative paths may be relative to, below the root."""
        base = self.base.replace("\\", "/")
        joined = posixpath.normpath(posixpath.join(self.folder, base))
        own = [] if not base or is_absolute(base) or joined.startswith("..") else ["" if joined == "." else joined]
        return [*own, self.folder, ""]


def find_settings(files: YoloFiles) -> Settings:
    """The description of a source, and its class names.

    Raises:
        DataError: two descriptions, or two lists of names, that differ; or what stands there makes no sense.
    """
    source = files.source.path
    if source.is_file():
        if source.suffix.lower() not in (".yaml", ".yml", ".data"):
            raise DataError(
                f"{source}: expected the folder of a data set, its data.yaml or its obj.data. Give one of these."
            )
        found = _read(source, files.source)
    else:
        found = _of_folder(files)
    if found.names is None:
        found.names = _class_lists(files)
    return found


def _of_folder(files: YoloFiles) -> Settings:
    """The one description in the root of a folder, else the one that lies deeper."""
    candidates = [path for path in files.others if path.lower().endswith((".yaml", ".yml", ".data"))]
    depths = sorted({path.count("/") for path in candidates})
    for depth in depths:
        level = [path for path in candidates if path.count("/") == depth]
        usual = [path for name in _USUAL for path in level if posixpath.basename(path).lower() == name]
        if usual and (depth == 0 or len(usual) == 1):
            return _read(files.root / usual[0], files.source)
        found = []
        for path in usual or level:
            try:
                settings = _read(files.root / path, files.source)
            except DataError:
                if len(level) == 1 and depth == 0:
                    raise
                continue  # a file of another tool
            if settings.names is not None or settings.entries:
                found.append(settings)
        if len(found) > 1:
            raise DataError(
                f"{files.root}: several descriptions of a data set: {', '.join(str(one.file) for one in found)[:300]}. "
                f"Give one of them in place of the folder: {found[0].file}."
            )
        if found:
            return found[0]
    return Settings()


def _read(file: Path, source: SourceFolder) -> Settings:
    root, content = source.root, source.text(file, MOST)
    folder = file.parent.relative_to(root).as_posix()
    found = Settings(file, "" if folder == "." else folder)
    if file.suffix.lower() == ".data":
        rows = content.splitlines()
        settings = {key.strip(): value.strip() for key, sign, value in (row.partition("=") for row in rows) if sign}
    else:
        settings = read_yaml(file, content)
    base = settings.get("path")
    found.base = base.strip() if isinstance(base, str) and "\0" not in base and len(base) < 1000 else ""
    for key, value in settings.items():
        may_be = known_split(str(key)) is not None or (str(key).lower() not in _NO_SPLITS and _is_path(value))
        if may_be and (entries := _entries(value, key, file)):
            found.entries[str(key)] = entries
    names = settings.get("names")
    if isinstance(names, str):
        lists = [path for path in _places(names, found, root) if (root / path).is_file()]
        if not lists:
            if file.suffix.lower() != ".data":
                raise DataError(f"{file}: 'names' is {names[:80]!r}, neither a list of names nor a file that is here.")
        else:
            found.names = _names_in(root / lists[0], source)
    elif names is not None:
        found.names = names_of(names, str(file))
    count = settings.get("nc", settings.get("classes"))
    if found.names is not None and str(count).isdigit() and int(count) != len(found.names):
        raise DataError(
            f"{file}: {'nc' if 'nc' in settings else 'classes'} is {count}, but there are {len(found.names)} names: is "
            "one missing, or one too many? Correct it, so that each class number has its name."
        )
    found.keypoints = _keypoint_numbers(settings.get("kpt_shape"), str(file))
    if isinstance(task := settings.get("task"), str):
        found.outlines = task.lower() in ("segment", "obb")
    return found


def _places(path: str, settings: Settings, root: Path) -> list[str]:
    """Where a file that obj.data names may be; `data/` is the folder of obj.data itself, where that has no `data`."""
    path = path.replace("\\", "/").strip()
    found = inside(path, settings.folders, root)
    if path.startswith("data/"):
        found += inside(path[5:], settings.folders, root)
    return found


def _is_path(value: Any) -> bool:
    return isinstance(value, str | list) and any(
        isinstance(one, str) and ("/" in one or one.endswith(".txt")) and "://" not in one
        for one in ([value] if isinstance(value, str) else value)
    )


def _entries(value: Any, key: Any, file: Path) -> list[str]:
    if value is None or value == "" or value == []:
        return []
    if isinstance(value, bool):  # `val: true` in a file of another tool
        return []
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list) or not all(
        isinstance(entry, str) and entry.strip() and "\0" not in entry and len(entry) < 1000 for entry in entries
    ):
        raise DataError(f"{file}: {str(key)[:40]!r} should be a path or a list of paths. Correct it.")
    return [entry.strip() for entry in entries]


def _class_lists(files: YoloFiles) -> list[str] | None:
    """The names in obj.names, classes.txt … wherever they lie; None where there is no such file."""
    lists = [path for path in files.others if path.lower().endswith((".names", ".labels"))]
    lists += [path for path in files.texts if posixpath.basename(path).lower() in CLASS_LISTS]
    found: dict[tuple[str, ...], str] = {}
    for path in lists:
        found.setdefault(tuple(_names_in(files.root / path, files.source)), path)
    if len(found) > 1:
        raise DataError(
            f"{files.root}: lists of class names that differ: {', '.join(list(found.values())[:4])}. A class number "
            "would mean one class here and another there. Remove the wrong ones, or write 'names' into a data.yaml."
        )
    return list(next(iter(found))) if found else None


def _names_in(file: Path, source: SourceFolder) -> list[str]:
    return names_of_lines(file, source.text(file, MOST))


def _keypoint_numbers(shape: Any, location: str) -> int:
    """How many numbers follow the box in a row of keypoints; 0 where the set has none."""
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(n) is int and 0 < n < 10_000 for n in shape):
        raise DataError(f"{location}: 'kpt_shape' should be [number of keypoints, 2 or 3].")
    return shape[0] * shape[1]
