"""The annotation file itself: lists, records, ids, references, file names."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Callable

from data_tools.doctor.finding import ERROR, NOTE, WARNING, Check, Examination
from data_tools.doctor.reading import Split, key_of, shown
from dfine_lib.data.coco_checks import CHECKS as CHECKS_OF_TRAINING
from dfine_lib.data.coco_checks import repeated
from dfine_lib.data.coco_columns import TABLES

_REFUSED = "The reader of `dfine train` refuses the file."
CHECKS = (
    Check("split_missing", ERROR, "a split is not there", "A run needs a train split to learn from and a val split to "
          "choose its best weights by.", "Use one of the two layouts, or name the files in a JSON file."),
    Check("image_folder_missing", ERROR, "the image folder is not there", "There is nothing to train on.",
          "Copy or link the images there."),
    Check("json_unreadable", ERROR, "the annotation file cannot be read", "Nothing of the split can be used.",
          "Export or copy the file again."),
    Check("list_missing", ERROR, "a list is missing from the annotation file", _REFUSED,
          "Is it a COCO instances file? It holds 'images', 'annotations' and 'categories', each a list."),
    Check("record_not_object", ERROR, "an entry of a list is no object", _REFUSED, "Remove it.", "drops it"),
    Check("no_images", ERROR, "no images", "There is nothing to train on.", "Is it the right annotation file?"),
    Check("no_boxes", ERROR, "no boxes to train on", "The loss has no targets: the run stops.",
          "Is it the right annotation file?"),
    Check("no_boxes_in_val", ERROR, "no boxes to find in val", "AP is no number without them, and the best weights "
          "are chosen by AP. Crowd, ignored and difficult boxes do not count.",
          "Is it the right annotation file? Are iscrowd, ignore and difficult meant?"),
    Check("no_categories", ERROR, "no categories", "The number of classes comes from this list.",
          "List id and name of every class."),
    Check("image_id_invalid", ERROR, "an image without a usable id", _REFUSED,
          "Give every image a whole number.", "gives it a number; nothing can refer to it, so it has no boxes"),
    Check("annotation_id_invalid", ERROR, "an annotation without a usable id", _REFUSED,
          "Give every annotation a whole number.", "numbers it"),
    Check("category_id_invalid", ERROR, "a category without a usable id", _REFUSED,
          "Give every category a whole number.", "drops the category"),
    Check("image_id_text", ERROR, "image ids written as text", "The evaluation compares ids as they stand: '7' is not "
          "7.", "Write ids as numbers, here and in 'image_id'.", "writes whole numbers, here and where it is named"),
    Check("annotation_id_text", ERROR, "annotation ids written as text", _REFUSED, "Write ids as numbers.",
          "numbers them"),
    Check("category_id_text", ERROR, "category ids written as text", "The evaluation compares ids as they stand.",
          "Write ids as numbers.", "writes whole numbers, here and where they are named"),
    Check("reference_text", ERROR, "image_id or category_id written as text", _REFUSED, "Write ids as numbers.",
          "writes whole numbers"),
    Check("image_id_repeated", ERROR, "two images with one id", "It is not known which image a box belongs to.",
          "Renumber the images of merged files together with their annotations.",
          "keeps one where they name one file, else drops them with their annotations"),
    Check("annotation_id_repeated", ERROR, "two annotations with one id", "The evaluation counts one of them.",
          "Renumber them.", "numbers them anew"),
    Check("category_id_repeated", ERROR, "two categories with one id", "It is not known what a label means.",
          "Renumber them.", "keeps the first"),
    Check("annotation_orphan", ERROR, "an annotation of an image that is not listed", _REFUSED,
          "Add the image or remove the annotation.", "drops it"),
    Check("category_unknown", ERROR, "an annotation of a category that is not listed", _REFUSED,
          "Add the category or remove the annotation.", "drops it"),
    Check("image_size_invalid", ERROR, "an image without a usable width and height",
          "Boxes are divided by the size of the image before the loss sees them.", "Give pixels.",
          "takes the size of the image, or drops the image"),
    Check("file_name_missing", ERROR, "an image without a usable file name", "The image cannot be found.",
          "Give a path inside the image folder.", "drops the image"),
    Check("file_name_leaves_folder", ERROR, "a file name that leaves the image folder",
          "Such a file would read whatever lies elsewhere on the machine; the reader refuses it.",
          "Make it relative to the image folder, without '..'.",
          "takes the image of that name where there is one, else drops the image"),
    Check("file_name_repeated", ERROR, "two images with one file name",
          "Boxes that one entry lacks are taught as background when the other entry comes up.",
          "Merge the entries.", "moves all annotations to the first entry"),
    Check("file_name_odd", WARNING, "file names with backslashes, control characters or blanks at an end",
          "They name other files on another system.", "Rename the files; use '/' between folders."),
    Check("file_name_case", WARNING, "file names that differ in upper and lower case alone",
          "They are one file on macOS and Windows.", "Rename one of them."),
    Check("crowd_invalid", ERROR, "iscrowd is not 0 or 1", _REFUSED, "Write 0, or 1 for a group.", "writes 0 or 1"),
    Check("keys_ignored", NOTE, "keys that detection does not use", "Training reads boxes and labels alone.",
          "Nothing."),
    Check("splits_are_one_file", ERROR, "train and val are the same annotation file",
          "AP is then measured on what was trained on.", "Set images aside for val."),
)  # fmt: skip


def examine(case: Examination) -> None:
    """All checks of this file."""
    for split in case.splits:
        _lists(case, split)
        _ids(case, split)
        _references(case, split)
        _images(case, split)
    files = [split.annotation_file.resolve() for split in case.splits]
    if len(files) == 2 and files[0] == files[1]:
        case.report("splits_are_one_file", "", [str(files[0])])


def _lists(case: Examination, split: Split) -> None:
    for key in TABLES:
        value = split.content.get(key)
        if not isinstance(value, list):
            found = ", ".join(shown(name, 30) for name in list(split.content)[:8]) or "none"
            what = "is missing" if key not in split.content else f"is {shown(value)}, no list"
            case.report("list_missing", split.name, [f"{split.annotation_file}: {key!r} {what}; keys: {found}"])
        rows = split.not_objects.get(key, [])
        examples = [f"{split.name}: {key}[{i}] is {shown(value[i])}" for i in rows[:8]]
        case.report("record_not_object", split.name, examples, len(rows))
    if isinstance(split.content.get("images"), list) and not split.images:
        case.report("no_images", split.name, [str(split.annotation_file)])
    if isinstance(split.content.get("categories"), list) and not split.categories:
        case.report("no_categories", split.name, [str(split.annotation_file)])
    seen: Counter[str] = Counter()
    for record in split.annotations:
        seen.update(key for key in ("segmentation", "keypoints", "attributes") if record.get(key))
    case.report("keys_ignored", split.name, [f"{split.name}: {key!r} in {n} annotations" for key, n in seen.items()])


def _ids(case: Examination, split: Split) -> None:
    for table, one in TABLES.items():
        _shared(case, split, f"{one}_id_invalid")
        case.found(f"{one}_id_text", split, table, _as_text(split, table, "id"))
        _shared(case, split, f"{one}_id_repeated")


def _as_text(split: Split, table: str, key: str) -> list[int]:
    """The records whose id is written as text."""
    values = [record.get(key) for record in getattr(split, table)]
    if str not in set(map(type, values)):
        return []
    return [i for i, value in enumerate(values) if isinstance(value, str) and key_of(value) is not None]


def _shared(case: Examination, split: Split, name: str, say: Callable[[int], str] | None = None) -> None:
    """A check that training applies too."""
    check = CHECKS_OF_TRAINING[name]
    case.found(name, split, check.table, check.failing(split), say)


def _references(case: Examination, split: Split) -> None:
    text = {i for key in ("image_id", "category_id") for i in _as_text(split, "annotations", key)}
    case.found("reference_text", split, "annotations", sorted(text))
    _shared(case, split, "annotation_orphan")
    _shared(case, split, "category_unknown", lambda i: f"category_id {shown(split.annotations[i].get('category_id'))}")
    odd = [
        i
        for i, record in enumerate(split.annotations)
        if record.get("iscrowd", 0) not in (0, 1) or isinstance(record.get("iscrowd", 0), str)
    ]
    case.found(
        "crowd_invalid", split, "annotations", odd, lambda i: f"iscrowd {shown(split.annotations[i]['iscrowd'])}"
    )


def _images(case: Examination, split: Split) -> None:
    size = lambda i: f"{shown(split.images[i].get('width'))} x {shown(split.images[i].get('height'))}"  # noqa: E731
    _shared(case, split, "image_size_invalid", size)
    raw = [record.get("file_name") for record in split.images]
    for name in ("file_name_missing", "file_name_leaves_folder"):
        _shared(case, split, name, lambda i: f"file_name {shown(raw[i])}")
    plain = [name and posixpath.normpath(name) for name in split.file_names]  # ./a.jpg is a.jpg
    case.found("file_name_repeated", split, "images", repeated(plain))
    folded = [name and name.casefold() for name in plain]
    same = set(repeated(plain))
    case.found("file_name_case", split, "images", [i for i in repeated(folded) if i not in same])
    odd = [
        i
        for i, name in enumerate(split.file_names)
        if name and ("\\" in name or not name.isprintable() or name != name.strip())
    ]
    case.found("file_name_odd", split, "images", odd)
