"""The images: there, whole, of the size that the annotation file says, of a kind that training reads as meant."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image

from data_tools.doctor.finding import ERROR, NOTE, WARNING, Check, Examination
from data_tools.doctor.reading import Split, shown

LARGE_PIXELS = 25_000_000
SMALL_SIDE = 32
EXTREME_ASPECT = 4.0

_DROPPED = "drops the image and its annotations"
CHECKS = (
    Check("image_missing", ERROR, "an image is not there", "Training stops at it.",
          "Copy it there or remove it from the annotation file.", _DROPPED),
    Check("image_elsewhere", ERROR, "an image is there under another name or in another folder",
          "Training does not find it. Names that differ by case alone are one file on macOS and two on Linux.",
          "Correct file_name.", "takes the file, and writes its name into the annotation file"),
    Check("image_no_file", ERROR, "an image's name belongs to a folder, a pipe or a device",
          "Reading it fails, or never ends.", "Remove it.", _DROPPED),
    Check("image_empty", ERROR, "an image of zero bytes", "Training stops at it.", "Copy it again.", _DROPPED),
    Check("image_truncated", ERROR, "an image is cut off", "Training stops at it.", "Copy it again.", _DROPPED),
    Check("image_unreadable", ERROR, "a file is no readable image", "Training stops at it.", "Replace it.", _DROPPED),
    Check("image_enormous", ERROR, "an image of more than 178 million pixels",
          "Pillow refuses to decode it; a header may also lie.", "Shrink or cut it.", _DROPPED),
    Check("image_mode_unknown", ERROR, "an image whose values have no known range", "The reader refuses it.",
          "Save it with 8 bits a channel.", _DROPPED),
    Check("image_size_swapped", ERROR, "width and height are swapped", "Boxes are divided by the wrong side.",
          "Swap them in the annotation file.", "takes the size of the image where the boxes of such images fit it, "
          "otherwise drops the image"),
    Check("image_exif_swapped", ERROR, "size or boxes are those of the image before EXIF turns it upright",
          "Training turns images upright; boxes belong to the upright image.",
          "Swap width and height, or remove the EXIF orientation where the boxes fit the image as stored.",
          "takes the upright size; turns the boxes where those of all such images fit only the image as stored"),
    Check("image_frame_undecided", ERROR, "EXIF turns images, and their boxes may belong to the upright image or to "
          "the image as stored", "Boxes of the wrong one lie beside the objects.",
          "Look at one of them, and say --exif upright or --exif stored: it decides for all."),
    Check("image_size_differs", ERROR, "an image is not as large as the annotation file says",
          "Boxes are divided by a size that is not the image's: they lie beside the objects.",
          "Was it resized after labelling? Scale boxes and size with it.",
          "scales size and boxes where the aspect ratio is the same, otherwise drops the image"),
    Check("image_turned", NOTE, "images that EXIF turns", "Training turns them; a labelling tool may not have.",
          "Look at a few: do the boxes lie on the objects? If not, say --exif stored."),
    Check("image_cmyk", WARNING, "CMYK images", "They are made for print; converted, their colours are off.",
          "Save them as RGB."),
    Check("image_16_bit", WARNING, "images of 16 bits", "They are scaled to 8 bits over the whole range: an image "
          "that uses a part of it comes out nearly black.", "Stretch the contrast and save with 8 bits."),
    Check("image_palette", NOTE, "palette images", "They are converted to RGB.", "Nothing."),
    Check("image_alpha", WARNING, "images with transparency", "It is dropped: what hides under transparent pixels "
          "becomes visible.", "Lay them over a background."),
    Check("image_grey", NOTE, "grey images among colour ones", "They are repeated over three channels.",
          "Fine, if the model is to meet such images."),
    Check("image_extension", WARNING, "the extension is not that of the format", "Tools that go by names will fail; "
          "D-FINE reads by content.", "Rename the files."),
    Check("image_animated", WARNING, "images of several frames", "Only the first frame is used.", "Split them."),
    Check("image_large", WARNING, "images of more than 25 million pixels", "Decoding them takes longer than the step "
          "that they are for.", "Shrink them once, boxes and sizes with them, or cut them into tiles."),
    Check("image_small", WARNING, "images with a side below 32 pixels", "There is nothing left to detect in.",
          "Remove them."),
    Check("image_aspect", WARNING, "images more than 4 times as long as wide", "Images are squeezed into a square: "
          "objects come out as flat.", "Cut them into tiles, or give --image-size HEIGHT,WIDTH."),
    Check("image_uniform", WARNING, "images of one colour", "Nothing is in them, whatever the boxes say.",
          "Remove them."),
    Check("image_half_grey", WARNING, "images whose lower part is plain grey", "A JPEG that was cut off and repaired "
          "looks like this; its boxes lie on grey.", "Copy them again."),
    Check("image_link_outside", WARNING, "links that lead out of the image folder", "A copy of the folder does not "
          "carry what they point to; in a folder from elsewhere they may point to anything.", "Copy the files in."),
    Check("image_orphan", WARNING, "images that the annotation file does not list", "They are not trained on.",
          "Label them, or remove them."),
)  # fmt: skip
DROPPED = tuple(check.name for check in CHECKS if check.repair == _DROPPED)
_GREY_MODES = ("1", "L", "LA")


def examine(case: Examination) -> None:
    """What the files are, after `image_search` has looked at them."""
    for split in case.splits:
        if split.image_folder is not None:
            _check_files(case, split)


def shapes(case: Examination) -> None:
    """What the annotation file alone tells of the images, no file opened."""
    for split in case.splits:
        wide, high = split.sizes_wh.T
        say = lambda i, sizes=split.sizes_wh: "{:.0f} x {:.0f}".format(*sizes[i])  # noqa: E731
        with np.errstate(invalid="ignore"):
            case.found("image_small", split, "images", np.minimum(wide, high) < SMALL_SIDE, say)
            case.found("image_aspect", split, "images", np.maximum(wide / high, high / wide) > EXTREME_ASPECT, say)
            case.found("image_large", split, "images", wide * high > LARGE_PIXELS, say)


def _check_files(case: Examination, split: Split) -> None:
    looked = [(i, file) for i, file in enumerate(split.files) if file is not None]

    def found(name: str, rows: list[int], words=None) -> None:
        case.found(name, split, "images", rows, words)

    problems: dict[str, list[int]] = {}
    for i, file in looked:
        if file.problem:
            problems.setdefault(file.problem, []).append(i)
    for name, rows in problems.items():
        found(name, rows, lambda i: split.files[i].message)
    good = [(i, file) for i, file in looked if not file.problem]
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
    by_name = {i: _family(endings.get(file.path.suffix.lower(), "")) for i, file in good}
    found("image_extension", [i for i, file in good if by_name[i] != _family(file.format)],
          lambda i: f"holds {split.files[i].format}")  # fmt: skip
    found("image_animated", [i for i, file in good if file.frames > 1],
          lambda i: f"{split.files[i].frames:,} frames")  # fmt: skip
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


def _family(name: str) -> str:
    return "JPEG" if name == "MPO" else name
