"""`dfine doctor` and `dfine data convert` never disagree about a source."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_coco import FAULTS, OF_THE_SET, REFUSED, SmallCoco

from data_tools.convert.conversion import convert
from data_tools.convert.report import Options, Result
from data_tools.doctor import Diagnosis, examine, repair
from dfine_lib.data.images import DataError

CASES = Path(__file__).parents[3] / "shared" / "cases"
Content = dict[str, dict[str, tuple[tuple[int, int], list[tuple[str, list[float]]]]]]


def content(folder: Path) -> Content:
    """Size and boxes with class names of every image, by split and file name; a repeated box once."""
    found: Content = {}
    for file in sorted((folder / "annotations").glob("instances_*.json")):
        split = file.stem.removeprefix("instances_")
        data = json.loads(file.read_text())
        names = {one["id"]: one["name"] for one in data["categories"]}
        boxes: dict[Any, list[tuple[str, list[float]]]] = {image["id"]: [] for image in data["images"]}
        for one in data["annotations"]:
            boxes[one["image_id"]].append((names[one["category_id"]], one["bbox"]))
        found[split] = {
            image["file_name"]: ((image["width"], image["height"]), _once(boxes[image["id"]]))
            for image in data["images"]
        }
        for image in data["images"]:
            assert (folder / "images" / split / image["file_name"]).is_file()
    return found


def _once(boxes: list[tuple[str, list[float]]]) -> list[tuple[str, list[float]]]:
    return [one for i, one in enumerate(ordered) if one not in ordered[:i]] if (ordered := sorted(boxes)) else []


def assert_same(one: Path, other: Path) -> None:
    mine, theirs = content(one), content(other)
    assert {split: sorted(images) for split, images in mine.items()} == {
        split: sorted(images) for split, images in theirs.items()
    }
    for split, images in mine.items():
        for name, (size, boxes) in images.items():
            assert size == theirs[split][name][0]
            assert [label for label, _ in boxes] == [label for label, _ in theirs[split][name][1]]
            for (_, box), (_, wanted) in zip(boxes, theirs[split][name][1], strict=True):
                np.testing.assert_allclose(box, wanted, atol=0.01)
            mine_file, theirs_file = (folder / "images" / split / name for folder in (one, other))
            assert mine_file.read_bytes() == theirs_file.read_bytes()


def both(place: Path, out: Path, **options: Any) -> tuple[Diagnosis, Result | DataError]:
    """What the doctor finds and what the converter makes of a data folder."""
    return examine(place, exif=options.get("exif")), converted(place, out, **options)


def converted(source: Path, out: Path, **options: Any) -> Result | DataError:
    """What the converter makes of a source, or why it refuses."""
    try:
        return convert(source, out, read="coco", options=Options(progress=False, **options))
    except DataError as error:
        return error


def assert_agreed(place: Path, tmp_path: Path, **options: Any) -> Result | DataError:
    """Hold one against the other: what is left out or refused is an error, and the repaired copy is what is written."""
    found, result = both(place, tmp_path / "converted", **options)
    errors = found.of("error")
    if isinstance(result, DataError):
        assert errors, f"refused by convert: {result}"
        return result
    left_out = result.left_out("records") | result.left_out("boxes")
    assert errors or not left_out, f"left out by convert: {left_out}"
    assert not result.left_out("images").get("no record names it") or "image_orphan" in found.names
    made = repair(found, tmp_path / "repaired")
    assert_same(made.out, tmp_path / "converted")
    return result


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("name", FAULTS)
def test_what_one_leaves_out_the_other_drops_and_the_rest_is_the_same(tmp_path, name, split):
    data = SmallCoco(tmp_path / "set")
    FAULTS[name](data, split, 1)
    assert isinstance(assert_agreed(data.save(), tmp_path), Result)


@pytest.mark.parametrize("name", OF_THE_SET)
def test_what_is_decided_about_a_whole_set_is_decided_alike(tmp_path, name):
    data = SmallCoco(tmp_path / "set")
    OF_THE_SET[name](data, "train", 1)
    assert isinstance(assert_agreed(data.save(), tmp_path), Result)


def test_a_split_that_is_a_copy_of_another_is_kept_by_both_and_said(tmp_path):
    data = SmallCoco(tmp_path / "set", train=3, val=3)
    for k in range(3):
        data.file("train", k).write_bytes(data.file("val", k).read_bytes())
    result = assert_agreed(data.save(), tmp_path)
    assert result.images == {"train": 3, "val": 3} and "is a copy of one of val" in " ".join(result.remarks)


@pytest.mark.parametrize("name", REFUSED)
def test_what_convert_refuses_is_an_error_of_the_doctor(tmp_path, name):
    data = SmallCoco(tmp_path / "set")
    REFUSED[name](data, "train", 1)
    assert isinstance(assert_agreed(data.save(), tmp_path), DataError)


@pytest.mark.parametrize("frame", ["upright", "stored"])
def test_an_undecided_set_is_refused_by_both_and_the_same_once_it_is_said(tmp_path, frame):
    data = SmallCoco(tmp_path / "set")
    REFUSED["turned, undecided"](data, "train", 1)
    place = data.save()
    found, refusal = both(place, tmp_path / "refused")
    assert isinstance(refusal, DataError) and "--exif" in str(refusal)
    assert "image_frame_undecided" in {one.name for one in found.of("error")}
    with pytest.raises(DataError, match=r"it is not known .* say --exif upright or --exif stored"):
        repair(found, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert isinstance(assert_agreed(place, tmp_path, exif=frame), Result)
    repaired = examine(tmp_path / "repaired")
    assert not repaired.of("error"), repaired.text()


def test_fractions_are_the_same_pixels_once_they_are_read_as_fractions(tmp_path):
    data = SmallCoco(tmp_path / "set")
    REFUSED["fractions"](data, "train", 1)
    place = data.save()
    found, refusal = both(place, tmp_path / "refused")
    assert "--fractions" in str(refusal)
    repair(found, tmp_path / "repaired")
    convert(place, tmp_path / "converted", read="coco", options=Options(fractions=True, progress=False))
    assert_same(tmp_path / "repaired", tmp_path / "converted")


def test_names_of_another_machine_are_found_alike_once_the_folder_of_images_is_named(tmp_path):
    data = SmallCoco(tmp_path / "set")
    for k in range(3):
        REFUSED["names of another machine"](data, "train", k)
    place = data.save()
    assert isinstance(assert_agreed(place, tmp_path, images=place / "images"), Result)


def coco_sources() -> list[Path]:
    """COCO files among the inputs of the cases, where they are there."""
    return [path for path in sorted(CASES.glob("*/input/**/*.json")) if _is_coco(path)]


def _is_coco(path: Path) -> bool:
    data = json.loads(path.read_text())
    return isinstance(data, dict) and {"images", "annotations", "categories"} <= data.keys()


@pytest.mark.skipif(not CASES.is_dir(), reason=f"{CASES} is missing")
def test_the_inputs_of_the_cases_are_judged_alike(tmp_path):
    judged = 0
    for number, source in enumerate(coco_sources()):
        images = next((place for place in (source.parent / "pics", source.parents[1] / "images" / "default",
                                           source.parent) if place.is_dir()), None)  # fmt: skip
        named = tmp_path / f"{number}.json"
        entry = {"annotations": str(source), "images": str(images)}
        named.write_text(json.dumps({"train": entry, "val": entry | {"annotations": str(tmp_path / "none.json")}}))
        found = examine(named)
        errors = {one.name for one in found.of("error")} - {"split_missing"}
        result = converted(source, tmp_path / f"converted{number}", images=images)
        if isinstance(result, DataError):
            assert errors, f"{source}: refused by convert: {result}"
            continue
        judged += 1
        left_out = result.left_out("records") | result.left_out("boxes")
        assert errors or not left_out, f"{source}: {left_out}"
        assert_same(repair(found, tmp_path / f"repaired{number}").out, result.out)
    assert judged


@given(
    st.lists(st.tuples(st.sampled_from(sorted(FAULTS)), st.sampled_from(["train", "val"])), min_size=2, max_size=6),
    st.sampled_from([None, *sorted(OF_THE_SET)]),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_sources_of_several_faults_are_judged_alike(faults, of_the_set):
    with tempfile.TemporaryDirectory() as folder:
        data = SmallCoco(Path(folder) / "set", train=8, val=5)
        following = {"train": 1, "val": 1}
        if of_the_set is not None:
            OF_THE_SET[of_the_set](data, "train", 0)
        for name, split in faults:
            if following[split] < len(data.content[split]["images"]) - 1:
                FAULTS[name](data, split, following[split])
                following[split] += 1
        assert_agreed(data.save(), Path(folder))
