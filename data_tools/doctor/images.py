"""The pictures: there, whole, of the size that the annotation file says, of a kind that training reads as meant."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from data_tools.doctor.finding import ERROR, NOTE, WARNING, Check, Examination, Example
from data_tools.doctor.pixels import ImageFile, look_at
from data_tools.doctor.reading import Split, leaves_folder, shown

LARGE_PIXELS = 25_000_000
SMALL_SIDE = 32
EXTREME_ASPECT = 4.0
MOST_LISTED = 2_000_000  # files of a folder that are looked through

_DROPPED = "drops the image and its annotations"
CHECKS = (
    Check("image_missing", ERROR, "a picture is not there", "Training stops at it.",
          "Copy it there or remove it from the annotation file.", _DROPPED),
    Check("image_elsewhere", ERROR, "a picture is there under another name or in another folder",
          "Training does not find it. Names that differ by case alone are one file on macOS and two on Linux.",
          "Correct file_name.", "links the file under the name that the annotation file gives"),
    Check("image_no_file", ERROR, "a picture's name belongs to a folder, a pipe or a device",
          "Reading it fails, or never ends.", "Remove it.", _DROPPED),
    Check("image_empty", ERROR, "a picture of zero bytes", "Training stops at it.", "Copy it again.", _DROPPED),
    Check("image_truncated", ERROR, "a picture is cut off", "Training stops at it.", "Copy it again.", _DROPPED),
    Check("image_unreadable", ERROR, "a file is no readable picture", "Training stops at it.", "Replace it.", _DROPPED),
    Check("image_enormous", ERROR, "a picture of more than 89 million pixels",
          "Decoding it takes gigabytes in every loader process; a header may also lie.", "Shrink or cut it.", _DROPPED),
    Check("image_mode_unknown", ERROR, "a picture whose values have no known range", "The reader refuses it.",
          "Save it with 8 bits a channel.", _DROPPED),
    Check("image_size_swapped", ERROR, "width and height are swapped", "Boxes are divided by the wrong side.",
          "Swap them in the annotation file.", "takes the size of the picture"),
    Check("image_exif_swapped", ERROR, "the size is that before turning the picture as its EXIF says",
          "Training turns pictures upright; boxes belong to the upright one.",
          "Swap width and height, or remove the EXIF orientation.",
          "takes the upright size; turns the boxes too where they fit only the picture as stored"),
    Check("image_size_differs", ERROR, "a picture is not as large as the annotation file says",
          "Boxes are divided by a size that is not the picture's: they lie beside the objects.",
          "Was it resized after labelling? Scale boxes and size with it.",
          "scales size and boxes where the aspect is the same, otherwise drops the image"),
    Check("image_turned", NOTE, "pictures that EXIF turns", "Training turns them; a labelling tool may not have.",
          "Look at a few: do the boxes lie on the objects?"),
    Check("image_cmyk", WARNING, "CMYK pictures", "They are made for print; converted, their colours are off.",
          "Save them as RGB."),
    Check("image_16_bit", WARNING, "pictures of 16 bits", "They are scaled to 8 bits over the whole range: a picture "
          "that uses a part of it comes out nearly black.", "Stretch the contrast and save with 8 bits."),
    Check("image_palette", NOTE, "palette pictures", "They are converted to RGB.", "Nothing."),
    Check("image_alpha", WARNING, "pictures with transparency", "It is dropped: what hides under transparent pixels "
          "becomes visible.", "Lay them over a background."),
    Check("image_grey", NOTE, "grey pictures among colour ones", "They are repeated over three channels.",
          "Fine, if the model is to meet such pictures."),
    Check("image_extension", WARNING, "the extension is not that of the format", "Tools that go by names will fail; "
          "D-FINE reads by content.", "Rename the files."),
    Check("image_animated", WARNING, "pictures of several frames", "Only the first frame is used.", "Split them."),
    Check("image_large", WARNING, "pictures of more than 25 million pixels", "Decoding them takes longer than the step "
          "that they are for.", "Shrink them once, boxes and sizes with them, or cut them into tiles."),
    Check("image_small", WARNING, "pictures with a side below 32 pixels", "There is nothing left to detect in.",
          "Remove them."),
    Check("image_aspect", WARNING, "pictures more than 4 times as long as wide", "Pictures are squeezed into a square: "
          "objects come out as flat.", "Cut them into tiles, or give --image-size HEIGHT,WIDTH."),
    Check("image_uniform", WARNING, "pictures of one colour", "Nothing is in them, whatever the boxes say.",
          "Remove them."),
    Check("image_half_grey", WARNING, "pictures whose lower part is plain grey", "A JPEG that was cut off and mended "
          "looks like this; its boxes lie on grey.", "Copy them again."),
    Check("image_link_outside", WARNING, "links that lead out of the image folder", "A copy of the folder does not "
          "carry what they point to; in a folder from elsewhere they may point to anything.", "Copy the files in."),
    Check("image_orphan", WARNING, "pictures that the annotation file does not list", "They are not trained on.",
          "Label them, or remove them."),
)  # fmt: skip
DROPPED = tuple(check.name for check in CHECKS if check.repair == _DROPPED)
_GREY_MODES = ("1", "L", "LA")


def examine(case: Examination) -> None:
    """All checks of this file."""
    for split in case.splits:
        if split.image_folder is not None:
            _find_and_look(case, split)
            _check_files(case, split)


def shapes(case: Examination) -> None:
    """What the annotation file alone tells of the pictures, no file opened."""
    for split in case.splits:
        wide, high = split.sizes_wh.T
        say = lambda i, sizes=split.sizes_wh: "{:.0f} x {:.0f}".format(*sizes[i])  # noqa: E731
        with np.errstate(invalid="ignore"):
            case.found("image_small", split, "images", np.minimum(wide, high) < SMALL_SIDE, say)
            case.found("image_aspect", split, "images", np.maximum(wide / high, high / wide) > EXTREME_ASPECT, say)
            case.found("image_large", split, "images", wide * high > LARGE_PIXELS, say)


def _find_and_look(case: Examination, split: Split) -> None:
    there, cut = _listed(split.image_folder)
    by_case = {name.casefold(): name for name in sorted(there, reverse=True)}
    by_stem: dict[str, list[str]] = {}
    for name in there:
        by_stem.setdefault(Path(name).stem.casefold(), []).append(name)
    elsewhere, used = [], set()
    _find_without_folders(split, there)
    for i, name in enumerate(split.file_names):
        if name is None:
            continue
        plain = os.path.normpath(name)
        if plain not in there and not cut and not os.path.lexists(split.image_folder / name):
            same_stem = by_stem.get(Path(name.replace("\\", "/")).stem.casefold(), [])
            other = by_case.get(plain.casefold()) or (same_stem[0] if len(same_stem) == 1 else None)
            if other is not None:
                split.moved[i] = split.image_folder / other
                elsewhere.append(i)
                plain = other
        used.add(plain)
    case.found("image_elsewhere", split, "images", elsewhere, lambda i: f"found {shown(str(split.moved[i]), 200)}")
    orphans = sorted(there - used)
    examples = [Example(f"{split.name}: {shown(name)[1:-1]}", split.image_folder / name) for name in orphans[:8]]
    case.told("image_orphan", split.name, examples, len(orphans))

    paths = {i: path for i in range(len(split.images)) if (path := split.path(i)) is not None}
    unique = list(dict.fromkeys(paths.values()))
    known = dict(zip(unique, look_at(unique, split.image_folder), strict=True))
    for i, path in paths.items():
        split.files[i] = known[path]


def _find_without_folders(split: Split, there: set[str]) -> None:
    """Names that are paths of another machine: taken by their last part, where one picture, and one record, has it."""
    by_last: dict[str, list[str]] = {}
    for name in there:
        by_last.setdefault(os.path.basename(name), []).append(name)
    claimed = Counter(os.path.normpath(name) for name in split.file_names if name is not None)
    found: dict[int, str] = {}
    for i, record in enumerate(split.images):
        name = record.get("file_name")
        if split.file_names[i] is None and isinstance(name, str) and name and leaves_folder(name):
            same = by_last.get(name.replace("\\", "/").rpartition("/")[2], [])
            if len(same) == 1:
                found[i] = same[0]
                claimed[same[0]] += 1
    for i, name in found.items():
        if claimed[name] == 1:
            split.file_names[i] = name.replace(os.sep, "/")


def _listed(folder: Path) -> tuple[set[str], bool]:
    """Pictures under a folder, by names relative to it; whether there were too many to list."""
    endings = set(Image.registered_extensions()) - {".pdf", ".mpg", ".mpeg"}
    names: set[str] = set()
    for root, _, files in os.walk(folder):
        inside = os.path.relpath(root, folder)
        for name in files:
            if os.path.splitext(name)[1].lower() in endings and not name.startswith("."):
                names.add(name if inside == "." else os.path.join(inside, name))
        if len(names) > MOST_LISTED:
            return names, True
    return names, False


def _check_files(case: Examination, split: Split) -> None:
    looked = [(i, file) for i, file in enumerate(split.files) if file is not None]

    def found(name: str, rows: list[int], words=None) -> None:
        case.found(name, split, "images", rows, words)

    faults: dict[str, list[int]] = {}
    for i, file in looked:
        if file.fault:
            faults.setdefault(file.fault, []).append(i)
    for name, rows in faults.items():
        found(name, rows, lambda i: split.files[i].message)
    good = [(i, file) for i, file in looked if not file.fault]
    _check_sizes(case, split, good)

    found("image_turned", [i for i, file in good if file.orientation > 1],
          lambda i: f"orientation {split.files[i].orientation}")  # fmt: skip
    found("image_cmyk", [i for i, file in good if file.mode == "CMYK"])
    found("image_16_bit", [i for i, file in good if file.mode.startswith("I")])
    found("image_palette", [i for i, file in good if file.mode in ("P", "PA")])
    found("image_alpha", [i for i, file in good if file.transparent])
    grey = [i for i, file in good if file.mode in _GREY_MODES]
    if len(grey) < len(good):
        found("image_grey", grey)
    endings = Image.registered_extensions()
    found("image_extension", [i for i, file in good if _format_of(file, endings) != _family(file.format)],
          lambda i: f"holds {split.files[i].format}")  # fmt: skip
    found("image_animated", [i for i, file in good if file.animated])
    found("image_link_outside", [i for i, file in looked if file.leaves_folder],
          lambda i: f"leads to {shown(os.path.realpath(split.files[i].path), 200)}")  # fmt: skip
    plain, half = [], []
    for i, file in good:
        grid = np.frombuffer(file.grey, np.uint8).reshape(-1, 32)
        if len(grid) and int(grid.max()) - int(grid.min()) <= 2:
            plain.append(i)
        elif len(grid) and (np.abs(grid[-5:].astype(int) - 128) <= 1).all():
            half.append(i)
    found("image_uniform", plain)
    found("image_half_grey", half)


def _format_of(file: ImageFile, endings: dict[str, str]) -> str:
    return _family(endings.get(file.path.suffix.lower(), ""))


def _family(name: str) -> str:
    return "JPEG" if name == "MPO" else name


def _check_sizes(case: Examination, split: Split, good: list[tuple[int, ImageFile]]) -> None:
    swapped, turned, differs = [], [], []
    invalid = set(case.rows("image_size_invalid", split).tolist())
    for i, file in good:
        if i in invalid:
            split.sizes_wh[i] = file.upright_wh
            continue
        said = tuple(split.sizes_wh[i].astype(int).tolist())
        if said == file.upright_wh:
            continue
        if said != file.upright_wh[::-1]:
            differs.append(i)
            continue
        (turned if said == file.stored_wh else swapped).append(i)

    def words(i: int) -> str:
        said, true = split.sizes_wh[i].astype(int).tolist(), split.files[i].upright_wh
        return f"the file says {said[0]} x {said[1]}, the picture is {true[0]} x {true[1]}"

    case.found("image_size_swapped", split, "images", swapped, words)
    case.found("image_exif_swapped", split, "images", turned, words)
    case.found("image_size_differs", split, "images", differs, words)
    for i in swapped:
        split.sizes_wh[i] = split.files[i].upright_wh
    for i in turned:
        reach = (split.boxes_xywh[:, :2] + split.boxes_xywh[:, 2:])[split.rows_of(i)]
        if not _inside(reach, split.files[i].stored_wh) or _inside(reach, split.files[i].upright_wh):
            split.sizes_wh[i] = split.files[i].upright_wh


def _inside(corners: np.ndarray, size_wh: tuple[int, int]) -> bool:
    return bool((corners <= np.array(size_wh) + 1.0).all())
