"""Which image a record means: its path below the root; what is not certain is not guessed."""

import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from data_tools.convert.image_files import DEEPER, OTHER_FORM, SHORTER, ImageFiles
from data_tools.convert.image_headers import read_header
from data_tools.convert.records import ImageRecord
from data_tools.convert.report import NothingLeft
from data_tools.convert.same_images import SameImages
from dfine_lib.data.images import DataError
from tests.data_tools.small_sets import converted, picture, voc, write


def folder(root, *names):
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (i, 0, 0)).save(root / name, format="PNG")
    return root


def record(name, split="train", **more):
    return ImageRecord(split, name, None, None, [], "labels.json, image id 1", **more)


def found(files, name, split="train", **more):
    """Path below the root, name in the new folder and how it was found; or the reason why not."""
    one = files.find(record(name, split, **more))
    return one if isinstance(one, str) else (one.path.relative_to(files.home).as_posix(), one.name, one.how)


def images(root, **more):
    return ImageFiles(root, more.pop("images", None), None, more.pop("follow_links", False))


def test_the_exact_path_goes_before_everything_else(tmp_path):
    files = images(folder(tmp_path, "a.jpg", "images/train/a.jpg", "images/val/a.jpg", "my%20cup.jpg", "my cup.jpg"))
    assert found(files, "a.jpg") == ("images/train/a.jpg", "a.jpg", None)
    assert found(files, "a.jpg", "val") == ("images/val/a.jpg", "a.jpg", None)
    assert found(files, "a.jpg", "test") == ("a.jpg", "a.jpg", None)
    assert found(files, "my%20cup.jpg") == ("my%20cup.jpg", "my%20cup.jpg", None)
    assert found(files, "a.jpg", folders=(tmp_path / "images/val",)) == ("images/val/a.jpg", "a.jpg", None)


@pytest.mark.parametrize("split", ["images/Train", "Train/images", "train2017", "TRAINING"])
def test_the_folder_of_a_split_is_known_in_any_case(tmp_path, split):
    files = images(folder(tmp_path, f"{split}/a.jpg", "val/a.jpg"))
    assert found(files, "a.jpg") == (f"{split}/a.jpg", "a.jpg", None)


def test_two_folders_of_a_split_that_hold_the_name_are_not_guessed_between(tmp_path):
    files = images(folder(tmp_path, "day/train/a.jpg", "night/train/a.jpg"))
    assert "several images of that name" in found(files, "a.jpg")


def test_names_that_differ_by_url_encoding_or_unicode_form_are_the_same_file(tmp_path):
    decomposed = unicodedata.normalize("NFD", "caffè 1.jpg")
    files = images(folder(tmp_path, "pics/my cup.jpg", f"pics/{decomposed}"))
    for name in ("pics/my%20cup.jpg", "pics/caffè 1.jpg", "pics/caff%C3%A8%201.jpg"):
        path, new, how = found(files, name)
        assert how == OTHER_FORM and new == path and path.startswith("pics/")


def test_another_ending_is_found_where_one_image_has_it(tmp_path):
    files = images(folder(tmp_path, "a.JPG", "b.jfif", "c.png", "c.webp"))
    assert found(files, "a.jpg")[:2] == ("a.JPG", "a.JPG")
    assert found(files, "b") == ("b.jfif", "b.jfif", None)
    assert "several images of that name" in found(files, "c.jpeg")
    assert found(files, "c.png") == ("c.png", "c.png", None)


def test_an_image_in_a_sub_folder_is_found_where_its_name_is_the_only_one(tmp_path):
    files = images(folder(tmp_path, "cam1/a.jpg", "cam1/b.jpg", "cam2/b.jpg", "val/c.jpg"))
    assert found(files, "a.jpg") == ("cam1/a.jpg", "a.jpg", DEEPER)
    assert "several images of that name" in found(files, "b.jpg")
    assert found(files, "cam2/b.jpg") == ("cam2/b.jpg", "cam2/b.jpg", None)
    assert found(files, "c.jpg") == "image missing"  # it lies in the folder of another split


def test_leading_folders_that_all_names_share_are_left_off(tmp_path):
    files = images(folder(tmp_path, "a.jpg", "deep/b.jpg"))
    assert found(files, "data/upload/a.jpg") == ("a.jpg", "a.jpg", SHORTER)
    assert found(files, "data/upload/deep/b.jpg") == ("deep/b.jpg", "deep/b.jpg", SHORTER)
    assert found(files, "data/upload/c.jpg") == "image missing"


@pytest.mark.parametrize("first", ["cam1", "cam2"])
def test_an_image_that_two_folders_could_have_held_is_refused_in_either_order(tmp_path, first):
    files = images(folder(tmp_path, "0000.jpg", "0001.jpg"))
    assert found(files, f"{first}/0000.jpg")[2] == SHORTER
    other = {"cam1": "cam2", "cam2": "cam1"}[first]
    with pytest.raises(DataError, match=rf"image id 1: image '{other}/0001.jpg'.*begin with '{first}'.*--images"):
        found(files, f"{other}/0001.jpg")


def test_names_of_another_machine_count_by_their_last_part_where_the_folder_is_given(tmp_path):
    files = images(tmp_path, images=folder(tmp_path / "pics", "a.jpg", "sub/b.jpg"))
    assert found(files, "C:\\photos\\a.jpg", may_be_path=True) == ("a.jpg", "a.jpg", SHORTER)
    assert found(files, "/home/me/sub/b.jpg", may_be_path=True) == ("sub/b.jpg", "sub/b.jpg", SHORTER)


def test_the_annotation_files_own_name_goes_before_the_name_that_stands_in_it(tmp_path):
    files = images(folder(tmp_path, "0001.jpg", "old.jpg"))
    own = {"own": (tmp_path / "0001",), "spare_names": ("old.jpg",)}
    assert found(files, "0001.jpg", **own)[0] == "0001.jpg"
    own = {"own": (tmp_path / "0002",), "spare_names": ("old.jpg",)}
    assert found(files, "0002.jpg", **own) == ("old.jpg", "old.jpg", None)


def test_images_that_cannot_be_opened_are_counted_with_the_reason(tmp_path):
    folder(tmp_path, "a.jpg", "b.GIF", "more/c.jpe")
    for name in ("IMG_1.HEIC", "raw.NEF", "notes.txt", ".hidden.jpg"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    files = images(tmp_path)
    assert sorted(files.files) == ["a.jpg", "b.GIF", "more/c.jpe"]
    reasons = {name: reason.split(" (")[0] for name, reason in files.not_opened.items()}
    heic = {"IMG_1.HEIC": "HEIC needs the package pillow-heif"} if "IMG_1.HEIC" in reasons else {}
    assert reasons == heic | {
        "raw.NEF": "camera raw is not opened", "gone.jpg": "a broken link", "loop.jpg": "a broken link"
    }  # fmt: skip
    if heic:
        assert "pip install pillow-heif" in found(files, "IMG_1.HEIC")


def test_linked_folders_are_entered_only_when_that_is_asked_for_and_once(tmp_path):
    folder(tmp_path / "outside", "a.jpg")
    folder(tmp_path / "set", "b.jpg")
    (tmp_path / "set/link").symlink_to(tmp_path / "outside", target_is_directory=True)
    (tmp_path / "set/again").symlink_to(tmp_path / "set", target_is_directory=True)
    files = images(tmp_path / "set")
    assert list(files.files) == ["b.jpg"] and files.linked_folders == ["again", "link"]
    files = images(tmp_path / "set", follow_links=True)
    assert sorted(files.files) == ["b.jpg", "link/a.jpg"] and not files.linked_folders


def test_images_that_only_a_linked_folder_holds_are_no_reason_to_write_annotations_alone(tmp_path):
    picture(tmp_path / "far" / "a.jpg")
    write(tmp_path / "set" / "a.xml", voc("a.jpg", ("x", 1, 1, 50, 50, "")))
    (tmp_path / "set" / "images").symlink_to(tmp_path / "far")
    with pytest.raises(NothingLeft, match=r"image missing.*--follow-links enters them"):
        converted(tmp_path / "set", tmp_path / "out", "voc")
    assert converted(tmp_path / "set", tmp_path / "out", "voc", follow_links=True)[0].images == {"train": 1}


def test_what_no_record_took_is_listed(tmp_path):
    files = images(folder(tmp_path, "a.jpg", "b.jpg"))
    files.mark(files.find(record("a.jpg")).path)
    assert list(files.left()) == [(str(tmp_path / "b.jpg"), "no record names it")]


def test_a_header_tells_size_orientation_and_frames(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg", exif=exif)
    header, frames = read_header(tmp_path / "a.jpg")
    assert (header.stored, header.upright, header.orientation, frames) == ((8, 6), (6, 8), 6, 1)
    pages = [Image.new("L", (8, 6), 40 * i) for i in range(3)]
    pages[0].save(tmp_path / "a.gif", save_all=True, append_images=pages[1:])
    assert read_header(tmp_path / "a.gif")[1] == 3


def test_the_same_bytes_in_two_splits_are_found_and_alike_files_are_not(tmp_path):
    content = os.urandom(40_000)
    for name, data in (("a", content), ("b", content), ("c", content[:10_000] + b"!" + content[10_001:])):
        (tmp_path / name).write_bytes(data)
    same = SameImages(several_splits=True)
    same.remember(tmp_path / "a", "train")
    assert same.split_with(tmp_path / "b") == "train"
    assert same.split_with(tmp_path / "c") is None


@pytest.mark.parametrize(
    ("split", "name", "message"),
    [("val", "a.jpg", "in split train already"), ("train", "cam2/a.jpg", "two images"), ("train", "a.jpg", "second")],
)
def test_an_image_belongs_to_one_record(split, name, message):
    same = SameImages(several_splits=True)
    same.add(Path("a.jpg"), "train", "x.json, image id 1", "a.jpg")
    with pytest.raises(DataError, match=message):
        same.add(Path("a.jpg"), split, "x.json, image id 2", name)
