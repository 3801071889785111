"""`dfine eval`: which class row answers for which class of the folder; every way out that a refusal names is run."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data_tools.shapes import make_shapes
from dfine_lib.model.weights import read_weights
from dfine_tools import cli
from dfine_tools.analysis import saved
from dfine_tools.analysis.saved import open_saved
from dfine_tools.weights.named_rows import take_rows

ROOT = Path(__file__).parents[3]
PICO = ROOT / "notebooks" / "assets" / "dfine_pico_shapes.safetensors"
SIZE = {"data.image_size": 96, "data.num_workers": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("set") / "shapes"
    make_shapes(folder, train=8, val=8, size=96, progress=False)
    return folder


@pytest.fixture(scope="module")
def names() -> tuple[str, ...]:
    return read_weights(PICO).category_names


def numbers(words: list[object], out: Path) -> dict:
    """What `dfine eval` writes."""
    more = ["--image-size", "96", "--workers", "0", "--out", str(out)]
    assert cli.main(["eval", *map(str, words), *more]) == 0
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def expected(folder, tmp_path_factory) -> dict:
    found = numbers(["--weights", PICO, "--data", folder], tmp_path_factory.mktemp("named") / "a.json")
    assert found["ap"] > 0.3 and "class_rows" not in found
    return found


def test_pycocotools_as_engine_gives_the_same_metrics(folder, expected, tmp_path):
    found = numbers(["--weights", PICO, "--data", folder, "--engine", "pycocotools"], tmp_path / "a.json")
    found |= found.pop("per_class")
    wanted = expected | expected["per_class"]
    assert {name for name, ap in found.items() if ap is None} == {name for name in found if wanted[name] is None}
    for name, ap in found.items():
        assert ap == pytest.approx(wanted[name], abs=1e-12), name


def authors_file(path: Path, rows: list[int]) -> Path:
    """A checkpoint as the authors' code writes it, without names: rows of the shapes' model, -1 an untrained one."""
    state = {key: value.float() if value.is_floating_point() else value for key, value in load_file(PICO).items()}
    taken = take_rows(state, [max(row, 0) for row in rows])
    for key, value in taken.items():
        if "score_head" in key:
            for i, row in enumerate(rows):
                value[i] = value[i] if row >= 0 else (9.0 if key.endswith("bias") else 0.0)  # sure of everything
    torch.save({"model": taken}, path)
    return path


def refusal(capsys, *words: object) -> str:
    capsys.readouterr()
    assert cli.main(["eval", *map(str, words)]) == 2
    return capsys.readouterr().err


def test_one_row_more_is_refused_with_both_numbers_and_each_way_out_gives_the_same_ap(
    folder, names, expected, tmp_path, capsys
):
    checkpoint = authors_file(tmp_path / "a checkpoint.pth", [-1, *range(10)])  # trained with ids from 1 as labels
    said = refusal(capsys, "--weights", checkpoint, "--data", folder)
    assert "11 class rows without names, for the 10 classes of" in said

    option = re.search(r"--row (\S+)=ROW", said)
    assert option[1] == names[0]
    rows = [f"--row={name}={i}" for i, name in enumerate(names, start=1)]
    found = numbers(["--weights", checkpoint, "--data", folder, *rows], tmp_path / "b.json")
    assert found.pop("class_rows") == {name: i for i, name in enumerate(names, start=1)}
    assert found == expected

    words = shlex.split(re.search(r"(dfine weights .* --names NAMES.txt)", said)[1])
    named, listed = tmp_path / "named.safetensors", tmp_path / "names.txt"
    listed.write_text("\n" + "".join(f"{name}\n" for name in names))
    words = [{"NAMED.safetensors": str(named), "NAMES.txt": str(listed)}.get(word, word) for word in words]
    assert cli.main(words[1:]) == 0
    assert numbers(["--weights", named, "--data", folder], tmp_path / "c.json") == expected


def test_one_row_fewer_is_refused_too_and_rows_that_are_not_told_are_named(folder, names, tmp_path, capsys):
    checkpoint = authors_file(tmp_path / "nine.pth", list(range(9)))
    assert "9 class rows without names, for the 10 classes of" in refusal(
        capsys, "--weights", checkpoint, "--data", folder
    )
    said = refusal(capsys, "--weights", checkpoint, "--data", folder, "--row", f"{names[3]}=3")
    assert f"knows no class '{names[0]}'" in said and f"--row {names[0]}=ITS_ROW" in said
    assert "names none of its 9 rows" in said


def test_as_many_rows_without_names_are_used_in_their_order_and_said(folder, names, expected, tmp_path, caplog):
    checkpoint = authors_file(tmp_path / "ten.pth", list(range(10)))
    found = numbers(["--weights", checkpoint, "--data", folder], tmp_path / "a.json")
    assert sum("taken in their order" in record.getMessage() for record in caplog.records) == 1
    assert found.pop("class_rows") == {name: i for i, name in enumerate(names)}
    assert found == expected


def test_a_class_of_another_name_is_told_by_row_and_the_message_says_how(folder, names, expected, tmp_path, capsys):
    renamed = tmp_path / "renamed"
    (renamed / "annotations").mkdir(parents=True)
    (renamed / "images").symlink_to(folder / "images")
    content = json.loads((folder / "annotations/instances_val.json").read_text())
    category = next(c for c in content["categories"] if c["name"] == names[2])
    category["name"] = "a wedge"
    (renamed / "annotations/instances_val.json").write_text(json.dumps(content))
    said = refusal(capsys, "--weights", PICO, "--data", renamed)
    assert "knows no class 'a wedge'" in said
    option = re.search(r"--row '(a wedge)=ITS_NAME|--row ('a wedge')=ITS_NAME", said)
    word = shlex.split(f"--row {option[2]}={names[2]}")
    found = numbers(["--weights", PICO, "--data", renamed, *word], tmp_path / "a.json")
    assert found["ap"] == expected["ap"] and found["class_rows"]["a wedge"] == names[2]


def test_the_last_class_of_a_model_with_one_class_more_than_the_folder_is_scored(folder, names, tmp_path):
    """An evaluator of nine of the ten classes took the model's last row for one that stands for no class."""
    from dfine_lib.evaluate import CocoEvaluator, evaluate_model

    opened = open_saved(PICO, folder, settings=SIZE, device="cpu")
    index = opened.loader.index
    with pytest.raises(ValueError, match="a model of 10 classes, for an evaluation of 9"):
        evaluate_model(opened.model, opened.loader, CocoEvaluator(index.annotation_file, index.category_ids[:9]), "cpu")


def test_an_export_compares_no_ap_where_nothing_says_which_row_is_which_class(folder, tmp_path, capsys):
    checkpoint, out = authors_file(tmp_path / "eleven.pth", [-1, *range(10)]), tmp_path / "a.onnx"
    command = ["export", "--to", "onnx", "--out", out, "--data", folder, "--weights"]
    assert cli.main([*map(str, command), str(checkpoint)]) == 2
    assert "11 class rows without names, for the 10 classes of" in capsys.readouterr().err
    other = tmp_path / "other.safetensors"
    listed = ",".join(f"thing {i}" for i in range(11))
    assert cli.main(["weights", str(checkpoint), "--to", str(other), "--names", listed]) == 0
    assert cli.main([*map(str, command), str(other)]) == 2
    assert "11 class rows, of which none has the name of a class" in capsys.readouterr().err and not out.exists()


def test_training_starts_from_unnamed_rows_by_number_and_says_which(folder, names, tmp_path, caplog):
    checkpoint = authors_file(tmp_path / "eleven.pth", [-1, *range(10)])
    command = [
        "train", "--recipe", "pico", "--data", folder, "--weights", checkpoint, "--epochs", 1, "--image-size", 64,
        "--batch-size", 4, "--workers", 0, "--device", "cpu",
    ]  # fmt: skip
    assert cli.main([*map(str, command), "--out", str(tmp_path / "fresh")]) == 0
    assert any("11 class rows for 10 classes, so none is carried over" in r.getMessage() for r in caplog.records)
    result = json.loads((tmp_path / "fresh" / "metrics.json").read_text())
    assert result["class_rows"] == {"rows": dict.fromkeys(names)}
    rows = [f"--row={names[0]}=1", f"--row={names[1]}=2"]
    assert cli.main([*map(str, command), *rows, "--out", str(tmp_path / "two")]) == 0
    result = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert result["class_rows"]["rows"] == dict.fromkeys(names) | {names[0]: 1, names[1]: 2}


def test_images_are_checked_by_the_first_of_several_processes_alone(folder, monkeypatch):
    """As in training: thousands of files are looked for once, and what is wrong is said once."""
    from dfine_lib.distributed import Ranks

    checked = []
    monkeypatch.setattr(saved.LargeFolder, "check", lambda self, index, every: checked.append(index))
    for rank in (0, 1):
        ranks = Ranks(rank, 2)
        monkeypatch.setattr(type(ranks), "on_rank_zero", lambda self, work: work() if self.rank == 0 else None)
        monkeypatch.setattr(saved, "current_ranks", lambda ranks=ranks: ranks)
        open_saved(PICO, folder, settings=SIZE, device="cpu")
    assert len(checked) == 1
