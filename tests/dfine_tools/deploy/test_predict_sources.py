"""Images come from anywhere, upright and in RGB, or a line says why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from dfine_tools.deploy.images import SourceError, as_image, read_image
from dfine_tools.deploy.sources import ImageSource, VideoSource, find_source


def corners(height: int = 8, width: int = 12) -> np.ndarray:
    """Four colours, one a quarter: red, green over blue, white."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 255)
    pixels[height // 2 :, width // 2 :] = (255, 255, 255)
    return pixels


def folder_of(tmp_path: Path, *names: str) -> Path:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(corners()).save(tmp_path / name)
    return tmp_path


def names_of(source) -> list[str]:
    return [Path(item).name for item in find_source(source).items]


def test_a_folder_gives_its_images_in_the_order_that_people_count(tmp_path):
    folder = folder_of(tmp_path, "f10.png", "f2.PNG", "f1.png", "deep/f0.png")
    (folder / "notes.txt").write_text("no image")
    assert names_of(folder) == names_of(str(folder)) == ["f0.png", "f1.png", "f2.PNG", "f10.png"]
    assert names_of(f"{folder}/**/*") == ["f0.png", "f1.png", "f2.PNG", "f10.png"]
    assert names_of(f"{folder}/f1*.png") == ["f1.png", "f10.png"]
    assert find_source(f"{folder}/*.png").root == folder


def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(tmp_path):
    folder = folder_of(tmp_path, "a[1].png", "a1.png")
    assert names_of(folder / "a[1].png") == ["a[1].png"]


def test_videos_cameras_and_streams_are_told_apart(tmp_path):
    (tmp_path / "a.MP4").write_bytes(b"")
    assert find_source(tmp_path / "a.MP4") == VideoSource(str(tmp_path / "a.MP4"))
    assert find_source(tmp_path / "a.MP4").live is False
    assert find_source("0") == find_source(0) == VideoSource(0) and find_source(0).live
    for scheme in ("rtsp", "rtmp", "UDP", "srt"):
        stream = find_source(f"{scheme}://host:8554/door?key=1")
        assert stream.live and stream.remote and stream.name == "door"
    assert find_source(stream) is stream
    assert find_source("http://host/clip.mp4").live is None, "known once it is open"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "none.jpg", "no such file"),
        (lambda p: p, "no image there: the folder is empty"),
        (lambda p: f"{p}/*.jpg", "no image there: no file matches"),
        (lambda p: [], "empty"),
        (lambda p: [p], "single images"),
        (lambda p: "http://host/a.jpg?x=1", "not downloaded"),
        (lambda p: None, "no source"),
        (lambda p: True, "no source"),
    ],
)
def test_what_gives_no_images_is_said_in_a_line(tmp_path, make, message):
    with pytest.raises(SourceError, match=message) as error:
        find_source(make(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_image_upright(tmp_path, orientation):
    stored = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a.swapaxes(0, 1), 2), 8: lambda a: np.rot90(a, -1),
    }[orientation](corners())  # fmt: skip
    image = Image.fromarray(np.ascontiguousarray(stored))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image.save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "x.png").permute(1, 2, 0), corners())


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGBA", (255, 0, 0, 128), (255, 0, 0)),
        ("LA", (77, 10), (77, 77, 77)),
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("P", 5, (0, 0, 255)),
        ("CMYK", (0, 255, 255, 0), (254, 0, 0)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 257 * 100, (100, 100, 100)),
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (5, 3)])
def test_every_mode_becomes_rgb(tmp_path, mode, colour, expected, size):
    image = Image.new(mode, size, colour)
    if mode == "P":
        image.putpalette([0] * 15 + [0, 0, 255])
    image.save(tmp_path / "x.tif")
    pixels = read_image(tmp_path / "x.tif")
    assert pixels.shape == (3, size[1], size[0]) and pixels.dtype == torch.uint8
    assert (pixels[:, 0, 0] - torch.tensor(expected)).abs().max() <= 1
    assert torch.equal(as_image(image), pixels)


@pytest.mark.parametrize("content", [b"", b"not an image", None], ids=["empty", "text", "half a PNG"])
def test_a_damaged_image_is_named(tmp_path, content):
    file = tmp_path / "x.png"
    if content is None:
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(file)
        content = file.read_bytes()[:3000]
    file.write_bytes(content)
    with pytest.raises(SourceError, match=r"x\.png"):
        read_image(file)


def test_images_in_memory_are_what_they_are_as_files(tmp_path):
    pixels = corners()
    expected = torch.from_numpy(pixels).permute(2, 0, 1)
    for form in (
        pixels, pixels[:, ::-1][:, ::-1], Image.fromarray(pixels), expected, pixels / np.float32(255),
        pixels.astype(np.uint16) * 257, np.dstack([pixels, pixels[..., :1]]),
    ):  # fmt: skip
        assert torch.equal(as_image(form), expected)
    assert torch.equal(as_image(pixels[..., 0]), expected[:1].expand(3, -1, -1))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 2), np.uint8), r"\[H, W, 3\]"),
        (torch.zeros(4, 4, 3), r"\[3, H, W\]"),
        (np.full((4, 4, 3), 300.0), r"0\.\.1"),
        (np.full((4, 4, 3), np.nan), r"0\.\.1"),
        (np.zeros((4, 4, 3), np.int32), "int32"),
        (np.zeros((0, 4, 3), np.uint8), "without pixels"),
        ({"a": 1}, "dict"),
        (Image.new("F", (2, 2)), "mode F"),
    ],
)
def test_a_image_in_memory_that_cannot_be_taken_is_explained(image, message):
    with pytest.raises(SourceError, match=message):
        as_image(image)


def test_a_stack_of_arrays_is_as_many_images():
    source = find_source(np.zeros((3, 4, 5, 3), np.uint8))
    assert isinstance(source, ImageSource) and len(source) == 3
    frame = source.read(2)
    assert (frame.name, frame.size_wh, frame.path) == ("image 2", (5, 4), None)


def test_a_generator_is_run_through_and_its_order_kept(tmp_path):
    files = [tmp_path / "b.png", tmp_path / "a.png"]
    assert find_source(file for file in files).items == tuple(files)
    with pytest.raises(SourceError, match="list of images is empty"):
        find_source(iter([]))
    with pytest.raises(SourceError, match=r"PIL.Image.open"):
        find_source(b"content of a file")


def test_a_tensor_of_any_floating_type_is_taken_and_one_without_values_is_explained():
    values = torch.arange(48).reshape(3, 4, 4) / 255
    for kind, off in ((torch.float64, 0), (torch.float16, 0), (torch.bfloat16, 1)):
        assert (as_image(values.to(kind)).int() - torch.arange(48).reshape(3, 4, 4)).abs().max() <= off
    for nothing in (values.to("meta"), values.to_sparse()):
        with pytest.raises(SourceError, match="values cannot be read"):
            as_image(nothing)


def test_an_address_of_a_file_is_the_file(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a b.png")
    (tmp_path / "x.mp4").touch()
    assert find_source((tmp_path / "a b.png").as_uri()).items == (tmp_path / "a b.png",)
    video = find_source((tmp_path / "x.mp4").as_uri())
    assert video == VideoSource(str(tmp_path / "x.mp4")) and video.live is False
