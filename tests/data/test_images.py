from __future__ import annotations

import io
import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from dfine_lib.data import DataError, check_images, read_coco
from dfine_lib.data.images import read_image, upright_size

ORIENTATION = 0x0112
UNDO = {  # how a camera stores an upright picture under each EXIF orientation
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def picture(height=24, width=40) -> np.ndarray:
    """A smooth picture without any symmetry, uint8 `[H, W, 3]`; smooth, so that JPEG changes it little."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + 2 * y) * 255 // (width + 2 * height)], -1).astype(
        "uint8"
    )


def noise(height, width) -> np.ndarray:
    """Noise uint8 `[H, W, 3]`: a file of several kB, whose ends can be cut off."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def save(path, array, *, orientation=None, **options) -> None:
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
    Image.fromarray(np.ascontiguousarray(array)).save(path, exif=exif, **options)


def as_tensor(array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
@pytest.mark.parametrize("orientation", UNDO)
def test_every_exif_orientation_gives_the_same_upright_picture(tmp_path, orientation, suffix):
    path = tmp_path / f"a.{suffix}"
    save(
        path, UNDO[orientation](picture()), orientation=orientation, **({"lossless": True} if suffix == "webp" else {})
    )
    assert_close(read_image(path), as_tensor(picture()), rtol=0, atol=0)
    with Image.open(path) as image:
        assert upright_size(image) == (40, 24)


@pytest.mark.parametrize("orientation", UNDO)
def test_exif_of_a_jpeg_is_applied(tmp_path, orientation):
    save(tmp_path / "a.jpg", UNDO[orientation](picture()), orientation=orientation, quality=95, subsampling=0)
    # 10 of 255: what the compression changes; a wrong turn differs by 200.
    assert_close(read_image(tmp_path / "a.jpg"), as_tensor(picture()), rtol=0, atol=10)


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}, {"quality": 30}], ids=str)
def test_pixels_of_a_jpeg_are_those_of_pil(tmp_path, options):
    save(tmp_path / "a.jpg", picture(75, 101), **options)
    with Image.open(tmp_path / "a.jpg") as image:
        expected = as_tensor(np.array(image))
    assert torch.equal(read_image(tmp_path / "a.jpg"), expected)
    assert torch.equal(read_image("in an archive", (tmp_path / "a.jpg").read_bytes()), expected)


@pytest.mark.filterwarnings("error")
def test_reading_a_jpeg_gives_no_warning(tmp_path):
    save(tmp_path / "a.jpg", noise(48, 64))
    assert read_image(tmp_path / "a.jpg").shape == (3, 48, 64)


@pytest.mark.parametrize("decoder", ["torchvision's", "PIL alone"])
def test_a_jpeg_that_is_cut_off_is_refused_whoever_decodes(tmp_path, monkeypatch, decoder):
    if decoder == "PIL alone":
        monkeypatch.setitem(sys.modules, "torchvision.io", None)
    save(tmp_path / "a.jpg", noise(48, 64))
    assert read_image(tmp_path / "a.jpg").shape == (3, 48, 64)
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-300])
    with pytest.raises(DataError, match=r"a\.jpg.*truncated"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("orientation", [0, 9, 65535])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_an_invalid_orientation_is_ignored(tmp_path, orientation, suffix):
    save(tmp_path / f"a.{suffix}", picture(), orientation=orientation)
    assert read_image(tmp_path / f"a.{suffix}").shape == (3, 24, 40)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_an_orientation_beyond_16_bits_and_a_broken_exif_block_are_ignored(tmp_path):
    long = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x04\0\0\0\x01\0\x01\0\x01\0\0\0\0"  # 65537 as a 32-bit number
    for name, exif in {"long.jpg": long, "broken.jpg": b"Exif\0\0MM\0*\xff\xff\xff\xff"}.items():
        Image.fromarray(picture()).save(tmp_path / name, exif=exif)
        assert read_image(tmp_path / name).shape == (3, 24, 40)


def test_the_same_grey_picture_in_every_mode(tmp_path):
    grey = picture()[..., 2]
    expected = as_tensor(np.stack([grey] * 3, -1))
    alpha = np.full_like(grey, 128)
    saved = {
        "L.png": Image.fromarray(grey),
        "LA.png": Image.fromarray(np.stack([grey, alpha], -1)),
        "RGB.png": Image.fromarray(np.stack([grey] * 3, -1)),
        "RGBA.png": Image.fromarray(np.stack([grey, grey, grey, alpha], -1)),
        "P.png": Image.fromarray(grey).convert("P"),
        "I16.png": Image.fromarray(grey.astype(np.uint16) * 257),
        "I16.tif": Image.fromarray(grey.astype(np.uint16) * 257),
        "I.tif": Image.fromarray(grey.astype(np.int32) * 257),
    }
    for name, image in saved.items():
        image.save(tmp_path / name)
        assert_close(read_image(tmp_path / name), expected, rtol=0, atol=0, msg=name)


def test_one_bit_pictures_become_black_and_white(tmp_path):
    Image.fromarray(picture()[..., 0] > 127).save(tmp_path / "a.png")
    assert set(read_image(tmp_path / "a.png").unique().tolist()) == {0, 255}


def test_a_palette_with_transparency_keeps_its_colours(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png", transparency=bytes([0, 255]))
    assert read_image(tmp_path / "a.png").permute(1, 2, 0).tolist() == [[[10, 20, 30], [200, 100, 50]]]


def test_a_cmyk_jpeg_has_its_colours(tmp_path):
    Image.fromarray(picture()).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert_close(read_image(tmp_path / "a.jpg"), as_tensor(picture()), rtol=0, atol=12)  # compressed


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    Image.fromarray(np.array([[0, 257, 32768, 65535]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0].tolist() == [[0, 1, 128, 255]]


def test_floating_point_pictures_are_refused_by_name(tmp_path):
    Image.fromarray(picture()[..., 0].astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif.*mode F"):
        read_image(tmp_path / "a.tif")


def test_reading_leaves_no_file_open(tmp_path):
    save(tmp_path / "a.png", picture())
    (tmp_path / "bad.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        read_image(tmp_path / "a.png")
        with pytest.raises(DataError):
            read_image(tmp_path / "bad.png")
    assert len(os.listdir("/proc/self/fd")) == before


# --- checking before training ------------------------------------------------------------------------------------


def index_of(write, content, **pictures):
    """An index whose two images, a.png and b.png, are noise of 64 x 48 unless given as bytes or None (not there)."""
    file, folder = write(content, pictures=True)
    for name, data in pictures.items():
        path = folder / f"{name}.png"
        path.unlink()
        if data is not None:
            path.write_bytes(data)
    return read_coco(file, folder)


def encoded(array, image_format, **options) -> bytes:
    stream = io.BytesIO()
    save(stream, array, format=image_format, **options)
    return stream.getvalue()


@pytest.mark.parametrize("every", [False, True])
def test_sound_images_pass(write, content, every):
    check_images(index_of(write, content), every=every)


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize(
    ("data", "mentions"),
    [
        (None, ["no such image file"]),
        (b"", ["not a readable image"]),
        (b"<html>404</html>", ["not a readable image"]),
        (encoded(noise(48, 64), "PNG")[:-300], ["truncated"]),
        (encoded(noise(48, 64), "JPEG")[:-300], ["truncated"]),
        (encoded(picture(48, 60), "PNG"), ["64 x 48", "60 x 48"]),
        (encoded(picture(64, 48), "PNG"), ["64 x 48", "48 x 64", "swapped"]),
        (encoded(picture(48, 64), "PNG", orientation=6), ["64 x 48", "48 x 64", "EXIF"]),
    ],
    ids=["missing", "empty", "html", "cut png", "cut jpeg", "other size", "swapped", "exif"],
)
def test_a_faulty_image_is_named_with_what_is_wrong(write, content, data, mentions, every):
    index = index_of(write, content, b=data)
    with pytest.raises(DataError) as error:
        check_images(index, every=every)
    for mention in (index.annotation_file, "1 of 2 images", "image id 70", index.file_name(0), *mentions):
        assert str(mention) in str(error.value)
    assert "image id 9," not in str(error.value)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_of_the_upright_picture(write, content, orientation):
    upright = picture(48, 64)
    check_images(
        index_of(write, content, b=encoded(UNDO[orientation](upright), "PNG", orientation=orientation)), every=True
    )


def test_damage_in_the_middle_is_found_by_decoding_every_image(write, content):
    data = bytearray(encoded(noise(48, 64), "PNG"))
    data[2000:2040] = bytes(40)
    index = index_of(write, content, b=bytes(data))
    check_images(index, every=False)
    with pytest.raises(DataError, match="image id 70"):
        check_images(index, every=True)


def test_a_jpeg_with_bytes_after_its_end_is_sound(write, content):
    check_images(index_of(write, content, b=encoded(picture(48, 64), "JPEG") + b"made by a camera" * 9), every=False)


def test_many_faults_are_counted_and_the_first_listed(write, content):
    content["images"] += [{"id": i, "file_name": f"gone{i}.png", "width": 5, "height": 5} for i in range(1000, 1020)]
    file, folder = write(content)
    with pytest.raises(DataError) as error:
        check_images(read_coco(file, folder), every=False)
    assert "22 of 22 images" in str(error.value)
    assert "… and 17 more" in str(error.value)
    assert len(str(error.value).splitlines()) == 7


def test_an_image_format_that_needs_a_plug_in_says_which(tmp_path, monkeypatch):
    monkeypatch.setattr("dfine_lib.data.images.register_heif", lambda: False)
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(
        DataError, match=r"IMG_1\.HEIC: HEIC needs the package pillow-heif \(pip install pillow-heif\)\.$"
    ):
        read_image(tmp_path / "IMG_1.HEIC")
