"""Shards of sets with odd records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_tools.shard import shard_data
from dfine_lib.data import DataError, find_split, read_coco
from dfine_lib.data.shards import read_shards
from tests.train.small_runs import write_folder

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
    found = [identity for i in range(len(shards.names)) for identity, _, _ in shards.pictures(i)]
    assert sorted(found) == index.image_ids.tolist()


def test_what_training_would_refuse_is_not_sharded(folder, tmp_path):
    change(folder, lambda content: content["annotations"][0].update(bbox=[5, 5, -3, 4]))
    with pytest.raises(DataError, match="has a negative width"):
        shard_data(folder, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
