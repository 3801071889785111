"""What is told before torch is loaded, and while it is."""

import subprocess
import sys
import types

from dfine_tools.cli import waiting


def test_a_missing_split_and_a_wrong_recipe_are_told_before_torch_is_loaded(tmp_path):
    (tmp_path / "data").mkdir()
    script = "import sys; from dfine_tools.cli import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    for words, said in (
        (["train", "--recipe", "n_custom", "--data", str(tmp_path / "data")], "no train split"),
        (["train", "--recipe", "n_custum", "--data", str(tmp_path / "data")], "did you mean n_custom"),
        (["eval", "--weights", "x.pth", "--data", str(tmp_path / "data")], "no val split"),
    ):
        done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)
        assert done.stdout.strip() == "2 False" and said in done.stderr and "Traceback" not in done.stderr


def test_a_word_is_said_while_torch_is_on_its_way_in_and_only_then(monkeypatch, capsys):
    import torchvision  # noqa: F401

    waiting._tell("train")  # all is loaded
    assert capsys.readouterr().err == ""
    half = types.ModuleType("torch")
    half.__spec__ = types.SimpleNamespace(_initializing=True)
    monkeypatch.setitem(sys.modules, "torch", half)
    waiting._tell("train")
    assert capsys.readouterr().err == "dfine train: loading PyTorch …\n"
    monkeypatch.setenv("RANK", "1")  # one of several processes speaks
    waiting._tell("train")
    monkeypatch.delenv("RANK")
    monkeypatch.delitem(sys.modules, "torch")  # a command that does without
    waiting._tell("doctor")
    assert capsys.readouterr().err == ""
