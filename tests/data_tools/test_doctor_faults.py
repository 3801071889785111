"""Every check finds the fault that it is named for, raises none on a sound folder, and the copy is mended."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from planted_faults import ALONE, FAULTS, Folder

from data_tools.doctor import CHECKS, examine, repair
from data_tools.shapes import make_shapes
from dfine_lib.data import check_images, read_coco

BCCD = Path(__file__).parents[3] / "shared" / "data" / "bccd"
COCO_FREE = Path(__file__).parents[3] / "shared" / "data" / "coco_free"
REPAIRED = {check.name for check in CHECKS if check.repair}
ERRORS = {check.name for check in CHECKS if check.level == "error"}
# Found by what a sound folder holds, or by several faults together.
WITHOUT_A_FAULT = {"category_counts", "fit_sizes", "fit_enlarged", "fit_few_images", "fit_batch", "fit_few_val"}


@pytest.fixture(scope="session")
def sound(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("sound") / "set", train=16, val=8, size=64, seed=1, progress=False)


def seen_by_the_trainer(folder: Path) -> None:
    """What `dfine train` does before its first step; raises where it would refuse the folder."""
    train = read_coco(folder / "annotations/instances_train.json", folder / "images/train")
    val = read_coco(
        folder / "annotations/instances_val.json",
        folder / "images/val",
        training=False,
        category_ids=train.category_ids,
        category_names=train.category_names,
    )
    for index in (train, val):
        check_images(index, every=True)


def test_a_sound_folder_has_no_error_and_no_repair(sound, tmp_path):
    found = examine(sound)
    assert not found.of("error")
    assert repair(found, tmp_path / "copy").counts == {}
    for split in ("train", "val"):
        name = f"annotations/instances_{split}.json"
        before, after = (json.loads((folder / name).read_text()) for folder in (sound, tmp_path / "copy"))
        assert before == after


def test_there_are_checks_enough_and_every_one_has_words_and_a_planted_fault():
    assert len(CHECKS) >= 40
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    assert all(check.title and check.why and check.what_to_do for check in CHECKS)
    planted = {name.split()[0] for name in (*FAULTS, *ALONE)}
    assert {check.name for check in CHECKS} - planted == WITHOUT_A_FAULT


@pytest.mark.parametrize("name", [*FAULTS, *ALONE])
def test_a_planted_fault_is_found_by_name_and_mended_where_that_is_promised(sound, tmp_path, name):
    folder = Folder(sound, tmp_path / "set")
    (FAULTS | ALONE)[name](folder)
    before = folder.save()
    check = name.split()[0]
    look = check not in ("image_large", "fit_shrunk", "name_in_both_splits")  # of JSON alone: no such picture is there
    found = examine(before, look_at_images=look)
    assert check in found.names
    one = next(one for one in found.findings if one.name == check)
    assert one.count >= 1 and one.examples
    if check in ERRORS & REPAIRED:
        made = repair(found, tmp_path / "copy")
        assert made.done
        again = examine(made.out)
        assert not again.of("error"), again.text()
        seen_by_the_trainer(made.out)


def test_the_input_is_not_touched_by_a_repair(sound, tmp_path):
    folder = Folder(sound, tmp_path / "set")
    for name in ("box_outside", "image_missing", "image_elsewhere", "boxes_as_fractions"):
        FAULTS[name](folder)
    place = folder.save()

    def state() -> dict[str, tuple]:
        return {
            str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
            for path in sorted(place.rglob("*"))
        }

    before = state()
    repair(examine(place), tmp_path / "copy")
    assert state() == before


def test_all_faults_at_once_are_all_named_and_mended(tmp_path):
    sound = make_shapes(tmp_path / "sound", train=140, val=8, size=64, seed=2, progress=False)
    check_all_at_once(sound, tmp_path)


@pytest.mark.skipif(not BCCD.is_dir(), reason=f"{BCCD} is missing")
def test_all_faults_at_once_in_real_photographs_are_all_named_and_mended(tmp_path):
    check_all_at_once(BCCD, tmp_path)


def check_all_at_once(sound: Path, tmp_path: Path) -> None:
    folder = Folder(sound, tmp_path / "set")
    for plant in FAULTS.values():
        plant(folder)
    found = examine(folder.save())
    assert set(FAULTS) - found.names == set()
    assert len(FAULTS) >= 30
    made = repair(found, tmp_path / "copy")
    again = examine(made.out)
    assert not again.of("error"), again.text()
    seen_by_the_trainer(made.out)


@pytest.mark.parametrize("data", [BCCD, COCO_FREE], ids=["bccd", "coco_free"])
def test_real_data_raises_no_error(data):
    if not data.is_dir():
        pytest.skip(f"{data} is missing")
    assert not examine(data).of("error")


def test_a_folder_of_the_coco_layout_and_a_json_that_names_paths_are_understood(sound, tmp_path):
    place = tmp_path / "coco"
    shutil.copytree(sound / "images" / "train", place / "train2017")
    shutil.copytree(sound / "images" / "val", place / "val2017")
    (place / "annotations").mkdir()
    for split in ("train", "val"):
        name = f"instances_{split}.json"
        shutil.copyfile(sound / "annotations" / name, place / "annotations" / name.replace(".json", "2017.json"))
    assert not examine(place).of("error")
    named = tmp_path / "named.json"
    named.write_text(json.dumps({
        split: {"annotations": f"coco/annotations/instances_{split}2017.json", "images": f"coco/{split}2017"}
        for split in ("train", "val")
    }))  # fmt: skip
    assert len(examine(named).splits) == 2
    assert not examine(named).of("error")
