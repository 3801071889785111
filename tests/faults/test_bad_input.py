"""What users get wrong, through the command they type: exit code 2, a message that names the place, nothing trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_folder import make_folder

from dfine_lib.config import DataConfig
from dfine_lib.model.dfine import DFINE
from dfine_lib.model.weights import save_weights
from dfine_lib.recipes import get_recipe
from dfine_tools.cli import main

TRAIN = Path("annotations/instances_train.json")


@pytest.fixture
def folder(tmp_path) -> Path:
    return make_folder(tmp_path / "set")


def edited(folder: Path, change: Callable[[dict], object], file: Path = TRAIN) -> None:
    content = json.loads((folder / file).read_text())
    change(content)
    (folder / file).write_text(json.dumps(content))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def box(content: dict, values: list) -> None:
    content["annotations"][2]["bbox"] = values


FAULTS = {
    "missing JSON": (lambda f: (f / TRAIN).unlink(), ["instances_train.json"]),
    "truncated JSON": (lambda f: cut(f / TRAIN), ["instances_train.json"]),
    "missing image": (lambda f: (f / "images/train/3.png").unlink(), ["3.png"]),
    "truncated image": (lambda f: cut(f / "images/train/3.png"), ["3.png"]),
    "image of another size": (
        lambda f: edited(f, lambda c: c["images"][3].update(width=99)),
        ["3.png", "99", "64"],
    ),
    "unknown category": (
        lambda f: edited(f, lambda c: c["annotations"][2].update(category_id=55)),
        ["instances_train.json", "55", "3"],
    ),
    "box outside the image": (lambda f: edited(f, lambda c: box(c, [500, 500, 10, 10])), ["500", "annotation", "3"]),
    "NaN in a box": (lambda f: edited(f, lambda c: box(c, [1, 2, float("nan"), 10])), ["annotation", "3"]),
    "negative width": (lambda f: edited(f, lambda c: box(c, [30, 30, -5, 10])), ["annotation", "3"]),
    "no images": (lambda f: edited(f, lambda c: c.update(images=[], annotations=[])), ["images"]),
    "no boxes": (lambda f: edited(f, lambda c: c.update(annotations=[])), ["instances_train.json"]),
    "duplicate image id": (lambda f: edited(f, lambda c: c["images"][3].update(id=1)), ["duplicate", "1"]),
    "duplicate annotation id": (lambda f: edited(f, lambda c: c["annotations"][2].update(id=1)), ["duplicate", "1"]),
    "no categories": (lambda f: edited(f, lambda c: c.pop("categories")), ["categories"]),
    "annotation of no image": (
        lambda f: edited(f, lambda c: c["annotations"][2].update(image_id=777)),
        ["777", "3"],
    ),
    "file name leaving the folder": (
        lambda f: edited(f, lambda c: c["images"][3].update(file_name="../../x.png")),
        ["../../x.png"],
    ),
    "no val split": (lambda f: (f / "annotations/instances_val.json").unlink(), ["instances_val.json"]),
    "no such folder": (shutil.rmtree, ["set"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_data_is_named_and_nothing_is_trained(fault, folder, tmp_path, capsys):
    break_it, words = FAULTS[fault]
    break_it(folder)
    code = main(["train", "--recipe", "pico", "--data", str(folder), "--out", str(tmp_path / "run"), "--device", "cpu"])
    message = capsys.readouterr().err
    assert code == 2, message
    assert all(word.lower() in message.lower() for word in words), message
    assert "Traceback" not in message
    assert not (tmp_path / "run" / "last.pt").exists()


def small_weights(path: Path, names: tuple[str, ...], recipe: str = "pico") -> Path:
    model = DFINE.from_recipe(recipe, num_classes=len(names))
    ids = tuple(range(7, 7 + len(names)))
    return save_weights(path, model, data=DataConfig(image_size=64), category_names=names, category_ids=ids)


def test_weights_of_another_size_are_refused(folder, tmp_path, capsys):
    weights = small_weights(tmp_path / "n.safetensors", ("dot", "bar"), "n_coco")
    options = ["--recipe", "pico", "--data", str(folder), "--out", str(tmp_path / "run"), "--weights", str(weights)]
    assert main(["train", *options]) == 2
    assert "n.safetensors: weights of another model" in capsys.readouterr().err


def test_weights_that_lack_a_class_of_the_folder_are_not_scored_on_it(folder, tmp_path, capsys):
    weights = small_weights(tmp_path / "w.safetensors", ("dot", "ring"))
    assert main(["eval", "--weights", str(weights), "--data", str(folder)]) == 2
    assert "bar" in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_written_is_refused(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    options = ["--recipe", "pico", "--data", str(folder), "--out", str(tmp_path / "file" / "run")]
    assert main(["train", *options]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_an_image_size_that_is_no_multiple_of_32_is_refused(folder, capsys):
    assert main(["train", "--recipe", "pico", "--data", str(folder), "--image-size", "100"]) == 2
    assert "multiple of 32" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_refused(folder, tmp_path, capsys):
    options = ["--recipe", "pico", "--data", str(folder), "--out", str(tmp_path / "run"), "--device", "cuda:9"]
    assert main(["train", *options]) == 2
    assert "cuda:9" in capsys.readouterr().err


def test_an_unknown_recipe_is_told_with_its_neighbours(folder, capsys):
    assert main(["train", "--recipe", "n_coc", "--data", str(folder)]) == 2
    assert "n_coco" in capsys.readouterr().err
    assert get_recipe("n_coco").name == "n_coco"
