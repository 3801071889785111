"""The command as a person meets it: in a process of its own, by what it prints and how it ends."""

from __future__ import annotations

import argparse
import ast
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

import dfine_lib
from dfine_lib import DFINE
from dfine_lib.config import DataConfig
from dfine_lib.data.images import DataError
from dfine_lib.errors import DfineError
from dfine_lib.model.weights import WeightsError, save_weights
from dfine_lib.train.step import NonFiniteLoss
from dfine_tools import cli

ROOT = Path(__file__).parents[3]


def dfine(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """Run `dfine`, importing this checkout."""
    return subprocess.run(
        [sys.executable, "-m", "dfine_tools.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/notebooks", "OMP_NUM_THREADS": "1"},
        timeout=300,
    )


@pytest.fixture
def refused(capsys):
    """`dfine eval` in this process (torch is imported once): its message, after checking that it was told as one."""

    def run(weights: Path, data: Path, *more: str) -> str:
        capsys.readouterr()
        assert cli.main(["eval", "--weights", str(weights), "--data", str(data), *more]) == 2
        return capsys.readouterr().err

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A COCO-style folder: two images, classes cat (7) and dog (3)."""
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "val"):
        (folder / "images" / split).mkdir(parents=True)
        for name in ("a", "b"):
            Image.new("RGB", (64, 48), (90, 120, 30)).save(folder / "images" / split / f"{name}.png")
        content = {
            "images": [{"id": i, "file_name": f"{n}.png", "width": 64, "height": 48} for i, n in ((1, "a"), (2, "b"))],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 7, "bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0},
                {"id": 2, "image_id": 2, "category_id": 3, "bbox": [30, 10, 20, 30], "area": 600, "iscrowd": 0},
            ],
            "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        }
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A fresh pico model that knows cats, dogs and birds."""
    torch.manual_seed(0)
    model = DFINE.from_recipe("pico", num_classes=3)
    path = tmp_path_factory.mktemp("weights") / "three.safetensors"
    names = ("bird", "cat", "dog")
    return save_weights(path, model, data=DataConfig(image_size=64), category_names=names, category_ids=(1, 2, 3))


def leaves(parser: argparse.ArgumentParser, name: str = "dfine") -> dict[str, argparse.ArgumentParser]:
    """Every command under its whole name."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    found = [leaves(one, f"{name} {word}") for group in groups for word, one in group.choices.items()]
    return {word: one for part in found for word, one in part.items()} or {name: parser}


@pytest.mark.parametrize("name", leaves(cli._parser()))
def test_the_help_of_every_command_ends_with_an_example_that_is_one(name):
    parser = leaves(cli._parser())[name]
    example = (parser.epilog or "").partition("xample: ")[2]
    assert example.startswith(name), f"{name} --help has no example"
    assert parser.format_help().splitlines()[-1].endswith(example), "it is not one line"
    words = shlex.split(example.partition(" && ")[0])[1:]
    assert cli._parser().parse_args(words).call is parser.get_default("call")


def test_a_reader_who_has_seen_enough_gets_no_traceback():
    command = f"{sys.executable} -u -m dfine_tools.cli recipes | head -1"
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True, cwd=ROOT, timeout=60,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/notebooks"},
    )  # fmt: skip
    assert done.returncode in (0, 141)
    assert "Traceback" not in done.stderr
    assert len(done.stdout.splitlines()) == 1


# ---- help, recipes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [(), ("train",), ("eval",), ("result",), ("recipes",)])
def test_every_command_explains_itself(command):
    run = dfine(*command, "--help")
    assert run.returncode == 0
    assert "usage: dfine" in run.stdout


@pytest.mark.skipif(os.name == "nt", reason="processor time of a child")
def test_help_takes_less_than_half_a_second_of_processor_time_and_no_torch():
    before = os.times()
    dfine("--help")
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 0.5
    code = "import sys; from dfine_tools import cli; cli.main(['recipes']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0


def test_recipes_lists_every_recipe_and_tells_one_as_a_difference():
    assert (
        len([line for line in dfine("recipes").stdout.splitlines() if line[:2] in ("n_", "s_", "m_", "l_", "x_")]) == 29
    )
    lines = dfine("recipes", "x_coco").stdout.splitlines()
    assert lines[0] == "x_coco, differs from l_coco in:"
    assert {line.split()[0] for line in lines[1:]} == {
        "model.backbone",
        "model.encoder_dim",
        "model.encoder_feedforward",
        "model.reg_scale",
        "data.base_size_repeat",
        "train.backbone_lr",
        "train.ema_restart_decay",
    }


# ---- what the caller can put right: exit code 2, one message, no traceback ------------------------------------------


def assert_told(run: subprocess.CompletedProcess, *words: str) -> None:
    assert run.returncode == 2, run.stderr
    assert "Traceback" not in run.stderr
    for word in words:
        assert word in run.stderr


def test_a_wrong_or_missing_argument():
    assert_told(dfine("trian"), "invalid choice")
    assert_told(dfine("train", "--recipe", "n_coco"), "--data")
    assert_told(dfine(), "usage")


def test_an_unknown_recipe_is_answered_with_the_nearest_names(folder):
    assert_told(dfine("train", "--recipe", "n_costum", "--data", folder), "unknown recipe 'n_costum'", "n_custom")
    assert_told(dfine("recipes", "l_cocoo"), "l_coco")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--epochs", 0), ["epochs must be at least 1, got 0"]),
        (("--epochs", "many"), ["--epochs"]),
        (("--image-size", 100), ["multiple of 32", "100"]),
        (("--image-size", "wide"), ["data.image_size must be int", "'wide'"]),
        (("--batch-size", 0), ["batch_size must be at least 1, got 0"]),
        (("--set", "train.lr"), ["FIELD=VALUE", "'train.lr'"]),
        (("--set", "train.rate=1"), ["no setting 'train.rate'", "train.lr"]),
        (("--set", "train.lr=fast"), ["train.lr must be float", "'fast'"]),
        (("--precision", "fp8"), ["fp8"]),
    ],
)
def test_a_value_that_does_not_fit(folder, arguments, words):
    assert_told(dfine("train", "--recipe", "pico", "--data", folder, *arguments), *words)


def test_eval_of_weights_that_are_not_there_or_of_another_kind(refused, folder, weights, tmp_path):
    assert "no.pth: no such weights file" in refused(tmp_path / "no.pth", folder)
    text, bare = tmp_path / "text.safetensors", tmp_path / "bare.pth"
    text.write_text("not weights")
    assert "text.safetensors: damaged" in refused(text, folder)
    assert "weights of another model" in refused(weights, folder, "--recipe", "n_coco")
    torch.save(DFINE.from_recipe("pico").state_dict(), bare)  # the size is told from the shapes
    for recipe in ((), ("--recipe", "pico")):
        assert "80 class rows without names, for the 2 classes of" in refused(bare, folder, *recipe)
    torch.save(DFINE.from_recipe("pico", hidden_dim=32).state_dict(), bare)
    assert "does not say which model" in refused(bare, folder)


def test_eval_of_a_folder_without_a_val_split(refused, weights, tmp_path):
    assert f"{tmp_path}: no val split" in refused(weights, tmp_path)


def test_a_class_that_the_weights_do_not_know(refused, folder, weights, tmp_path):
    text = (folder / "annotations" / "instances_val.json").read_text().replace('"dog"', '"dodo"')
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val.json").write_text(text)
    (tmp_path / "images").symlink_to(folder / "images")
    message = refused(weights, tmp_path)
    assert "no class 'dodo'" in message
    assert "bird, cat, dog" in message


# ---- what it does ---------------------------------------------------------------------------------------------------


def test_eval_prints_and_writes_the_numbers_by_class(capsys, folder, weights, tmp_path):
    out = tmp_path / "new" / "numbers.json"
    run = dfine("eval", "--weights", weights, "--data", folder, "--out", out, "--workers", 0, "--device", "cpu")
    assert run.returncode == 0, run.stderr
    assert [line.split()[0] for line in run.stdout.splitlines()[:3]] == ["ap", "ap50", "ap75"]
    numbers = json.loads(out.read_text())
    assert set(numbers["per_class"]) == {"cat", "dog"}
    assert 0 <= numbers["ap"] <= 1


@pytest.fixture(scope="module")
def short(folder, tmp_path_factory) -> tuple[list[object], Path]:
    """A command that trains for a few steps, and where it writes."""
    out = tmp_path_factory.mktemp("run") / "out"
    command = ["train", "--recipe", "pico", "--data", folder, "--out", out, "--device", "cpu", "--workers", 0]
    return [*command, "--image-size", 64, "--batch-size", 2], out


def test_train_prints_ap_and_the_same_command_again_only_prints_it(short):
    command, out = short
    first = dfine(*command, "--epochs", 1)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("AP 0.")
    assert str(out / "model.safetensors") in first.stdout
    assert json.loads((out / "run.json").read_text())["recipe"]["train"]["epochs"] == 1
    assert dfine("result", out).stdout == first.stdout
    again = dfine(*command, "--epochs", 1)
    assert again.returncode == 0
    assert again.stdout == first.stdout
    assert_told(dfine(*command, "--epochs", 2), str(out), "epochs")  # not the run that lies there


def test_a_run_that_is_not_finished_has_no_result(tmp_path):
    assert_told(dfine("result", tmp_path), str(tmp_path), "no finished run")


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_while_training_says_how_to_go_on(short):
    command, out = short
    command = [out.with_name("stopped") if word == out else word for word in command]
    process = subprocess.Popen(
        [sys.executable, "-m", "dfine_tools.cli", *map(str, command), "--epochs", "500"],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/notebooks", "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    saved = out.with_name("stopped") / "last.pt"
    deadline = time.monotonic() + 120
    while not saved.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "the same command resumes from it" in told
    assert "Traceback" not in told


# ---- which errors are told, and which are faults --------------------------------------------------------------------


def end_of(monkeypatch, error: BaseException) -> int:
    """How `main` ends when the command raises this."""

    def fails(_):
        raise error

    monkeypatch.setattr(cli.recipes, "_recipes", fails)
    return cli.main(["recipes"])


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file or directory", "a.json"),
        PermissionError(13, "Permission denied", "a.json"),
        OSError(28, "No space left on device", "a.json"),
        OSError(28, "No space left on device", "source.json", None, "a.json"),
    ],
)
def test_trouble_with_files_is_told(monkeypatch, capsys, error):
    assert end_of(monkeypatch, error) == 2
    assert capsys.readouterr().err == f"dfine recipes: a.json: {error.strerror}\n"


def test_an_error_of_the_code_keeps_its_traceback(monkeypatch):
    with pytest.raises(ZeroDivisionError):
        end_of(monkeypatch, ZeroDivisionError())
    with pytest.raises(ValueError, match="from below"):
        end_of(monkeypatch, ValueError("from below"))  # not raised in dfine_lib
    with pytest.raises(OSError, match="Input/output"):
        end_of(monkeypatch, OSError(5, "Input/output error"))


def test_a_remedy_follows_the_message_of_an_error(monkeypatch, capsys):
    assert end_of(monkeypatch, DfineError("side must be positive, got 0")) == 2
    assert capsys.readouterr().err == "dfine recipes: side must be positive, got 0\n"
    error = WeightsError("a b.pth: of no known model", "name_recipe", source=Path("a b.pth"))
    assert end_of(monkeypatch, error) == 2
    assert "a b.pth: of no known model. Name it by --recipe" in (said := capsys.readouterr().err)
    assert "dfine weights 'a b.pth' --to NAMED.safetensors" in said


def test_the_error_classes_of_the_library_have_one_base():
    root = Path(dfine_lib.__path__[0]).parent
    packages = ("dfine_lib", "data_tools", "dfine_tools")
    for path in (file for name in packages for file in sorted(root.joinpath(name).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "ValueError" for base in node.bases):
                assert node.name == "DfineError", f"{path}: {node.name}"
    assert issubclass(DataError, DfineError) and issubclass(WeightsError, DfineError)
    assert issubclass(NonFiniteLoss, DfineError) and issubclass(NonFiniteLoss, ArithmeticError)


def test_ctrl_c_ends_with_130(monkeypatch, capsys):
    assert end_of(monkeypatch, KeyboardInterrupt()) == 130
    assert "interrupted" in capsys.readouterr().err


def test_rows_that_are_no_pair_or_have_no_weights_are_refused(folder, capsys):
    line = ["train", "--recipe", "pico", "--data", str(folder)]
    assert cli.main([*line, "--row", "taxi", "--weights", "a.pth"]) == 2
    assert "--row wants NEW=OLD" in capsys.readouterr().err
    assert cli.main([*line, "--row", "taxi=car"]) == 2
    assert "give --weights too" in capsys.readouterr().err


def test_a_picture_that_is_damaged_in_the_middle_of_a_run_ends_it_and_says_that_the_run_is_kept(
    tmp_path, monkeypatch, capsys
):
    from dfine_lib.data.images import DataError
    from dfine_lib.train import trainer

    def ends(recipe, data, out, **more):
        if out.name == "begun":
            out.mkdir()
            (out / "last.pt").write_bytes(b"state")
        raise DataError(f"{data}/7.jpg: the picture is truncated. Copy it again.")

    monkeypatch.setattr(trainer, "train", ends)
    monkeypatch.setattr(cli.training, "_find_splits", lambda *_: None)
    for name, kept in (("begun", True), ("fresh", False)):
        words = ["train", "--recipe", "pico_custom", "--data", str(tmp_path), "--out", str(tmp_path / name)]
        assert cli.main(words) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"dfine train: {tmp_path}/7.jpg: the picture is truncated. Copy it again.")
        assert (f"The run is kept in {tmp_path / name}; the same command resumes" in told) == kept


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["export", "--weights", "w", "--to", "onnx", "--out", "o.onnx", "--dynamic-sides"], "dynamic_shapes", True),
        (["data", "split", "a", "b", "--pictures", "copy"], "image_files", "copy"),
        (["stats", "a", "--pictures", "4"], "images", 4),
    ],
)
def test_old_names_of_flags_work_and_are_not_shown(words, name, value, capsys):
    assert getattr(cli._parser().parse_args(words), name) == value
    flag = next(word for word in words if word in ("--dynamic-sides", "--pictures"))
    assert cli.main([*words[: 2 if words[0] == "data" else 1], "--help"]) == 0
    assert flag not in capsys.readouterr().out
