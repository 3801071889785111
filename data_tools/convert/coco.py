"""COCO files to records: every layout of `coco_layouts`, and what is in COCO format besides (Objects365, LVIS)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path

from data_tools.convert.coco_file import CocoFile, NotCoco
from data_tools.convert.coco_layouts import JSON, gives_way, other_task, split_of
from data_tools.convert.records import Category, NothingLeft, Source, annotation_file, files_below
from data_tools.convert.splits import known_split, train_last
from data_tools.ledger import Ledger
from dfine_lib.data.image_formats import image_suffixes
from dfine_lib.data.images import DataError

_ORDER = {"train": 0, "val": 1, "test": 2}


def read_coco_files(
    source: Path, split: str, *, follow_links: bool = False, progress: bool = False, ledger: Ledger,
    remark: Callable[[str], None] = lambda sentence: None,
) -> Source:  # fmt: skip
    """One COCO file, or a folder with one for each split.

    Args:
        source: JSON file, or folder.
        split: of a file that names none.
        follow_links: read files that links lead to.
        progress: show a bar.
        ledger: takes the annotation files, and the boxes that are left out.
        remark: takes sentences for the summary.

    Raises:
        NothingLeft: no file is in COCO format; says what was found instead.
        DataError: a file is not what it should be, or there are two of one split.
    """
    root = source if source.is_dir() else source.parent
    if root.name.lower() == "annotations" and source.is_file():
        root = root.parent
    if source.is_file():
        parts = {split: _read(annotation_file(source, root, follow_links), progress)}
        ledger.found("annotation files")
        named = split_of(source, root)
        if named is not None and named != split:
            remark(f"{source.name} is taken as split {split} (--split says so, or is not given)")
    else:
        parts = _by_split(source, split, _files(source, ledger, progress, follow_links), ledger)
        _say_missing(source, parts, remark)
    ledger.taken("annotation files", len(parts))
    for part in parts.values():
        part.count_lost(ledger)
        _check_writing(part, remark)
    categories = _categories(list(parts.values()), remark)
    # Val before train: an image that is in both stays where it is measured on, and is not trained on.
    records = (
        record for name, part in train_last(parts.items(), itemgetter(0)) for record in part.records(name, ledger)
    )
    return Source(root, records, tuple(parts), categories, sum(len(part.images) for part in parts.values()))


def _read(file: Path, progress: bool) -> CocoFile:
    try:
        return CocoFile(file, progress)
    except NotCoco as error:
        raise NothingLeft(f"{error} Nothing was read.") from error


def _files(source: Path, ledger: Ledger, progress: bool, follow_links: bool) -> list[CocoFile]:
    """All files in COCO format; the others are passed over, by name.

    Raises:
        NothingLeft: there is none.
        DataError: one whose name says that it should be COCO is no JSON, or a record of it is not as it should be.
    """
    found, passed = [], []
    for file in files_below(source, JSON):
        ledger.found("annotation files")
        if (what := other_task(file)) is not None:
            passed.append((file, what, ""))
            continue
        try:
            found.append(CocoFile(annotation_file(file, source, follow_links), progress))
        except NotCoco as error:
            passed.append((file, error.kind, error.way_out))
    for file, what, _ in passed:
        ledger.left_out("annotation files", what, file)
    if found:
        return found
    if not passed:
        raise NothingLeft(
            f"{source}: no JSON file. Name the COCO file itself, and the folder of its images with --images; is it "
            "another format?"
        )
    (what, way_out), count = Counter((what, way_out) for _, what, way_out in passed).most_common(1)[0]
    first = next(file for file, kind, _ in passed if kind == what)
    like = "" if count == 1 else f" ({count:,} of {len(passed):,} JSON files are)"
    end = f" {way_out}." if way_out else ""
    raise NothingLeft(f"{source}: no COCO file with objects. {first} is something else: {what}{like}.{end}")


def _by_split(source: Path, split: str, files: list[CocoFile], ledger: Ledger) -> dict[str, CocoFile]:
    """Split → file.

    Raises:
        DataError: two files of one split, or one whose split is not known beside others.
    """
    groups: dict[str | None, list[CocoFile]] = {}
    for part in files:
        groups.setdefault(split_of(part.file, source), []).append(part)
    for name, group in groups.items():
        first = [part for part in group if not gives_way(part.file)]
        if first and len(first) < len(group):
            for part in group:
                if part not in first:
                    ledger.left_out("annotation files", "key points or panoptic, instances taken", part.file)
            groups[name] = first
        if len(groups[name]) > 1:
            both = " and ".join(str(part.file) for part in groups[name][:2])
            which = f"of split {name}" if name else "that name no split"
            raise DataError(
                f"{source}: {len(groups[name])} annotation files {which}: {both}. Name the one to convert in place of "
                "the folder, or rename them to instances_SPLIT.json."
            )
    parts = {name: group[0] for name, group in groups.items()}
    if None in parts:
        alone = len(parts) == 1
        rest = parts.pop(None)
        if not alone and not rest.file.stem.lower().endswith("_default"):
            other = next(iter(parts.values())).file
            raise DataError(
                f"{source}: {rest.file} names no split, and there is {other} besides. Name the one to convert in place "
                "of the folder, or rename it to instances_SPLIT.json."
            )
        parts[split if alone else "default"] = rest
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
