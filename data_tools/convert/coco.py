"""COCO files to records: every layout of `coco_layouts`, and what is in COCO format besides (Objects365, LVIS)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from data_tools.convert.coco_file import CocoFile, NotCoco
from data_tools.convert.coco_layouts import JSON, gives_way, other_task, split_of
from data_tools.convert.records import Category, NothingLeft, Source, annotation_file, files_below
from data_tools.convert.source_folder import KIND, SourceFolder
from data_tools.convert.splits import by_split, known_split
from data_tools.image_formats import image_suffixes
from dfine_lib.data.images import DataError

_ORDER = {"train": 0, "val": 1, "test": 2}


def read_coco_files(source: SourceFolder, *, progress: bool = False) -> Source:
    """One COCO file, or a folder with one for each split.

    Raises:
        NothingLeft: no file is in COCO format; says what was found instead.
        DataError: a file is not what it should be, or there are two of one split.
    """
    path, root, ledger, remark = source.path, source.root, source.ledger, source.remark
    if path.is_file():
        if root.name.lower() == "annotations":
            root = root.parent
        try:
            parts = {source.split: CocoFile(annotation_file(path, root, source.follow_links), progress)}
        except NotCoco as error:
            raise NothingLeft(f"{error} Nothing was read.") from error
        ledger.found(KIND)
        named = split_of(path, root)
        if named is not None and named != source.split:
            remark(f"{path.name} is taken as split {source.split} (--split says so, or is not given)")
    else:
        parts = _by_split(source, _files(source, progress))
        _say_missing(path, parts, remark)
    ledger.taken(KIND, len(parts))
    for part in parts.values():
        part.count_lost(ledger)
        _check_writing(part, remark)
    categories = _categories(list(parts.values()), remark)
    # Val before train: an image that is in both stays where it is measured on, and is not trained on.
    records = by_split(parts, lambda split, part: part.records(split, ledger))
    return Source(root, records, tuple(parts), categories, sum(len(part.images) for part in parts.values()))


def read_objects365(source: SourceFolder, *, progress: bool = False) -> Source:
    """Objects365: COCO format; images lie in `patchN/` where the file says `images/v1/patchN/`, and a few are absent.

    Ids and names of the categories stay as the file has them (some names carry blanks). The extraction of v1 numbers
    its 365 classes in another order than v2: convert by name (`--categories`) where both meet. One file named in place
    of the folder is of the split that its name says.
    """
    if source.path.is_file():
        source = replace(source, split=split_of(source.path, source.root) or source.split)
    return read_coco_files(source, progress=progress)


def _files(source: SourceFolder, progress: bool) -> list[CocoFile]:
    """All files in COCO format; the others are passed over, by name.

    Raises:
        NothingLeft: there is none.
        DataError: one whose name says that it should be COCO is no JSON, or a record of it is not as it should be.
    """
    found, passed = [], []
    for file in source.files(*JSON):
        source.ledger.found(KIND)
        if (what := other_task(file)) is not None:
            passed.append((file, what, ""))
            continue
        try:
            found.append(CocoFile(source.file(file), progress))
        except NotCoco as error:
            passed.append((file, error.kind, error.way_out))
    for file, what, _ in passed:
        source.ledger.left_out(KIND, what, file)
    if found:
        return found
    if not passed:
        raise NothingLeft(
            f"{source.path}: no JSON file. Name the COCO file itself, and the folder of its images with --images; is "
            "it another format?"
        )
    (what, way_out), count = Counter((what, way_out) for _, what, way_out in passed).most_common(1)[0]
    first = next(file for file, kind, _ in passed if kind == what)
    like = "" if count == 1 else f" ({count:,} of {len(passed):,} JSON files are)"
    end = f" {way_out}." if way_out else ""
    raise NothingLeft(f"{source.path}: no COCO file with objects. {first} is something else: {what}{like}.{end}")


def _by_split(source: SourceFolder, files: list[CocoFile]) -> dict[str, CocoFile]:
    """Split → file.

    Raises:
        DataError: two files of one split, or one whose split is not known beside others.
    """
    groups: dict[str | None, list[CocoFile]] = {}
    for part in files:
        groups.setdefault(split_of(part.file, source.path), []).append(part)
    for name, group in groups.items():
        first = [part for part in group if not gives_way(part.file)]
        if first and len(first) < len(group):
            for part in group:
                if part not in first:
                    source.ledger.left_out(KIND, "key points or panoptic, instances taken", part.file)
            groups[name] = first
        if len(groups[name]) > 1:
            both = " and ".join(str(part.file) for part in groups[name][:2])
            which = f"of split {name}" if name else "that name no split"
            raise DataError(
                f"{source.path}: {len(groups[name])} annotation files {which}: {both}. Name the one to convert in "
                "place of the folder, or rename them to instances_SPLIT.json."
            )
    parts = {name: group[0] for name, group in groups.items()}
    if None in parts:
        alone = len(parts) == 1
        rest = parts.pop(None)
        if not alone and not rest.file.stem.lower().endswith("_default"):
            other = next(iter(parts.values())).file
            raise DataError(
                f"{source.path}: {rest.file} names no split, and there is {other} besides. Name the one to convert in "
                "place of the folder, or rename it to instances_SPLIT.json."
            )
        parts[source.split if alone else "default"] = rest
    named = {name: part for name, part in parts.items() if name is not None}
    return dict(sorted(named.items(), key=lambda item: (_ORDER.get(item[0], 3), item[0])))


def _say_missing(source: Path, parts: dict[str, CocoFile], remark: Callable[[str], None]) -> None:
    """Say which folders are named as a split and hold images, and have no annotation file."""
    for folder in (source, source / "images", source / "data"):
        for inside in sorted(folder.glob("*/")):
            name = known_split(inside.name)
            alone = len(parts) == 1 and split_of(next(iter(parts.values())).file, source) is None
            if name is None or name in parts or alone or inside.is_symlink():
                continue
            if next(files_below(inside, image_suffixes()), None) is not None:
                remark(f"no annotation file for the images in {inside}")


def _check_writing(part: CocoFile, remark: Callable[[str], None]) -> None:
    """Refuse corners, and mention what may be another writing of boxes."""
    writing = part.writing()
    if writing == "boxes_as_corners":
        raise DataError(
            f"{part.file}: the boxes are written as [left, top, right, bottom]: read so nearly all fit into their "
            "images, and as COCO's [left, top, width, height] many do not. Export them again; or "
            "write a data.json that names this file and its images, and `dfine doctor data.json --fix OUT` converts "
            "them."
        )
    if writing is not None:
        how = {"boxes_as_centres": "[centre x, centre y, width, height]", "boxes_axes_swapped": "y before x"}[writing]
        remark(f"{part.file.name}: the boxes look as if written as {how}: look at some")


# ---- categories ------------------------------------------------------------------------------------------------------


def _categories(parts: list[CocoFile], remark: Callable[[str], None]) -> list[Category]:
    """The categories of all files, by id.

    Raises:
        DataError: one name has two ids, or one id two names.
    """
    used = {identity for part in parts for identity in part.used_categories()}
    for part in parts:
        _drop_root(part, used, remark)
    names: dict[str, tuple[Category, CocoFile]] = {}
    ids: dict[int, tuple[Category, CocoFile]] = {}
    for part in parts:
        for category in part.categories.values():
            known, file = names.setdefault(category.name, (category, part))
            if known.identity != category.identity:
                where, way_out = (
                    ("", "Rename one of them; or, if they are one class, give the boxes of both one id, and remove one")
                    if file is part
                    else (f" in {file.file}", "Give it one id, in the categories and the annotations of both files")
                )
                raise DataError(
                    f"{part.file}: category id {category.identity} is named {category.name[:60]!r}, and so is id "
                    f"{known.identity}{where}. {way_out}."
                )
            if category.identity is None:
                continue
            known, file = ids.setdefault(category.identity, (category, part))
            if known.name != category.name:
                raise DataError(
                    f"{part.file}: category id {category.identity} is named {category.name[:60]!r}, and in {file.file} "
                    f"{known.name[:60]!r}. Make the lists of categories equal."
                )
    listed = [category for category, _ in names.values()]
    return sorted(listed, key=lambda found: (found.identity is None, found.identity or 0))


def _drop_root(part: CocoFile, used: set[int | str], remark: Callable[[str], None]) -> None:
    """Drop Roboflow's root category where a class has its name: id 0, and no box in any file."""
    root = part.categories.get(0)
    if root is None or 0 in used:
        return
    same = next((i for i, found in part.categories.items() if i != 0 and found.name == root.name), None)
    if same is not None:
        del part.categories[0]
        remark(f"category id 0, {root.name[:60]!r}, dropped: it has no boxes, and id {same} has the same name "
               "(the root category of Roboflow)")  # fmt: skip
