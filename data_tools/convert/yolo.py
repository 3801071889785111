"""YOLO text files, read: `class cx cy w h` a row, fractions of the image; see `yolo_rows` for rows of more numbers.

Read are Ultralytics' folders (`data.yaml`, images in `images/`, label files in `labels/` or beside the images),
darknet's (`obj.data`, `obj.names`, lists of images), and folders of images and label files alone, whose sub-folders
name the splits. Paths in `data.yaml` are relative to `path`, else to the file itself; one that is not there is an
error. An image without a label file has no objects. Where the folder has no images, or the user names a folder of
images, the label files say which images there are.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

from data_tools.convert.records import Category, ImageRecord, NothingLeft, Source
from data_tools.convert.source_folder import KIND, SourceFolder
from data_tools.convert.splits import train_last
from data_tools.convert.yolo_files import YoloFiles, label_place
from data_tools.convert.yolo_rows import YoloRows
from data_tools.convert.yolo_settings import find_settings
from data_tools.convert.yolo_splits import ORDER, Item, Splits
from dfine_lib.data.images import DataError


def read_yolo(source: SourceFolder, *, images: Path | None = None, spare_names: list[str] | None = None) -> Source:
    """A folder with or without `data.yaml`, or the `.yaml` / `.data` file itself.

    Args:
        source: what to read; its ledger gets label files that no image has, and what a list names twice or in vain.
        images: the user's own folder of images; the label files say which of them are taken.
        spare_names: the classes in order, where the folder does not name them.

    Raises:
        NothingLeft: not one image has a label file; names the folders that hold label files.
        DataError: a path that `data.yaml` names is not there, two splits have the same images, or a row makes no sense.
    """
    files = YoloFiles(source)
    settings = find_settings(files)
    names = settings.names or spare_names
    if names is None:
        raise DataError(
            f"{source.path}: no class names (data.yaml, obj.names, classes.txt). Give them with --categories."
        )
    for i, name in enumerate(names):
        if not name:
            source.remark(f"class number {i} is an empty line in the list of classes: it counts, and has no name")
    splits = Splits(files, settings, images is None and bool(files.images))
    found = splits.named() or splits.by_folders(source.split)
    if not any(found.values()) and not settings.entries:
        if (two := next(iter(files.shared.items()), None)) is not None:
            raise NothingLeft(
                f"{source.path}: no image is left: {two[0]} would be the label file of {' and of '.join(two[1][:2])}. "
                "Rename the images so that each has a label file of its own, or remove one of the two."
            )
        raise NothingLeft(f"{source.path}: no YOLO label files and no images here.")
    found = _one_split_each(found, splits.keys, source)
    taken = {item.label for items in found.values() for item in items if item.label is not None}
    _count_labels(files, taken, found)
    rows = YoloRows(source, settings, names, sorted(taken))
    categories = [Category(name) for name in names if name]
    records = _records(found, rows, splits.with_images)
    return Source(source.root, records, tuple(found), categories, sum(map(len, found.values())))


def _records(found: dict[str, list[Item]], rows: YoloRows, with_images: bool) -> Iterator[ImageRecord]:
    root = rows.source.root
    for split, items in train_last(found.items(), itemgetter(0)):
        for item in items:
            boxes = [] if item.label is None else rows.boxes(item.label)
            yield ImageRecord(
                split, item.name, None, None, boxes, str(root / (item.label or item.path)), relative=True,
                path=Path(item.path) if with_images else None, folders=((root / item.path).parent,),
            )  # fmt: skip
    rows.check_writing()


def _one_split_each(found: dict[str, list[Item]], keys: dict[str, str], source: SourceFolder) -> dict[str, list[Item]]:
    """Leave an image that two splits name in the one that measures, test before val before train.

    Where nothing would be left to train on, it stays in train; a split that has no image of its own then goes, which is
    said.
    """
    for reverse in (False, True):
        keeps: dict[str, str] = {}
        for split in sorted(found, key=lambda name: ORDER.get(name, 1), reverse=reverse):
            keeps.update((item.path, split) for item in found[split])
        kept = {split: [item for item in items if keeps[item.path] == split] for split, items in found.items()}
        if all(kept[split] for split, items in found.items() if items):
            break
    for split, items in found.items():
        for item in items:
            if keeps[item.path] != split:
                source.ledger.skip("records", f"image is in {keeps[item.path]} as well", source.root / item.path)
        if items and not kept[split]:
            del kept[split]
            other = keeps[items[0].path]
            source.remark(
                f"all {len(items):,} images of {keys.get(split, split)!r} are in {keys.get(other, other)!r} as well: "
                f"taken once, as {other} (dfine data split divides them)"
            )
    return kept


def _count_labels(files: YoloFiles, taken: set[str], found: dict[str, list[Item]]) -> None:
    """Count label files, taken and left out, and images without one.

    Raises:
        NothingLeft: not one image has a label file, or in a split whose label files are elsewhere.
    """
    total = sum(map(len, found.values()))
    ledger, remark = files.source.ledger, files.source.remark
    for image in files.sharing:
        ledger.skip("records", "image shares its label file with one of another ending", files.root / image)
    ledger.accept(KIND, len(taken))
    left = dict(files.left_labels(taken))
    for path, reason in left.items():
        ledger.skip(KIND, reason, files.root / path)
    _check_labels(files, found, left)
    if written := sorted({part for label in taken for part in label.split("/") if part.lower() == "labels" != part}):
        remark(f"label files are in a folder called {', '.join(written)}")
    if (without := total - sum(item.label is not None for items in found.values() for item in items)) > 0:
        remark(f"{without:,} of {total:,} images have no label file: taken as images without objects")
    if pairs := [pair for pair in files.paired_otherwise if pair[1] in taken]:
        remark(
            f"{len(pairs):,} label files have the name of their image in another form ({pairs[0][1]} is that of "
            f"{pairs[0][0]}, for example)"
        )


def _check_labels(files: YoloFiles, found: dict[str, list[Item]], left: dict[str, str]) -> None:
    """Refuse images without label files where there are label files that seem to be theirs, or none at all."""
    stems = {posixpath.splitext(posixpath.basename(path))[0] for path in left}
    items = [item for ones in found.values() for item in ones]
    groups = {"": items} if not any(item.label for item in items) else found
    for split, ones in groups.items():
        own = {posixpath.splitext(posixpath.basename(item.path))[0] for item in ones}
        if not ones or any(item.label for item in ones) or (split and own.isdisjoint(stems)):
            continue
        where = files.folders_with("label files")
        if files.linked:
            where += f". Linked folders were not entered: {', '.join(files.linked[:3])} (--follow-links enters them)"
        what = f"images of {split!r}" if split else "images"
        raise NothingLeft(
            f"{files.source.path}: not one of {len(ones):,} {what} has a label file. Folders with label files: "
            f"{where}. The label file of {ones[0].path} would be {label_place(ones[0].path)}: rename the folder or the "
            "files, or give the folder that holds both images and label files."
        )
