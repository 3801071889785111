"""What `make run` would do, without doing it: `make -n` prints the commands."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")


def planned(*arguments: str) -> list[str]:
    """The words of the commands that `make ARGUMENTS` would run."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    run = subprocess.run(
        ["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, env=environment
    )
    return shlex.split(run.stdout.replace("\\\n", " ").replace(";", " "))


def parameters(*arguments: str) -> dict[str, str]:
    """The parameters that the notebook would get."""
    words = planned("run", *arguments)
    words = words[words.index("notebooks/execute.py") :]
    return {words[i + 1]: words[i + 2] for i, word in enumerate(words) if word == "-p"}


def test_by_default_the_teaching_checkpoint_is_fine_tuned_on_digits():
    assert parameters() == {
        "recipe": "pico_digits",
        "data": "data/digits",
        "out": "runs/pico_digits",
        "weights": "notebooks/assets/dfine_pico_shapes.safetensors",
    }
    assert "data_tools.digits" in planned("run")


def test_shapes_start_from_random_weights():
    assert parameters("DATA=shapes", "RECIPE=pico") == {
        "recipe": "pico",
        "data": "data/shapes",
        "out": "runs/pico_shapes",
        "weights": "",
    }
    assert "data_tools.shapes" in planned("run", "DATA=shapes")


def test_a_folder_of_ones_own_with_parameters_in_the_friendly_form():
    assert parameters("DATA=../some where/bccd/", "RECIPE=n_custom", "ARGS=epochs=3 image_size=320 device=cpu") == {
        "recipe": "n_custom",
        "data": "../some where/bccd",
        "out": "runs/n_custom_bccd",
        "epochs": "3",
        "image_size": "320",
        "device": "cpu",
        "weights": "",
    }
    assert not [word for word in planned("run", "DATA=../bccd") if word.startswith("data_tools")]


def test_a_folder_without_a_recipe_fine_tunes_the_teaching_checkpoint():
    assert parameters("DATA=../bccd")["recipe"] == "pico_custom"
    assert parameters("DATA=../bccd")["weights"] == "notebooks/assets/dfine_pico_shapes.safetensors"


def test_a_dotted_name_is_a_field_of_the_recipe():
    got = parameters("DATA=../bccd", "RECIPE=n_custom", "ARGS=train.lr=1e-3 epochs=3 data.num_workers=0")
    assert got["settings"] == "train.lr=1e-3 data.num_workers=0"
    assert got["epochs"] == "3"
    assert "train.lr" not in got


def test_the_output_folder_may_be_named_either_way():
    assert parameters("ARGS=out=/tmp/x epochs=1")["out"] == "/tmp/x"
    assert parameters("OUT=/tmp/x")["out"] == "/tmp/x"


def test_parameters_may_be_typed_behind_make_run_as_they_are():
    got = parameters("data=../bccd", "recipe=n_custom", "nproc=2", "max_restarts=1", "ARGS=epochs=3 train.lr=1e-3")
    assert got == {
        "recipe": "n_custom",
        "data": "../bccd",
        "out": "runs/n_custom_bccd",
        "weights": "",
        "settings": "train.lr=1e-3",
        "epochs": "3",
        "nproc": "2",
        "max_restarts": "1",
    }
    assert parameters("out=/tmp/x", "weights=a.pth")["out"] == "/tmp/x"
    assert parameters("out=/tmp/x", "weights=a.pth")["weights"] == "a.pth"


def test_ci_calls_make_test():
    script = ROOT / ".ci" / "run"
    assert "make test" in script.read_text().splitlines()
    assert os.access(script, os.X_OK)
