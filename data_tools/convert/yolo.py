"""YOLO text files, read and written: `class cx cy w h`, fractions of the picture; a row of more is a polygon.

Read are Ultralytics' form (`data.yaml`, pictures in `images/`, texts in `labels/` or beside the pictures) and darknet's
(`obj.data`, `obj.names`). Where `data.yaml` tells `kpt_shape`, a row is a box with keypoints, which are left off. A
picture without a text file has no objects. Paths in `data.yaml` count only inside the
folder: `path` and leading `../` are left off where they lead out of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_tools.convert.records import (
    Box,
    Category,
    ImageRecord,
    Source,
    around,
    decoded,
    files_below,
    number,
    readable,
    text,
)  # fmt: skip
from data_tools.convert.splits import split_name
from dfine_lib.data.image_formats import image_suffixes
from dfine_lib.data.images import DataError
from dfine_lib.data.ledger import Ledger

MOST_TEXT = 16 << 20  # bytes of one label file
LISTS = ("train", "val", "valid", "validation", "test")


def read_yolo(
    source: Path,
    split: str,
    *,
    images: Path | None = None,
    spare_names: list[str] | None = None,
    follow_links: bool = False,
    ledger: Ledger,
) -> Source:
    """A folder with or without `data.yaml`, or the `.yaml` / `.data` file itself.

    Args:
        source: what to read.
        split: name of the only split, where nothing tells one.
        images: the user's own folder of pictures; then, or where no pictures are found, the label files tell which
            pictures there are, their names found by the stem; pictures without one are listed and not taken.
        spare_names: the classes in order, where the folder does not tell them.
        follow_links: read what links outside.
    """
    root = source if source.is_dir() else source.parent
    settings, names = _settings(source, root, follow_links)
    names = names or spare_names
    if names is None:
        raise DataError(f"{source}: no class names (data.yaml, obj.names, classes.txt). Give them with --categories.")
    reader = _Labels(root, names, _keypoint_numbers(settings.get("kpt_shape"), str(source)), follow_links)
    found: dict[str, list[tuple[str, Path, Path | None]]] = {}  # split → file name, folder, label file
    for key in LISTS:
        for entry in _entries(settings.get(key)):
            folder = _within(root, settings.get("path"), entry)
            if folder is None or (images is not None and folder.is_dir()):
                continue
            pairs = _from_list(folder, root, follow_links) if folder.is_file() else _from_folder(folder)
            found.setdefault(split_name(key), []).extend(pairs)
    if not any(found.values()):
        found = _by_layout(root, split) if images is None else {}
    if not any(found.values()):
        found = _labels_alone(root, split)
    if not any(found.values()):
        raise DataError(f"{source}: no YOLO label files and no pictures here.")
    if images is not None and images.is_dir():
        stems = {Path(name).stem for rows in found.values() for name, _, _ in rows}
        for file in files_below(images, image_suffixes()):
            if file.stem not in stems:
                ledger.skip("records", "image without a label file", file)
    pictures = (reader.picture(name, *row) for name, rows in found.items() for row in rows)
    categories = [Category(name) for name in names]
    return Source(root, pictures, tuple(found), categories, sum(map(len, found.values())))


def _settings(source: Path, root: Path, follow_links: bool) -> tuple[dict[str, Any], list[str] | None]:
    """What data.yaml or obj.data says, and the class names."""
    file = source if source.is_file() else None
    if file is None:
        choices = [*(root / name for name in ("data.yaml", "data.yml", "dataset.yaml")), *sorted(root.glob("*.yaml")),
                   *sorted(root.glob("*.data"))]  # fmt: skip
        file = next((choice for choice in choices if choice.is_file()), None)
    settings: dict[str, Any] = {}
    if file is not None and file.suffix in (".yaml", ".yml"):
        settings = _yaml(file, root, follow_links)
        if settings.get("names") is not None:
            return settings, _names(settings["names"], str(file))
    elif file is not None:
        rows = decoded(readable(file, root, 1 << 20, follow_links), file).splitlines()
        settings = {key.strip(): value.strip() for key, sign, value in (row.partition("=") for row in rows) if sign}
        if found := _within(root, None, settings.get("names")):
            return settings, _lines(found, root, follow_links)
    for name in ("obj.names", "classes.txt", "labels/classes.txt", "names.txt"):
        if (root / name).is_file():
            return settings, _lines(root / name, root, follow_links)
    return settings, None


def names_of_yaml(file: Path) -> list[str]:
    """The classes that a `data.yaml` names, in order; `DataError` where it names none."""
    return _names(_yaml(file, file.parent, follow_links=True).get("names"), str(file))


def _yaml(file: Path, root: Path, follow_links: bool) -> dict[str, Any]:
    import yaml

    content = decoded(readable(file, root, 1 << 20, follow_links), file)
    try:
        settings = yaml.safe_load(content)
    except RecursionError:
        raise DataError(f"{file}: nested too deeply.") from None
    except (yaml.YAMLError, ValueError) as error:
        raise DataError(f"{file}: no valid YAML: {' '.join(str(error).split())[:160]}.") from error
    if not isinstance(settings, dict):
        raise DataError(f"{file}: expected keys train, val, names.")
    return settings


def _names(names: Any, location: str) -> list[str]:
    if isinstance(names, dict):
        if not all(type(key) is int for key in names) or sorted(names) != list(range(len(names))):
            raise DataError(f"{location}: 'names' should number the classes 0, 1, 2 … without gaps.")
        names = [names[key] for key in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{location}: 'names' should be a list of class names, or a dict from number to name.")
    found = [text(name, location, f"the name of class {i}") for i, name in enumerate(names)]
    if len(set(found)) < len(found):
        raise DataError(f"{location}: a class name stands twice in 'names'. Rename one.")
    return found


def _lines(file: Path, root: Path, follow_links: bool) -> list[str]:
    rows = decoded(readable(file, root, 1 << 20, follow_links), file).splitlines()
    return _names([row.strip() for row in rows if row.strip()], str(file))


def _keypoint_numbers(shape: Any, location: str) -> int:
    """How many numbers follow the box in a row of keypoints; 0 where the set has none."""
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(n) is int and 0 < n < 10_000 for n in shape):
        raise DataError(f"{location}: 'kpt_shape' should be [number of keypoints, 2 or 3].")
    return shape[0] * shape[1]


def _entries(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [entry for entry in value if isinstance(entry, str)] if isinstance(value, list) else []


def _within(root: Path, base: Any, entry: Any) -> Path | None:
    """The folder or file that an entry means, inside `root`; None if there is none."""
    if not isinstance(entry, str) or not entry or "\0" in entry or len(entry) > 1000:
        return None
    parts = [part for part in entry.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    bases = [root]
    if isinstance(base, str) and base and "\0" not in base and not base.startswith("/") and ".." not in base:
        bases.insert(0, root / base)
    for i in range(len(parts)):  # data/obj.names is obj.names where there is no data/
        for home in bases:
            path = home.joinpath(*parts[i:])
            try:
                if path.exists() and path.resolve().is_relative_to(root.resolve()):
                    return path
            except OSError:
                continue
    return None


def _from_folder(folder: Path) -> Iterator[tuple[str, Path, Path | None]]:
    for file in files_below(folder, image_suffixes()):
        yield file.relative_to(folder).as_posix(), folder, _label_file(file)


def _from_list(file: Path, root: Path, follow_links: bool) -> Iterator[tuple[str, Path, Path | None]]:
    """Pictures that a text file lists. Their names are the last part; without pictures their label files count."""
    for row in decoded(readable(file, root, 256 << 20, follow_links), file).splitlines():
        if not (row := row.strip()):
            continue
        found = _within(file.parent, None, row) or _within(root, None, row)
        if found is not None:
            yield found.name, found.parent, _label_file(found)
            continue
        name = row.replace("\\", "/").rpartition("/")[2]
        label = _within(root, None, row.rpartition(".")[0] + ".txt")
        yield name, root, label


def _label_file(picture: Path) -> Path | None:
    """Beside the picture, or in `labels` where the picture lies in `images`; whatever it is: reading refuses a pipe."""
    parts = list(picture.parts)
    places = [picture.with_suffix(".txt")]
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[:-1][::-1].index("images")
        places.insert(0, Path(*parts[:last], "labels", *parts[last + 1 :]).with_suffix(".txt"))
    return next((location for location in places if _is_there(location)), None)


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _by_layout(root: Path, split: str) -> dict[str, list[tuple[str, Path, Path | None]]]:
    """images/train, train/images, or images/ alone."""
    found = {}
    for key in LISTS:
        for folder in (root / "images" / key, root / key / "images", root / key, root / "images" / f"{key}2017"):
            if folder.is_dir() and (pairs := list(_from_folder(folder))):
                found.setdefault(split_name(key), pairs)
    if not found:
        for folder in (root / "images", root):
            if folder.is_dir() and (pairs := list(_from_folder(folder))):
                return {split: pairs}
    return found


def _labels_alone(root: Path, split: str) -> dict[str, list[tuple[str, Path, Path | None]]]:
    """Label files without pictures beside them; folders train, val … are splits."""
    home = root / "labels" if (root / "labels").is_dir() else root
    found: dict[str, list[tuple[str, Path, Path | None]]] = {}
    skip = {"classes.txt", "train.txt", "val.txt", "valid.txt", "test.txt", "names.txt", "readme.txt"}
    for file in files_below(home, (".txt",)):
        if file.name.lower() in skip or file.name.lower().startswith("readme"):
            continue
        parts = file.relative_to(home).parts
        top = parts[0].lower().removesuffix("2017")
        own = split_name(top) if len(parts) > 1 and top in LISTS else split
        below = file.relative_to(home / parts[0]) if own != split or top in LISTS else file.relative_to(home)
        name = below.with_suffix(".jpg").as_posix() if home != root else file.stem + ".jpg"
        found.setdefault(own, []).append((name, file.parent, file))
    return found


class _Labels:
    """Label files to pictures."""

    def __init__(self, root: Path, names: list[str], keypoint_numbers: int, follow_links: bool):
        self.root, self.names, self.follow_links = root, names, follow_links
        self.keypoint_numbers = keypoint_numbers

    def picture(self, split: str, name: str, folder: Path, label_file: Path | None) -> ImageRecord:
        location = str(label_file if label_file is not None else folder / name)
        picture = ImageRecord(split, name, None, None, [], location, relative=True, folders=(folder,))
        if label_file is None:
            return picture
        content = decoded(readable(label_file, self.root, MOST_TEXT, self.follow_links), label_file)
        for line, row in enumerate(content.splitlines(), 1):
            if row.strip():
                picture.boxes.append(self._box(row.split(), f"{label_file}, line {line}"))
        return picture

    def _box(self, fields: list[str], location: str) -> Box:
        if self.keypoint_numbers and len(fields) == 5 + self.keypoint_numbers:
            fields = fields[:5]
        if len(fields) != 5 and (self.keypoint_numbers or len(fields) < 7 or len(fields) % 2 == 0):
            way_out = "Keypoints? Say kpt_shape in data.yaml. Else correct the row."
            if len(fields) == 6:
                way_out = "Predictions with a score? Remove the last column."
            raise DataError(
                f"{location}: {len(fields)} numbers; a box has 5 (class cx cy w h), a polygon 1 + 2 for each of "
                f"at least 3 points. {way_out}"
            )
        label = number(fields[0], location, "the class")
        values = [number(field, location, "a coordinate") for field in fields[1:]]
        if max(map(abs, values)) > 10:
            raise DataError(f"{location}: coordinates should be fractions of the picture, 0 to 1; got {max(values):g}.")
        if label < 0 or label != int(label) or label >= len(self.names):
            raise DataError(
                f"{location}: class {label:g} has no name; there are {len(self.names)}, from 0. Add it or remove the "
                "row."
            )
        name = self.names[int(label)]
        if len(values) == 4:
            x, y, width, height = values
            return Box(x - width / 2, y - height / 2, width, height, name, location=location)
        return around(zip(values[::2], values[1::2]), name, location)


class YoloWriter:
    """images/SPLIT/, labels/SPLIT/NAME.txt, data.yaml. Crowd boxes have no location in YOLO and are left out."""

    def __init__(self, folder: Path, splits: tuple[str, ...]):
        self.folder, self.splits = folder, splits
        self.stems: dict[tuple[str, str], str] = {}
        for name in splits:
            (folder / "images" / name).mkdir(parents=True)
            (folder / "labels" / name).mkdir(parents=True)

    def image_path(self, picture: ImageRecord) -> Path:
        """Where the image belongs, relative to the folder."""
        return Path("images") / picture.split / picture.file_name

    def add(self, picture: ImageRecord, labels: list[int]) -> list[tuple[str, str]]:
        """Write one picture's text file. Returns reason and location of every box left out."""
        stem = picture.file_name.rpartition(".")[0] or picture.file_name
        if (other := self.stems.setdefault((picture.split, stem), picture.location)) != picture.location:
            raise DataError(
                f"{picture.location}: {stem[:80]!r} is there already, from {other}; one text file for both."
            )
        rows, lost = [], []
        for box, label in zip(picture.boxes, labels, strict=True):
            if box.crowd:
                lost.append(("crowd box, which YOLO has no word for", box.location))
                continue
            width, height = picture.width or 1, picture.height or 1
            values = (
                (box.left + box.width / 2) / width, (box.top + box.height / 2) / height, box.width / width,
                box.height / height,
            )  # fmt: skip
            rows.append(f"{label} " + " ".join(f"{value:.12g}" for value in values) + "\n")
        file = self.folder / "labels" / picture.split / f"{stem}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(rows))
        return lost

    def finish(self, categories: list[Category]) -> None:
        """The description of the set."""
        import yaml

        content: dict[str, Any] = {name: f"images/{name}" for name in self.splits}
        content["names"] = {i: category.name for i, category in enumerate(categories)}
        (self.folder / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), "utf-8")

    def close(self) -> None:
        """Nothing stays open."""
