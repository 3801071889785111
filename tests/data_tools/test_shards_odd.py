"""Shards of sets with odd records."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from data_tools.large.shard import shard_data
from data_tools.large.source import LargeFolder
from data_tools.large.tars import SOURCE, read_shards
from dfine_lib.data import DataError, find_split, read_coco
from tests.small_runs import write_folder

pytest.importorskip("webdataset", reason="the extra `shards` is not installed")


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_folder(tmp_path / "data", images=6, side=40)


def change(folder: Path, alter) -> None:
    file = folder / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    alter(content)
    file.write_text(json.dumps(content))


def test_ids_written_with_a_point_are_read_again(folder, tmp_path):
    """In a tar the name of a member ends at its first point."""

    def alter(content):
        for image in content["images"]:
            image["id"] = float(image["id"])

    change(folder, alter)
    shard_data(folder, tmp_path / "out", images_per_shard=4, progress=False)
    index = read_coco(*find_split(tmp_path / "out", "train"))
    shards = read_shards(index)
    found = [identity for i in range(len(shards.names)) for identity, _, _ in shards.images(i)]
    assert sorted(found) == index.image_ids.tolist()


def test_what_training_would_refuse_is_not_sharded(folder, tmp_path):
    change(folder, lambda content: content["annotations"][0].update(bbox=[5, 5, -3, 4]))
    with pytest.raises(DataError, match="has a negative width"):
        shard_data(folder, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def sharded(folder, tmp_path) -> Path:
    shard_data(folder, tmp_path / "tars", images_per_shard=2, progress=False)
    return tmp_path / "tars"


def read_all(sharded: Path) -> None:
    shards = read_shards(read_coco(*find_split(sharded, "train")))
    for i in range(len(shards.names)):
        assert len(list(shards.images(i))) == 2


def damage(home: Path) -> None:
    """One byte in the middle of a picture, which decodes all the same."""
    path = home / "000001.tar"
    with tarfile.open(path) as tar:
        member = next(member for member in tar if not member.name.endswith("json"))
    content = bytearray(path.read_bytes())
    content[member.offset_data + member.size // 2] ^= 1
    path.write_bytes(content)


def twice(home: Path) -> None:
    """One tar in place of another of the same length."""
    shutil.copy(home / "000000.tar", home / "000001.tar")


def swapped(home: Path) -> None:
    text = (home / "shards.json").read_text()
    for a, b in (("000000", "x"), ("000001", "000000"), ("x", "000001")):
        text = text.replace(f"{a}.tar", f"{b}.tar")
    (home / "shards.json").write_text(text)


@pytest.mark.parametrize("change", [damage, twice, swapped])
def test_pictures_that_are_not_those_of_the_index_are_told(sharded, change):
    read_all(sharded)
    change(sharded / "images" / "train")
    with pytest.raises(DataError, match=r"00000\d.tar: its images are not those that .*shards.json tells of"):
        read_all(sharded)


def test_an_index_without_checksums_is_read(sharded):
    file = sharded / "images" / "train" / "shards.json"
    content = json.loads(file.read_text())
    for row in content["shards"]:
        del row["crc32"]
    file.write_text(json.dumps(content))
    read_all(sharded)


def test_tars_without_their_index_are_told(sharded):
    (sharded / "images" / "train" / "shards.json").unlink()
    with pytest.raises(DataError, match=r"tar archives, but no shards.json beside them"):
        LargeFolder().check(read_coco(*find_split(sharded, "train")), every=False)


@pytest.mark.parametrize("command", ["cat {}/nowhere/{{}}", "false {{}}", "head -c 700 {}/{{}}; exit 3 # {{}}"])
def test_a_command_that_fails_is_told_with_its_shard(sharded, command, monkeypatch):
    """As for a tar that is not in the bucket: the command has ended before the reader knows."""
    monkeypatch.setenv(SOURCE, "pipe:" + command.format(sharded / "images"))
    with pytest.raises(DataError, match=r"000000.tar.*cannot be read .*exit \d.* It comes from DFINE_SHARDS_FROM"):
        read_all(sharded)


def test_a_shard_that_is_left_early_says_nothing_of_its_command(sharded, monkeypatch):
    monkeypatch.setenv(SOURCE, f"pipe:cat {sharded / 'images'}/{{}} /dev/zero; exit 3")
    shards = read_shards(read_coco(*find_split(sharded, "train")))
    pictures = shards.images(0)
    next(pictures)
    pictures.close()
