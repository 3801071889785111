"""`dfine eval` in several processes: every image once, and the numbers of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_tools.shapes import make_shapes
from dfine_tools import cli

ROOT = Path(__file__).parents[3]
WEIGHTS = ROOT / "notebooks" / "assets" / "dfine_pico_shapes.safetensors"
IMAGES = 7  # over two processes: four and three


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("set") / "shapes"
    make_shapes(folder, train=1, val=IMAGES, size=160, progress=False)
    return folder


def words(folder: Path, out: Path, *more: object) -> list[str]:
    # Four images a forward pass in all: one process sees 4 and 3, two processes 2, 2 and 2, 1.
    command = ["eval", "--weights", WEIGHTS, "--data", folder, "--out", out, "--device", "cpu", "--batch-size", 4]
    return [str(word) for word in [*command, "--workers", 0, *more]]


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("alone") / "numbers.json"
    assert cli.main(words(folder, out)) == 0
    return json.loads(out.read_text())


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )  # fmt: skip


@pytest.mark.parametrize("starter", ["nproc", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_two_processes_give_the_numbers_of_one_and_tell_them_once(alone, folder, tmp_path, starter):
    out = tmp_path / "numbers.json"
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command = ["dfine_tools.cli", *words(folder, out, *(("--nproc", 2) if starter == "nproc" else ()))]
    done = run(*(torchrun if starter == "torchrun" else []), *command)
    assert done.returncode == 0, done.stderr[-3000:]
    numbers = json.loads(out.read_text())
    assert len(numbers) == 13 and alone["ap"] > 0.5  # a model that finds something: the twelve, and those by class
    assert numbers == alone
    assert [line.split()[0] for line in done.stdout.splitlines()].count("ap50") == 1


@pytest.mark.slow
def test_a_fault_is_told_once_without_a_traceback(folder, tmp_path):
    done = run("dfine_tools.cli", *words(tmp_path, tmp_path / "numbers.json", "--nproc", 2))
    assert done.returncode == 2
    assert done.stderr.count("no val split") == 1 and "Traceback" not in done.stderr, done.stderr


def test_more_processes_than_gpus_and_none_at_all_are_refused(folder, tmp_path, capsys):
    command = words(folder, tmp_path / "numbers.json", "--nproc")
    command[command.index("cpu")] = "cuda"
    assert cli.main([*command, "64"]) == 2
    assert "64 processes need a GPU each" in capsys.readouterr().err
    assert cli.main(words(folder, tmp_path / "numbers.json", "--nproc", 0)) == 2
    assert "at least 1 process" in capsys.readouterr().err
