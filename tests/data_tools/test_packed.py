"""A packed index holds what the annotation file held, opens without reading it, and tells when it is damaged."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest

from data_tools.large.packed import read_index, read_packed, write_packed
from data_tools.shapes import make_shapes
from dfine_lib.data.coco import CocoIndex, find_split, read_coco
from dfine_lib.data.images import DataError


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> CocoIndex:
    folder = make_shapes(tmp_path_factory.mktemp("set") / "shapes", train=6, val=2, size=64, progress=False)
    return read_coco(*find_split(folder, "train"))


def test_it_comes_back_as_it_was(index, tmp_path):
    back = read_packed(write_packed(index, tmp_path / "train.packed"), index.image_folder)
    for field in dataclasses.fields(CocoIndex):
        one, other = getattr(index, field.name), getattr(back, field.name)
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype and np.array_equal(one, other), field.name
        elif field.name != "annotation_file":
            assert one == other, field.name
    assert back.file_name(3) == index.file_name(3) and back.file_name(3).exists()
    assert all(np.array_equal(a, b) for a, b in zip(back.targets(5), index.targets(5)))


def test_arrays_are_maps_that_cannot_be_written(index, tmp_path):
    back = read_packed(write_packed(index, tmp_path / "train.packed"), index.image_folder)
    assert isinstance(back.boxes_xyxy, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        back.boxes_xyxy[0] = 0


def test_it_trains_in_place_of_an_annotation_file(index, tmp_path):
    file = write_packed(index, tmp_path / "train.packed")
    again = read_index(file, index.image_folder)
    assert np.array_equal(again.boxes_xyxy, index.boxes_xyxy)
    with pytest.raises(DataError, match="evaluat"):
        read_index(file, index.image_folder, training=False)
    with pytest.raises(DataError, match="category ids"):
        read_index(file, index.image_folder, category_ids=(1, 2))


def test_another_ending_is_refused(index, tmp_path):
    with pytest.raises(ValueError, match=r"\.packed"):
        write_packed(index, tmp_path / "train.json")


def test_damage_is_told(index, tmp_path):
    file = write_packed(index, tmp_path / "train.packed")
    whole = file.read_bytes()
    for content, words in (
        (whole[: len(whole) // 2], "cut off"),
        (b"{}", "not a packed index"),
        (whole[:21] + b"\xff" * 8 + whole[29:], "header"),
        (whole[:30] + b"x" * 40 + whole[70:], "damaged"),
        (b"", "not a packed index"),
    ):
        file.write_bytes(content)
        with pytest.raises(DataError, match=words):
            read_packed(file, index.image_folder)
    with pytest.raises(DataError, match="cannot be read"):
        read_packed(tmp_path / "nothing.packed", index.image_folder)
    with pytest.raises(DataError, match="no such image folder"):
        read_packed(file, tmp_path / "nowhere")


def test_a_big_index_is_mapped_and_sent_to_workers_by_name(tmp_path):
    images, boxes = 200_000, 2_000_000
    names = np.frombuffer(b"".join(b"%012d.jpg" % i for i in range(images)), np.uint8)
    big = CocoIndex(
        annotation_file=tmp_path / "a.json",
        image_folder=tmp_path,
        image_ids=np.arange(images),
        sizes_wh=np.full((images, 2), 640, np.int32),
        name_bytes=names,
        name_offsets=np.arange(images + 1) * 16,
        box_offsets=np.arange(images + 1) * (boxes // images),
        boxes_xyxy=np.ones((boxes, 4), np.float32),
        labels=np.zeros(boxes, np.int64),
        iscrowd=np.zeros(boxes, bool),
        category_ids=(1,),
        category_names=("thing",),
    )
    file = write_packed(big, tmp_path / "big.packed")
    back = read_packed(file, tmp_path)
    assert all(isinstance(getattr(back, name), np.memmap) for name in ("boxes_xyxy", "labels", "name_bytes"))
    assert len(pickle.dumps(back)) < 1000  # what a worker process is sent
    assert np.array_equal(pickle.loads(pickle.dumps(back)).labels, big.labels)
    assert back.file_name(199_999).name == "000000199999.jpg" and len(back.targets(7)[0]) == 10
