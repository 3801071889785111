"""Shards give what the folder that they were made of gives: the same pictures, each once, whoever shares them out."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from data_tools.large.packed import read_index
from data_tools.large.shard import pack_data, shard_data
from data_tools.large.shards import STREAMS, ShardImages, ShardStreams
from data_tools.large.source import LargeFolder
from data_tools.large.tars import SOURCE, is_sharded, read_shards
from dfine_lib.config import Recipe
from dfine_lib.data import DataError, EvalLoader, TrainLoader, find_split, loader, read_coco
from dfine_lib.data.samples import SampleKey
from tests.data.test_loader import equal, ids
from tests.data_tools.planted_faults import enormous_header
from tests.small_runs import write_folder

pytest.importorskip("webdataset", reason="the extra `shards` is not installed")
train_loader, eval_loader = LargeFolder().train_loader, LargeFolder().eval_loader


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("plain") / "data", images=45, side=40)


@pytest.fixture(scope="module")
def sharded(folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("tars") / "set"
    assert "train 45 images in 7 shards" in shard_data(folder, out, images_per_shard=7, progress=False)
    return out


@pytest.fixture
def index(sharded):
    return read_coco(*find_split(sharded, "train"))


@pytest.fixture
def small(recipe) -> Recipe:
    return replace(recipe, data=replace(recipe.data, image_size=32, batch_size=4, eval_batch_size=6))


def by_id(batches) -> dict[int, list[torch.Tensor]]:
    """Picture and boxes of every image."""
    return {
        int(i): [image, target["labels"], target["boxes"]]
        for batch in batches
        for i, image, target in zip(batch.image_ids, batch.images, batch.targets, strict=True)
    }


def test_a_shard_holds_the_files_as_they_were(folder, sharded):
    seen: Counter[str] = Counter()
    content = json.loads((folder / "annotations/instances_train.json").read_text())
    images = {image["id"]: image for image in content["images"]}
    for path in sorted((sharded / "images/train").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                identity, ending = member.name.split(".")
                seen[ending] += 1
                held = tar.extractfile(member).read()
                if ending == "png":
                    assert held == (folder / "images/train" / images[int(identity)]["file_name"]).read_bytes()
                else:
                    about = json.loads(held)
                    assert about["image"] == images[int(identity)]
                    assert about["annotations"] == [a for a in content["annotations"] if a["image_id"] == int(identity)]
    assert seen == {"png": 45, "json": 45}


def test_equal_arguments_give_equal_bytes_and_another_seed_another_order(folder, sharded, tmp_path):
    shard_data(folder, tmp_path / "again", images_per_shard=7, progress=False)
    shard_data(folder, tmp_path / "other", images_per_shard=7, seed=1, progress=False)
    one, again, other = (
        [(f / "images/train" / f"{i:06}.tar").read_bytes() for i in range(7)]
        for f in (sharded, tmp_path / "again", tmp_path / "other")
    )
    assert one == again
    assert one != other
    val = [(f / "images/val/000000.tar").read_bytes() for f in (sharded, tmp_path / "other")]
    assert val[0] == val[1]


def test_a_sample_is_the_folders_bit_for_bit(folder, index, small):
    """Same seed, epoch and image: same augmented tensors, whatever the order."""
    small = replace(small, data=replace(small.data, base_size_repeat=None))
    plain = by_id(TrainLoader(read_coco(*find_split(folder, "train")), small, seed=3).epoch(0))
    shards = by_id(train_loader(index, small, seed=3).epoch(0))
    common = plain.keys() & shards.keys()
    assert len(plain) == len(shards) == 44
    assert len(common) >= 43
    assert all(torch.equal(a, b) for i in common for a, b in zip(plain[i], shards[i], strict=True))


def test_every_epoch_sees_each_image_once_in_another_order(index, small):
    loader = train_loader(index, small, seed=0)
    orders = [ids(loader.epoch(epoch)) for epoch in (0, 1)]
    assert all(len(order) == len(set(order)) == 44 for order in orders)
    assert orders[0] != orders[1]
    assert orders[0] == ids(train_loader(index, small, seed=0).epoch(0))
    assert orders[0] != ids(train_loader(index, small, seed=1).epoch(0))


def test_workers_do_not_change_a_bit_and_an_epoch_goes_on_at_any_batch(index, small):
    alone = train_loader(index, small, seed=7)
    whole = list(alone.epoch(1))
    for start in (1, 5, len(alone)):
        assert equal(list(alone.epoch(1, start)), whole[start:])
    helped = train_loader(index, replace(small, data=replace(small.data, num_workers=2)), seed=7)
    assert equal(list(helped.epoch(1)), whole)
    assert equal(list(helped.epoch(1, 3)), whole[3:])


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_an_epoch_without_repeats_or_losses(index, small, world_size):
    ranks = [train_loader(index, small, seed=5, rank=r, world_size=world_size) for r in range(world_size)]
    parts = [list(rank.epoch(0)) for rank in ranks]
    assert {len(part) for part in parts} == {11}
    seen = Counter(i for part in parts for i in ids(part))
    assert len(seen) == sum(seen.values()) == 44


@pytest.mark.parametrize("world_size", [1, 2, 5, 60])
def test_evaluation_sees_every_image_once(sharded, folder, small, world_size):
    index = read_coco(*find_split(sharded, "val"), training=False)
    batches = [batch for r in range(world_size) for batch in eval_loader(index, small, rank=r, world_size=world_size)]
    assert sorted(ids(batches)) == index.image_ids.tolist()
    plain = by_id(EvalLoader(read_coco(*find_split(folder, "val"), training=False), small))
    found = by_id(batches)
    assert all(torch.equal(a, b) for i in plain for a, b in zip(plain[i], found[i], strict=True))


def test_a_picture_is_also_found_by_its_place(folder, index, small):
    images = ShardImages(index, read_shards(index), small, seed=3)
    plain = TrainLoader(read_coco(*find_split(folder, "train")), small, seed=3)._loader.dataset
    for key in (0, 44, SampleKey(1, 17, True)):
        some, other = images[key], plain[key]
        assert some[1] == other[1]
        assert all(torch.equal(a, b) for a, b in zip(some[0], other[0], strict=True))


def test_a_run_trains_on_them_and_its_first_pictures_are_shown(sharded, tmp_path):
    from dfine_lib.recipes import changed, get_recipe
    from dfine_lib.train.trainer import train
    from dfine_tools.runs.recorder import RunRecorder
    from tests.small_runs import SMALL

    recipe = changed(get_recipe("pico"), SMALL | {"train.epochs": 1, "data.batch_size": 15})
    result = train(recipe, sharded, tmp_path / "run", source=LargeFolder(), device="cpu", callback=RunRecorder())
    assert result["steps"] == 3
    assert len(json.loads((tmp_path / "run/samples.json").read_text())["images"]) == 4


def test_the_tars_may_lie_elsewhere_if_the_environment_says_so(sharded, small, tmp_path, monkeypatch):
    away = tmp_path / "bucket"
    (sharded / "images").rename(away)
    try:
        for split in ("train", "val"):
            (sharded / "images" / split).mkdir(parents=True)
            (sharded / "images" / split / "shards.json").write_bytes((away / split / "shards.json").read_bytes())
        index = read_coco(*find_split(sharded, "train"))
        with pytest.raises(DataError, match=r"000000.tar: is not there.*DFINE_SHARDS_FROM"):
            LargeFolder().check(index, every=False)
        for source in (f"pipe:cat {away}/{{}}", str(away)):
            monkeypatch.setenv(SOURCE, source)
            LargeFolder().check(index, every=False)
            assert len(set(ids(train_loader(index, small, seed=0).epoch(0, 6)))) == 20
        monkeypatch.setenv(SOURCE, "pipe:cat")
        with pytest.raises(DataError, match=r"should hold \{\}"):
            next(train_loader(index, small, seed=0).epoch(0))
        monkeypatch.setenv(SOURCE, f"pipe:cat {away}/nowhere/{{}}")
        with pytest.raises((DataError, OSError)):
            next(train_loader(index, small, seed=0).epoch(0))
    finally:
        for path in (sharded / "images").rglob("*.json"):
            path.unlink()
        for split in ("train", "val"):
            (sharded / "images" / split).rmdir()
        (sharded / "images").rmdir()
        away.rename(sharded / "images")


def test_what_shards_cannot_do_is_said(index, small):
    with pytest.raises(ValueError, match="repeat_threshold"):
        train_loader(index, replace(small, data=replace(small.data, repeat_threshold=0.5)), seed=0)
    with pytest.raises(ValueError, match="45 images in shards are fewer than a batch of 64"):
        train_loader(index, replace(small, data=replace(small.data, batch_size=64)), seed=0)
    with pytest.raises(ValueError, match="start_batch"):
        train_loader(index, small, seed=0).epoch(0, 99)
    assert STREAMS % 4 == 0


@pytest.fixture
def broken(folder, tmp_path):
    """Write shards, change them, and read: the message."""
    shard_data(folder, tmp_path / "set", images_per_shard=20, progress=False)
    home = tmp_path / "set/images/train"

    def broken(change, small: Recipe) -> str:
        change(home)
        index = read_coco(*find_split(tmp_path / "set", "train"))
        assert is_sharded(index)
        with pytest.raises(DataError) as error:
            list(train_loader(index, small, seed=0).epoch(0))
        return str(error.value)

    return broken


@pytest.mark.parametrize(
    "name", ["pipe:touch HERE #.tar", "../train/000000.tar", "/etc/passwd", "http://host/a.tar", "a b.tar", "x;y.tar"]
)
def test_an_index_that_names_anything_but_files_is_refused(broken, small, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def change(home: Path) -> None:
        text = (home / "shards.json").read_text()
        (home / "shards.json").write_text(text.replace("000000.tar", name))

    assert "names are those of tar files" in broken(change, small)
    assert not (tmp_path / "HERE").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [("bomb", "refused: Image size"), ("text", "no readable image"), ("other", "is 8 x 8, the record")],
)
def test_a_picture_that_could_not_be_trained_on_is_not_packed(tmp_path, name, message):
    data = write_folder(tmp_path / "data", images=3)
    picture = data / "images/train/1.png"
    if name == "bomb":
        enormous_header(Image.new("L", (8, 8)), picture)
    elif name == "text":
        picture.write_text("<html>")
    else:
        Image.new("L", (8, 8)).save(picture)
    with pytest.raises(DataError, match=message):
        shard_data(data, tmp_path / "out", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def add(path: Path, member: tarfile.TarInfo, content: bytes = b"") -> None:
    with tarfile.open(path, "a:") as tar:
        tar.addfile(member, io.BytesIO(content))


def sized(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    return member


def linked(home: Path) -> None:
    member = tarfile.TarInfo("9999.png")
    member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    add(home / "000000.tar", member)


def endless(home: Path) -> None:
    """A header that promises a terabyte."""
    (home / "000000.tar").write_bytes(sized("9999.png", 1 << 40).tobuf() + bytes(1024))


def sparse(home: Path) -> None:
    member = sized("9999.png", 512)
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 40),
                          "GNU.sparse.name": "9999.png"}  # fmt: skip
    head = member.tobuf(format=tarfile.PAX_FORMAT)
    (home / "000000.tar").write_bytes(head + b"1\n0\n512\n".ljust(512, b"\0") + bytes(1024))


def climbing(home: Path) -> None:
    add(home / "000000.tar", sized("../../evil.png", 4), b"evil")


def cut(home: Path) -> None:
    path = home / "000001.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def stranger(home: Path) -> None:
    for path in home.glob("*.tar"):
        add(path, sized("777.png", 4), b"none")


def one_less(home: Path) -> None:
    text = (home / "shards.json").read_text()
    (home / "shards.json").write_text(text.replace('"images": 20', '"images": 19'))


def deep(home: Path) -> None:
    (home / "shards.json").write_text("[" * 10**6)


def away(home: Path) -> None:
    (home / "000000.tar").unlink()
    (home / "000000.tar").symlink_to("/etc/passwd")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (linked, "no plain file"), (endless, "cut off"), (sparse, "no plain file|cut off"),
        (climbing, "should be an image id"), (cut, "cut off"), (stranger, "has no image id 777|holds"),
        (one_less, "38 images in shards|43 images in shards"), (deep, "no index of shards"),
        (away, "leads out of"),
    ],
)  # fmt: skip
def test_a_hostile_or_damaged_shard_is_told(broken, small, change, message):
    found = broken(change, small)
    assert any(each in found for each in message.split("|")), found


def test_tools_for_folders_of_pictures_say_what_to_give(sharded, tmp_path):
    from data_tools.doctor import examine
    from data_tools.subset import subset_data

    for call in (
        lambda: examine(sharded),
        lambda: subset_data(sharded, tmp_path / "out", fraction=0.5),
        lambda: shard_data(sharded, tmp_path / "out"),
    ):
        with pytest.raises(DataError, match="Give the data folder that they were made of"):
            call()
    assert not (tmp_path / "out").exists()


def test_a_missing_webdataset_is_told(index, small, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "webdataset", None)
    with pytest.raises(DataError, match=r"pip install -e .*shards"):
        LargeFolder().check(index, every=False)


def test_a_packed_set_trains_from_where_its_pictures_are(folder, tmp_path, small):
    assert "45 images" in pack_data(folder, tmp_path / "packed")
    packed = read_index(*find_split(tmp_path / "packed/data.json", "train"))
    assert packed.annotation_file.name == "train.packed"
    plain = read_coco(*find_split(folder, "train"))
    assert equal(list(TrainLoader(packed, small, seed=1).epoch(0)), list(TrainLoader(plain, small, seed=1).epoch(0)))
    assert find_split(tmp_path / "packed/data.json", "val") == find_split(folder, "val")


@pytest.mark.parametrize(("platform", "method"), [("linux", "fork"), ("darwin", None), ("win32", None)])
def test_workers_are_forked_on_linux_alone(index, small, monkeypatch, platform, method):
    """A process of macOS that forks after its system libraries have started threads may crash."""
    asked = []

    class Recorded(torch.utils.data.DataLoader):
        def __init__(self, *arguments, multiprocessing_context, **settings):
            asked.append(multiprocessing_context)
            super().__init__(*arguments, **settings | {"num_workers": 0})

    monkeypatch.setattr(loader, "sys", SimpleNamespace(platform=platform))
    monkeypatch.setattr(loader, "DataLoader", Recorded)
    small = replace(small, data=replace(small.data, num_workers=2))
    next(train_loader(index, small, seed=0).epoch(0))
    next(iter(eval_loader(index, small)))
    assert asked == [method] * 2


def test_streams_travel_to_a_worker_that_is_started_afresh(index, small):
    """As on systems that cannot fork."""
    images = ShardImages(index, read_shards(index), small, seed=3)
    streams = ShardStreams(images, np.arange(len(images.shards.names)), 0, [4] * 8, train=(0, True))
    expected, found = ([raw.images for raw in part] for part in (streams, pickle.loads(pickle.dumps(streams))))
    assert len(found) == 8 and all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
