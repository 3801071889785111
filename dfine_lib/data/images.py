"""From an image file to an upright RGB image, the same way in training, evaluation and prediction."""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image
from tqdm import tqdm

from dfine_lib.errors import DataError, DfineError

if TYPE_CHECKING:
    from torch import Tensor

    from dfine_lib.data.coco import CocoIndex


# EXIF orientation → what turns the stored image upright. Every other value (0 and 65537 occur) is ignored.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PLAIN_MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
_DEEP_MODES = {"I", "I;16", "I;16B", "I;16L", "I;16N"}  # 16 bits of grey

HEIF = (".heic", ".heif", ".hif", ".heics", ".heifs")
_RAW = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw")
NOT_OPENED = {  # ending of a known format that is not opened, or needs a plug-in → why, and the way out
    **dict.fromkeys(HEIF, "HEIC needs the package pillow-heif (pip install pillow-heif)"),
    **dict.fromkeys(_RAW, "camera raw is not opened (export it as JPEG)"),
    ".jxl": "JPEG XL is not opened (convert it to PNG or JPEG)",
    **dict.fromkeys((".svg", ".eps", ".wmf", ".emf"), "a vector drawing is not opened (export it as PNG)"),
}


@cache
def register_heif() -> bool:
    """Let Pillow open HEIC where the package pillow-heif is installed; returns whether it is."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def exif_orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none or it is nonsense."""
    if image.format == "TIFF":  # PIL turns these itself
        return 1
    if image.format == "PNG" and not {"exif", "Raw profile type exif", "XML:com.adobe.xmp"} & image.info.keys():
        return 1  # getexif() would decode the whole image to look for a late chunk
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # a broken EXIF block is no reason to lose the image
        return 1
    return value if value in _UPRIGHT else 1


def upright_rgb(image: Image.Image) -> Image.Image:
    """A PIL image of any mode, upright as its EXIF says, in RGB with 8 bits.

    Transparency is dropped, as the published code does; 16-bit grey is scaled, 65535 to 255.

    Raises:
        ValueError: a mode without a known range of values (32-bit floating point).
    """
    orientation = exif_orientation(image)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode in _DEEP_MODES:
        grey = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    elif image.mode not in _PLAIN_MODES:
        raise DfineError(f"images of mode {image.mode} have no known range of values; save it with 8 bits a channel")
    image.load()
    if image.mode != "RGB":
        image = image.convert("RGB")
    return image.transpose(_UPRIGHT[orientation]) if orientation != 1 else image


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB image as uint8 `[3, H, W]`, channels last in memory, which is what resizing is fastest on."""
    import torch  # here, not above: whoever only reads sizes needs none

    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def read_image(path: Path | str, content: bytes | None = None) -> Tensor:
    """An image file as uint8 `[3, H, W]`, upright, RGB.

    Args:
        path: the file, or a name for messages where its bytes are given.
        content: what the file holds, where it has been read already.

    Raises:
        DataError: the file is missing, truncated or no image.
    """
    try:
        with open_image(path, content) as image:
            return decode_opened(image, path, content)
    except Exception as error:  # PIL's decoders raise nearly anything on a damaged file
        raise DataError(f"{path}: {_explain(error, path)}") from error


def open_image(path: Path | str, content: bytes | None = None) -> Image.Image:
    """An image file, its header read, by Pillow and the plug-ins that it knows or are installed (HEIC).

    Raises:
        OSError: and nearly any other class, from Pillow's decoders.
    """
    register_heif()  # once in every process: DataLoader workers too
    return Image.open(path if content is None else io.BytesIO(content))


def decode_opened(image: Image.Image, path: Path | str, content: bytes | None = None) -> Tensor:
    """The pixels of what `open_image` opened, uint8 `[3, H, W]`; of several frames, the first."""
    plain = image.format == "JPEG" and image.mode == "RGB" and exif_orientation(image) == 1
    if plain and (pixels := _decoded(path, content)) is not None:
        return pixels
    return to_tensor(upright_rgb(image))


def _decoded(path: Path | str, content: bytes | None) -> Tensor | None:
    """A JPEG's pixels, equal to PIL's in half the time (the same decoder, fewer copies); None: PIL should try.

    By torchvision's operator: its function `decode_jpeg` calls the same, and since 0.29 warns at every image that both
    will go in favour of TorchCodec. Once they are gone, PIL decodes.
    """
    import torch

    try:
        from torchvision.io import ImageReadMode  # loads the operator too

        data = np.fromfile(path, np.uint8) if content is None else np.frombuffer(content, np.uint8).copy()
        rgb, turned = ImageReadMode.RGB.value, False  # not turned by its EXIF: callers do
        return torch.ops.image.decode_jpeg(torch.from_numpy(data), rgb, turned)
    except (ImportError, AttributeError, RuntimeError):  # no such operator; or a damaged file: PIL says how
        return None


def _explain(error: Exception, path: Path | str) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such image file. Copy it there or remove it from the annotation file."
    if isinstance(error, Image.UnidentifiedImageError):
        suffix = Path(path).suffix.lower()
        if suffix in NOT_OPENED and not (suffix in HEIF and register_heif()):
            return f"{NOT_OPENED[suffix]}."
        return "not a readable image (empty, damaged or of an unknown format). Replace it."
    if "truncated" in str(error) or isinstance(error, EOFError):
        return f"the image is truncated ({error}). Copy or download it again."
    reason = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
    return f"cannot read the image: {reason}. Replace it or remove it from the annotation file."


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height in pixels after turning it upright, from the header alone."""
    width, height = image.size
    return (height, width) if exif_orientation(image) >= 5 else (width, height)


def looks_whole(path: Path, image_format: str | None) -> bool:
    """Whether the file ends as its format demands; False only means that decoding must tell."""
    ends = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
    if image_format not in ends:
        return False
    with path.open("rb") as stream:
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - 64))
        return stream.read().rstrip(b"\0\r\n ").endswith(ends[image_format])


def _problem(path: Path, size_wh: tuple[int, int], every: bool) -> str | None:
    """What is wrong with one image file, None if nothing."""
    try:
        with open_image(path) as image:
            found = upright_size(image)
            stored = image.size
            if image.mode not in _PLAIN_MODES | _DEEP_MODES:
                upright_rgb(image)
            if every or not looks_whole(path, image.format):
                image.load()
    except Exception as error:
        return _explain(error, path)
    if found == size_wh:
        return None
    says = f"the annotation file says {size_wh[0]} x {size_wh[1]}, the image is {found[0]} x {found[1]}"
    if stored != found and stored == size_wh:
        return (
            f"{says} once turned upright as its EXIF says. Boxes belong to the upright image: "
            "swap width and height in the annotation file, or remove the EXIF orientation where that is not so."
        )
    if found[::-1] == size_wh:
        return f"{says}: width and height are swapped. Swap them in the annotation file."
    return f"{says}. Was it resized after labelling? Boxes and sizes must be scaled with it."


def check_images(index: CocoIndex, every: bool) -> None:
    """Open every image of the index: it exists, is readable, whole, and as large as the annotation file says.

    The size is that of the upright image, EXIF orientation applied.

    Args:
        index: what to check; a file that stands behind several entries is opened once.
        every: decode every image (minutes for 100,000 of them). Otherwise only headers and file ends are read, and
            decoded is what does not end as a whole JPEG or PNG does: that finds missing, truncated and mislabelled
            files, but not damage in the middle. (A JPEG whose end is filled with zeros decodes to grey silently.)

    Raises:
        DataError: lists the first few bad images by id and file, and how many there are.
    """
    first: dict[tuple[str, int, int], int] = {}
    for i, (width, height) in enumerate(index.sizes_wh.tolist()):
        first.setdefault((str(index.file_name(i)), width, height), i)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda key: _problem(Path(key[0]), key[1:], every), first)
        found = tqdm(found, "checking images", len(first), leave=False, unit="image", dynamic_ncols=True, delay=2.0)
        bad = [(i, name, why) for ((name, _, _), i), why in zip(first.items(), found, strict=True) if why]
    if bad:
        lines = [f"  image id {index.image_ids[i]}, {name}: {why}" for i, name, why in bad[:5]]
        lines += [f"  … and {len(bad) - 5} more"] * (len(bad) > 5)
        count = f"{len(bad)} of {len(first)} images cannot be used"
        raise DataError("\n".join([f"{index.annotation_file}: {count}:", *lines]), "leave_out_images")
