"""The classes: names, use, balance, and whether train and val mean the same by them."""

from __future__ import annotations

import numpy as np

from data_tools.doctor.finding import ERROR, NOTE, WARNING, Check, Examination
from data_tools.doctor.reading import Split, shown
from dfine_lib.data.coco_checks import repeated

FEW_BOXES = 20
IMBALANCE = 100
DRIFT = 0.15  # total variation distance between the class shares of train and val
CHECKS = (
    Check("category_name_missing", ERROR, "a category without a name", "The reader refuses the file.", "Name it.",
          "names it class_ID"),
    Check("category_name_repeated", ERROR, "two categories of one name", "One object is taught as two classes; the "
          "reader refuses the file.", "Merge or rename them, or remove the one without boxes.",
          "merges them into the first that has boxes"),
    Check("category_names_alike", WARNING, "categories whose names differ in case, blanks or a plural s alone",
          "One object is taught as two classes.", "Merge them."),
    Check("category_background", WARNING, "a category named background", "D-FINE has no background class: no object is "
          "a low score in every class.", "Remove it and its boxes."),
    Check("category_unused", WARNING, "categories without a box in train", "Nothing teaches them: their scores only "
          "add false alarms.", "Label some, or remove the category in both files."),
    Check("category_few", WARNING, f"categories with fewer than {FEW_BOXES} boxes in train",
          "Too few to learn from, and AP of such a class is chance.", "Label more."),
    Check("category_imbalance", WARNING, f"one category has {IMBALANCE} times the boxes of another",
          "The varifocal loss does not weigh classes: the rare one is hardly seen.",
          "Repeat images with rare classes, or label more."),
    Check("category_renamed", ERROR, "one id has two names in train and val", "The evaluation compares ids: a class is "
          "scored against another one.", "Give both files the same list.",
          "follows the names of train; a name that train lacks becomes train's"),
    Check("category_only_in_val", ERROR, "val uses a category that train does not list", "The reader refuses the file.",
          "List it in train, or remove its boxes.", "lists it in both files"),
    Check("category_lists_differ", NOTE, "train and val list different categories", "Train's list counts.",
          "Nothing, if that is meant."),
    Check("category_without_val", WARNING, "categories of train without a box in val", "Their AP is not measured.",
          "Move some images to val."),
    Check("category_drift", WARNING, "train and val have different shares of classes",
          "AP is then measured on another mixture than the one learned.", "Divide the images anew, at random."),
    Check("category_ids_from_one", NOTE, "category ids start at 1", "Fine here: labels are places in the list, and the "
          "number of classes is the length of the list. (The published code needs num_classes one larger, or a remap.)",
          "Nothing."),
    Check("category_ids_sparse", NOTE, "category ids have gaps", "Fine here: they come back out as they went in.",
          "Nothing."),
    Check("category_counts", NOTE, "boxes of each category", "For the record.", "Nothing."),
)  # fmt: skip


def examine(case: Examination) -> None:
    """All checks of this file."""
    for split in case.splits:
        _names(case, split)
    train, val = case.split("train"), case.split("val")
    if train is not None:
        _train_counts(case, train)
    if train is not None and val is not None:
        _both(case, train, val)


def name_of(split: Split, row: int) -> str | None:
    """Name of a category; None where it has none."""
    name = split.categories[row].get("name")
    return name if isinstance(name, str) and name.strip() else None


def counts(split: Split) -> np.ndarray:
    """Boxes of each entry of `categories`, crowd left out; int64 `[C]`."""
    good = (split.category_of >= 0) & ~split.crowd
    return np.bincount(split.category_of[good], minlength=len(split.categories))


def _names(case: Examination, split: Split) -> None:
    names = [name_of(split, i) for i in range(len(split.categories))]
    case.found("category_name_missing", split, "categories", [i for i, name in enumerate(names) if name is None])
    same = repeated(names)
    boxes = counts(split)

    def alike(i: int) -> str:
        own = [k for k, name in enumerate(names) if name == names[i]]
        return ", ".join(f"id {shown(split.categories[k].get('id'))} has {boxes[k]:,} boxes" for k in own[:5])

    case.found("category_name_repeated", split, "categories", same, alike)
    plain = [name and " ".join(name.split()).casefold().replace("_", " ").removesuffix("s") for name in names]
    known = set(same)
    case.found("category_names_alike", split, "categories", [i for i in repeated(plain) if i not in known])
    words = {"background", "__background__", "_background_", "bg"}
    case.found("category_background", split, "categories",
               [i for i, name in enumerate(names) if name and name.strip().casefold() in words])  # fmt: skip


def _train_counts(case: Examination, train: Split) -> None:
    per_class = counts(train)
    ids = sorted(key for key in train.category_keys if isinstance(key, int))
    if ids and ids[0] == 1:
        case.report("category_ids_from_one", "train", [f"train: ids {ids[0]} .. {ids[-1]}, {len(ids)} classes"])
    if ids and ids[-1] - ids[0] + 1 > len(ids):
        case.report("category_ids_sparse", "train", [f"train: ids {ids[0]} .. {ids[-1]}, {len(ids)} classes"])
    case.found("category_unused", train, "categories", per_class == 0)
    few = (per_class > 0) & (per_class < FEW_BOXES)
    case.found("category_few", train, "categories", few, lambda i: f"{per_class[i]} boxes")
    used = np.flatnonzero(per_class)
    if len(used) and per_class[used].max() >= IMBALANCE * per_class[used].min():
        most, least = used[per_class[used].argmax()], used[per_class[used].argmin()]
        examples = " against ".join(f"{shown(name_of(train, i))} {per_class[i]}" for i in (most, least))
        case.report("category_imbalance", "train", [f"train: {examples} boxes"])
    order = np.argsort(-per_class, kind="stable")[:8]
    case.report("category_counts", "train", [f"train: {shown(name_of(train, i))} {per_class[i]}" for i in order],
              len(per_class))  # fmt: skip


def _both(case: Examination, train: Split, val: Split) -> None:
    theirs = {key: i for i, key in reversed(list(enumerate(train.category_keys))) if key is not None}
    per_class = counts(val)
    renamed, unknown, listed = [], [], []
    for i, key in enumerate(val.category_keys):
        if key is None:
            continue
        if key not in theirs:
            (unknown if per_class[i] else listed).append(i)
        elif name_of(val, i) and name_of(train, theirs[key]) and name_of(val, i) != name_of(train, theirs[key]):
            renamed.append(i)
    case.found("category_renamed", val, "categories", renamed,
               lambda i: f"train calls it {shown(name_of(train, theirs[val.category_keys[i]]))}")  # fmt: skip
    case.found("category_only_in_val", val, "categories", unknown, lambda i: f"{per_class[i]} boxes in val")
    case.found("category_lists_differ", val, "categories", listed, lambda i: "val alone lists it")
    by_name = {name_of(val, i) or val.category_keys[i]: n for i, n in enumerate(per_class)}
    ours = counts(train)
    called = [name_of(train, i) or key for i, key in enumerate(train.category_keys)]
    mine = np.array([by_name.get(name, 0) for name in called], np.int64)
    case.found("category_without_val", train, "categories", (ours > 0) & (mine == 0),
               lambda i: f"{ours[i]} boxes in train")  # fmt: skip
    if ours.sum() >= 200 and mine.sum() >= 200:
        shares = ours / ours.sum(), mine / mine.sum()
        distance = np.abs(shares[0] - shares[1])
        if distance.sum() / 2 > DRIFT:
            examples = [f"{shown(name_of(train, i))}: {shares[0][i]:.1%} of train, {shares[1][i]:.1%} of val"
                    for i in np.argsort(-distance)[:5].tolist()]  # fmt: skip
            case.report("category_drift", "", examples, int((distance > 0.02).sum()))
