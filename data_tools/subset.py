"""Split, shrink, filter and merge COCO folders. Records keep all their keys; the sources are never changed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import itemgetter
from pathlib import Path

from tqdm.auto import tqdm

from data_tools.convert.new_folder import bring, new_folder
from data_tools.convert.records import NothingLeft, clean_name, inside
from data_tools.convert.same_images import SameImages, copies_of
from data_tools.convert.splits import split_name, train_last
from data_tools.parts import Part, Record, read_parts
from data_tools.stratify import divide
from dfine_lib.data.images import DataError

REPORT = "subset_report.json"


def split_data(
    source: Path | str, out: Path | str, *, val: float, test: float = 0.0, seed: int = 0, images: Path | None = None,
    group_key: str | None = None, group_pattern: str | None = None, image_files: str = "link",
    follow_links: bool = False, progress: bool = True,
) -> str:  # fmt: skip
    """Divide the train split (or one annotation file, with `images`) into train, val and, if asked for, test.

    Classes are spread over the parts as evenly as whole images allow. Images that share `group_key`, a key of their
    records, or what `group_pattern` finds in their file names, stay in one part; so do copies of one image.

    Args:
        source: data folder, or annotation file.
        out: folder to make.
        val: share of the images, 0 < val < 1.
        test: likewise; 0 for none.
        seed: equal seeds give equal parts.
        images: folder of the images where `source` is a file.
        group_key: `video_id` or the like.
        group_pattern: regular expression; its first group, or all of it, is what counts.
        image_files: `link`, `copy` or `none`.
        follow_links: take images that are links out of their folder.
        progress: show a bar.

    Returns:
        One line that sums up.

    Raises:
        DataError: the source is not sound, or the shares leave a part empty.
    """
    shares = {"train": 1 - val - test, "val": val} | ({"test": test} if test else {})
    if val <= 0 or test < 0 or shares["train"] <= 0:
        raise DataError(f"shares of val {val:g} and test {test:g} should be above 0 and leave something to train on.")
    parts = read_parts(Path(source), images)
    if "train" not in parts:
        raise DataError(f"{source}: no train split to divide.")
    if others := [name for name in parts if name != "train"]:
        raise DataError(
            f"{source} has a {others[0]} split already: name the annotation file to divide, and its images with "
            "--images."
        )
    whole = parts["train"]
    groups = _groups(whole, group_key, group_pattern)
    copies = [] if image_files == "none" else _copies(whole, follow_links)
    together = _joined(groups, copies) if copies else groups
    chosen = divide(_labels(whole), list(shares.values()), seed=seed, groups=together)
    if copies and len(set(chosen)) < len(shares):  # images that are all alike cannot be kept apart
        chosen = divide(_labels(whole), list(shares.values()), seed=seed, groups=groups)
    made = {}
    for i, name in enumerate(shares):
        made[name] = whole.with_images([image for image, part in zip(whole.images, chosen, strict=True) if part == i])
        if not made[name].images:
            count = f"{len(whole.images)} images" + ("" if groups is None else f" in {len(set(groups))} groups")
            raise DataError(f"{source}: nothing left for {name}: {count} cannot be divided so.")
    about = {"seed": seed, "shares": shares}
    said = _write(Path(out), made, [Path(source)], image_files, follow_links, progress, about)
    apart = sum(chosen[i] != chosen[first] for i, first in enumerate(copies))
    return said + (f"; {apart:,} images are copies of one in another part: there are too few others" if apart else "")


def subset_data(
    source: Path | str, out: Path | str, *, fraction: float | None = None, count: int | None = None, seed: int = 0,
    of: Sequence[str] = ("train",), images: Path | None = None, group_key: str | None = None,
    group_pattern: str | None = None, image_files: str = "link", follow_links: bool = False, progress: bool = True,
) -> str:  # fmt: skip
    """Keep a part of the images of the splits in `of`, classes as even as can be; other splits are taken whole.

    Args:
        source, out, seed, images, group_key, group_pattern, image_files, follow_links, progress: see `split_data`.
        fraction: share of each split to keep, above 0 and at most 1; or
        count: images to keep of each split (with groups: about as many).
        of: the splits to make smaller.

    Raises:
        DataError: neither or both of fraction and count, more images than there are, or an unsound source.
    """
    if (fraction is None) == (count is None):
        raise DataError("say how much to keep: either a fraction or a count.")
    if fraction is not None and not 0 < fraction <= 1:
        raise DataError(f"the fraction to keep should be above 0 and at most 1, got {fraction:g}.")
    parts = read_parts(Path(source), images)
    of = [split_name(name) for name in of]
    for name in of:
        if name not in parts:
            raise DataError(f"{source}: no {name} split; there is {', '.join(parts)}.")
        part = parts[name]
        total = len(part.images)
        if count is not None and not 0 < count <= total:
            raise DataError(f"{part.file}: cannot keep {count} of {total} images.")
        share = fraction if fraction is not None else (count or 0) / total
        groups = _groups(part, group_key, group_pattern)
        chosen = divide(_labels(part), [share, 1 - share], seed=seed, groups=groups)
        kept = [image for image, where in zip(part.images, chosen, strict=True) if where == 0]
        if not kept:
            raise DataError(f"{part.file}: {share:g} of {total} images is none. Keep more.")
        parts[name] = part.with_images(kept)
    return _write(Path(out), parts, [Path(source)], image_files, follow_links, progress, {"seed": seed})


def filter_data(
    source: Path | str, out: Path | str, *, categories: Sequence[str] | None = None, min_side: float = 0.0,
    min_boxes: int = 0, images: Path | None = None, image_files: str = "link", follow_links: bool = False,
    progress: bool = True,
) -> str:  # fmt: skip
    """Keep some classes, boxes of some size, images with some boxes; ids stay.

    Args:
        source, out, images, image_files, follow_links, progress: see `split_data`.
        categories: names of the classes to keep; None keeps all.
        min_side: pixels; boxes whose shorter side is below are left out.
        min_boxes: images with fewer boxes than this, after all else, are left out.

    Raises:
        DataError: a class that is not there, or nothing left of a split.
    """
    parts = read_parts(Path(source), images)
    if categories is not None:
        known = {category["name"] for part in parts.values() for category in part.categories}
        if unknown := [name for name in categories if name not in known]:
            raise DataError(f"{source}: no class {unknown[0]!r}; there are {', '.join(sorted(known))[:300]}.")
    for name, part in parts.items():
        kept = [found for found in part.categories if categories is None or found["name"] in categories]
        ids = {category["id"] for category in kept}
        boxes = [
            record for record in part.annotations if record["category_id"] in ids and _side(part, record) >= min_side
        ]
        per_image = Counter(record["image_id"] for record in boxes)
        chosen = [image for image in part.images if per_image[image["id"]] >= min_boxes]
        if not chosen:
            raise NothingLeft(f"{part.file}: no image is left of {name}. Ask for less.")
        parts[name] = Part(part.file, part.folder, part.content, part.images, boxes, kept).with_images(chosen)
    return _write(Path(out), parts, [Path(source)], image_files, follow_links, progress, {})


def merge_data(
    sources: Sequence[Path | str], out: Path | str, *, image_files: str = "link", follow_links: bool = False,
    progress: bool = True,
) -> str:  # fmt: skip
    """Put data folders together, split by split. Classes meet by name; everything gets new ids, from 1.

    Images of the first source go to `images/SPLIT/1/`, those of the second to `2/`, and so on: equal file names do
    not meet.

    Args:
        sources: two data folders or more.
        out, image_files, follow_links, progress: see `split_data`.
    """
    if len(sources) < 2:
        raise DataError("merging takes two data folders or more.")
    found = [read_parts(Path(source)) for source in sources]
    names = dict.fromkeys(
        category["name"] for parts in found for part in parts.values() for category in part.categories
    )
    ids = {name: i for i, name in enumerate(names, 1)}
    above = {category["name"]: category for parts in found for part in parts.values() for category in part.categories}
    categories = [{**above[name], "id": identity} for name, identity in ids.items()]
    made: dict[str, Part] = {}
    origins: dict[str, list[Path]] = {}
    for place, parts in enumerate(found, 1):
        for split, part in parts.items():
            whole = made.setdefault(split, Part(part.file, part.folder, {}, [], [], categories))
            own = {category["id"]: ids[category["name"]] for category in part.categories}
            renumbered = {}
            for image in part.images:
                name = clean_name(image.get("file_name"), f"{part.file}, image id {image['id']}")
                renumbered[image["id"]] = len(whole.images) + 1
                whole.images.append({**image, "id": len(whole.images) + 1, "file_name": f"{place}/{name}"})
                origins.setdefault(split, []).append(part.folder / name)
            for record in part.annotations:
                changed = {"image_id": renumbered[record["image_id"]], "category_id": own[record["category_id"]]}
                whole.annotations.append({**record, "id": len(whole.annotations) + 1, **changed})
    roots = {split: [part.folder for parts in found for name, part in parts.items() if name == split] for split in made}

    def origin(split: str, i: int, image: Record) -> tuple[Path, Path]:
        path = origins[split][i]
        return path, next(root for root in roots[split] if path.is_relative_to(root))

    paths = [Path(source) for source in sources]
    return _write(Path(out), made, paths, image_files, follow_links, progress, {}, origin, mixed=True)


def _side(part: Part, record: Record) -> float:
    box = record.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(type(value) in (int, float) for value in box):
        raise DataError(f"{part.file}: annotation id {record['id']}: bbox should be [left, top, width, height].")
    return min(box[2:])


def _labels(part: Part) -> list[list[int]]:
    place = {category["id"]: i for i, category in enumerate(part.categories)}
    rows: dict[int, list[int]] = {image["id"]: [] for image in part.images}
    for record in part.annotations:
        rows[record["image_id"]].append(place[record["category_id"]])
    return list(rows.values())


def _groups(part: Part, key: str | None, pattern: str | None) -> list[str] | None:
    if key is not None and pattern is not None:
        raise DataError("group by a key or by a pattern, not by both.")
    if key is not None:
        if lost := [image["id"] for image in part.images if image.get(key) is None]:
            raise DataError(f"{part.file}: image id {lost[0]} has no {key!r} to group by ({len(lost)} like this).")
        return [json.dumps(image[key], sort_keys=True) for image in part.images]
    if pattern is None:
        return None
    try:
        search = re.compile(pattern)
    except re.error as error:
        raise DataError(f"the pattern {pattern!r} to group by is no regular expression: {error}.") from error
    groups = []
    for image in part.images:
        if (found := search.search(str(image.get("file_name")))) is None:
            raise DataError(f"{part.file}: image id {image['id']}: {pattern!r} is not in {image.get('file_name')!r}.")
        groups.append(found.group(1) if search.groups else found.group())
    return groups


def _copies(part: Part, follow_links: bool) -> list[int]:
    """For each image, the number of the first one with the same bytes; empty where a file is missing."""
    paths = [part.folder / clean_name(image.get("file_name"), f"{part.file}, image id {image['id']}")
             for image in part.images]  # fmt: skip
    if not all(inside(path, part.folder, follow_links).is_file() for path in paths):
        return []
    return copies_of(paths)


def _joined(groups: list[str] | None, copies: list[int]) -> list[str]:
    """Groups that hold copies of one image become one group."""
    names = [str(i) for i in range(len(copies))] if groups is None else groups
    of = {name: name for name in names}

    def root(name: str) -> str:
        while of[name] != name:
            name = of[name]
        return name

    for i, first in enumerate(copies):
        of[root(names[i])] = root(names[first])
    return [root(name) for name in names]


def _write(
    out: Path, parts: dict[str, Part], sources: list[Path], image_files: str, follow_links: bool, progress: bool,
    about: Record, origin: Callable[[str, int, Record], tuple[Path, Path]] | None = None, mixed: bool = False,
) -> str:  # fmt: skip
    """Write the parts as a folder.

    Args:
        out, sources, image_files, follow_links, progress: as of the callers.
        parts: by split.
        about: what else the report holds.
        origin: path and root of an image, where it is not in the folder of its part.
        mixed: images of several sources meet, so that one that is there twice may come to lie in two splits: it stays
            where it is measured on.
    """
    report: Record = {"sources": list(map(str, sources)), **about, "splits": {}}
    same = SameImages(mixed and image_files != "none")
    with new_folder(out, *sources) as folder:
        for split, part in train_last(parts.items(), itemgetter(0)):
            part, left_out = _bring(folder, split, part, image_files, follow_links, progress, origin, same)
            target = folder / "annotations" / f"instances_{split}.json"
            target.parent.mkdir(exist_ok=True)
            content = {**part.content, "categories": part.categories, "images": part.images}
            target.write_text(json.dumps(content | {"annotations": part.annotations}), encoding="utf-8")
            names = {category["id"]: category["name"] for category in part.categories}
            boxes = Counter(names[record["category_id"]] for record in part.annotations)
            classes = {name: boxes[name] for name in names.values()}
            counts = {"images": len(part.images), "boxes": sum(boxes.values())}
            report["splits"][split] = counts | {"left_out": left_out, "classes": classes}
            if not counts["images"] or (split == "train" and not counts["boxes"]):
                what = "box" if counts["images"] else "image"
                raise NothingLeft(f"{part.file}: no {what} is left of {split}. Ask for less.")
        (folder / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    counted = []
    for split in parts:
        found = report["splits"][split]
        words = f"{split} {found['images']:,} images, {found['boxes']:,} boxes"
        words += "" if found["boxes"] else " (nothing can be measured on it)"
        counted.append(words + "".join(f", left out {count:,} ({what})" for what, count in found["left_out"].items()))
    return f"{'; '.join(counted)}; {len(next(iter(parts.values())).categories)} classes; in {out} ({REPORT})"


def _bring(
    folder: Path, split: str, part: Part, image_files: str, follow_links: bool, progress: bool,
    origin: Callable[[str, int, Record], tuple[Path, Path]] | None, same: SameImages,
) -> tuple[Part, dict[str, int]]:  # fmt: skip
    """Bring the images of a split. Returns what is left of the part, and why how many images were left out."""
    (folder / "images" / split_name(split)).mkdir(parents=True)
    seen: set[str] = set()
    kept, left_out = [], Counter[str]()
    bar = tqdm(part.images, f"{split}: images", leave=False, unit="image", delay=2.0, disable=not progress)
    for i, image in enumerate(bar):
        place = f"{part.file}, image id {image['id']}"
        name = clean_name(image.get("file_name"), place)
        path, root = (part.folder / name, part.folder) if origin is None else origin(split, i, image)
        if name in seen:
            raise DataError(f"{place}: a second image with file name {name!r}. Remove one of them.")
        seen.add(name)
        if image["file_name"] != name:  # a\\b.jpg lies at a/b.jpg
            image = {**image, "file_name": name}
        if image_files == "none":
            kept.append(image)
            continue
        inside(path, root, follow_links)
        if not path.is_file():
            raise DataError(
                f"{place}: there is no {path}. `dfine doctor` lists all that is missing; --image-files none does "
                "without images."
            )
        if (other := same.split_with(path)) not in (None, split):
            left_out[f"the same image is in {other}"] += 1
            continue
        if other is None:
            same.remember(path, split)
        bring(path, folder / "images" / split / name, image_files)
        kept.append(image)
    part = part.with_images(kept) if left_out else replace(part, images=kept)
    return part, dict(left_out)
