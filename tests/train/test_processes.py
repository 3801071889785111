"""`dfine train` in two processes: one folder, one message; a lost process or an interrupt leaves a run to go on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import torch
from small_runs import SMALL, write_folder

from dfine_lib.device import pick_device
from dfine_lib.distributed import Ranks
from dfine_lib.recipes import changed, get_recipe
from dfine_lib.train.checkpoint import load_state
from dfine_lib.train.run_folder import RunFolder, read_rows
from dfine_tools import cli
from dfine_tools.runs.folder_lock import FolderLock
from dfine_tools.runs.launch import launch_training, training_command
from dfine_tools.runs.processes import ProcessesFailed, check_gpus, run_in_processes

ROOT = Path(__file__).parents[2]
EPOCHS = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("set"), images=9)


def command_of(data: Path, out: Path, *more: str, nproc: int = 2, **settings: object) -> list[str]:
    settings = SMALL | {"train.epochs": EPOCHS} | settings
    return [*training_command("pico", data, out, device="cpu", nproc=nproc, settings=settings), *more]


ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "notebooks"), os.environ.get("PYTHONPATH", "")]),
}  # fmt: skip


def start(command: list[str], log: Path) -> subprocess.Popen:
    with open(log, "ab") as words:
        return subprocess.Popen(
            command, stdout=words, stderr=subprocess.STDOUT, env=ENVIRONMENT, start_new_session=True
        )


def after_an_epoch(out: Path, process: subprocess.Popen) -> None:
    """Wait until an epoch is on disk."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if any(row["kind"] == "eval" for row in read_rows(out / "metrics.jsonl")):
            return
        time.sleep(0.05)
    pytest.fail("no epoch was trained")


def descendants(process: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def rank_of(process: psutil.Process) -> str:
    return process.environ().get("RANK", "")


def gone(processes: list[psutil.Process], seconds: float = 20.0) -> bool:
    return not psutil.wait_procs(processes, timeout=seconds)[1]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """A run of two processes that nothing disturbed, as a notebook starts it."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        launch_training(command_of(data, out), out, show_progress=False, poll_seconds=0.1)
    return out


def test_one_of_two_processes_writes_one_run(whole):
    rows = read_rows(whole / "metrics.jsonl")
    assert Counter(row["kind"] for row in rows) == {"session": 1, "train": EPOCHS, "eval": EPOCHS}
    assert rows[0]["processes"] == 2
    assert {"run.json", "metrics.json", "samples.json", "last.pt", "model.safetensors"} <= set(os.listdir(whole))
    assert len(list((whole / "tensorboard").iterdir())) == 1 and not list(whole.glob(".*.part"))
    state = load_state(whole / "last.pt")
    assert state["step"] == EPOCHS * 2 == state["ema_updates"]  # 9 images, 4 a step over both
    words = (whole / "train.log").read_text()
    assert words.count("AP 0.") and words.count("last epoch:") == 1  # the result is printed once
    assert "Warning" not in words


def test_a_run_of_two_processes_goes_on_in_one(whole, data, tmp_path, monkeypatch):
    from dfine_lib.train import trainer

    out = tmp_path / "run"
    out.mkdir()
    for name in ("run.json", "metrics.jsonl", "last.pt", "model.safetensors"):
        (out / name).write_bytes((whole / name).read_bytes())
    recipe = changed(get_recipe("pico"), SMALL | {"train.epochs": EPOCHS})
    monkeypatch.setattr(trainer.TrainStep, "__call__", lambda *_: pytest.fail("trained again"))
    result = trainer.train(recipe, data, out, device="cpu")
    assert result["steps"] == EPOCHS * 2


def test_a_fault_is_told_once_and_ends_all_processes(data, tmp_path):
    folder = write_folder(tmp_path / "set", images=9)
    (folder / "images" / "val" / "3.png").unlink()
    done = subprocess.run(
        command_of(folder, tmp_path / "run", "--max-restarts", "2"), capture_output=True, text=True, env=ENVIRONMENT,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("3.png") == 1 and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "run" / "last.pt").exists()


@pytest.mark.slow
def test_a_fault_that_one_process_meets_while_training_is_told_once(data, tmp_path):
    folder = write_folder(tmp_path / "set", images=9)
    out = tmp_path / "run"
    command = command_of(folder, out, **{"train.epochs": 200})
    process = start(command, tmp_path / "words")
    after_an_epoch(out, process)
    for picture in (folder / "images" / "train").iterdir():
        picture.write_bytes(b"no picture")
    assert process.wait(120) == 2
    words = (tmp_path / "words").read_text()
    told = [line for line in words.splitlines() if "dfine train:" in line and "loading" not in line]
    assert len(told) == 1 and "Traceback" not in words, words[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize(("starter", "rank"), [("--nproc", "1"), ("torchrun", "0")])
def test_kill_9_of_one_process_and_the_run_goes_on_by_itself_to_the_same_bits(whole, data, tmp_path, starter, rank):
    out = tmp_path / "run"
    command = command_of(data, out, "--max-restarts", "1")
    if starter == "torchrun":
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
        command = [sys.executable, *torchrun, *command_of(data, out, nproc=1)[1:]]
    process = start(command, tmp_path / "words")
    after_an_epoch(out, process)
    victim = next(p for p in descendants(process) if rank_of(p) == rank)
    victim.kill()
    assert process.wait(120) == 0, (tmp_path / "words").read_text()[-2000:]
    rows = read_rows(out / "metrics.jsonl")
    assert Counter(row["kind"] for row in rows) == {"session": 2, "train": EPOCHS, "eval": EPOCHS}
    if starter == "--nproc":
        assert "process 1 was killed (SIGKILL)" in (tmp_path / "words").read_text()
    ours, theirs = load_state(out / "last.pt"), load_state(whole / "last.pt")
    for part in ("model", "ema"):
        assert all(torch.equal(ours[part][name], value) for name, value in theirs[part].items())


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_stopped_leaves_no_process_and_goes_on(data, tmp_path, how):
    out = tmp_path / "run"
    process = start(command_of(data, out, **{"train.epochs": 200, "data.num_workers": 1}), tmp_path / "words")
    after_an_epoch(out, process)
    processes = descendants(process)
    assert {rank_of(p) for p in processes} >= {"0", "1"}
    process.send_signal(how)
    code = process.wait(60)
    assert gone(processes)
    if how != signal.SIGKILL:
        words = (tmp_path / "words").read_text()
        assert code == 130 and "Traceback" not in words and "death signal" not in words
    if how == signal.SIGINT:
        assert words.count("interrupted. The last whole epoch is saved") == 1
    assert load_state(out / "last.pt")["step"] >= 2
    FolderLock(out).acquire()  # nobody holds it


@pytest.mark.slow
def test_an_interrupt_of_the_notebook_leaves_no_process(data, tmp_path, monkeypatch):
    out, seen = tmp_path / "run", []
    real_sleep = time.sleep

    def interrupt_when_running(seconds):
        real_sleep(0.05)
        if threading.current_thread() is not threading.main_thread():
            return  # of an earlier test, which watches its parent
        if not seen and any(row["kind"] == "eval" for row in read_rows(out / "metrics.jsonl")):
            seen.extend(psutil.Process().children(recursive=True))
            raise KeyboardInterrupt

    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(time, "sleep", interrupt_when_running)
    with pytest.raises(KeyboardInterrupt):
        launch_training(command_of(data, out, **{"train.epochs": 200}), out, show_progress=False)
    monkeypatch.undo()
    assert {rank_of(p) for p in seen if p.is_running()} == set() and gone(seen)
    assert load_state(out / "last.pt")["step"] >= 2


# ---- what is refused before anything starts --------------------------------------------------------------------------


def test_choices_of_processes_become_words():
    words = " ".join(training_command("pico", "set", "out", nproc=4, max_restarts=2))
    assert "--nproc 4 --max-restarts 2" in words
    assert "--nproc" not in training_command("pico", "set", "out")


def test_a_wrong_setting_is_told_before_anything_starts(data, tmp_path, monkeypatch, capsys):
    words = ["train", "--recipe", "pico", "--data", str(data), "--out", str(tmp_path / "run")]
    words += ["--device", "cpu", "--nproc", "2"]
    with monkeypatch.context() as patch:
        patch.setattr("dfine_tools.runs.processes.run_in_processes", lambda *_, **__: pytest.fail("started"))
        assert cli.main([*words, "--image-size", "100"]) == 2
    assert "multiple of 32" in capsys.readouterr().err
    assert cli.main([*words[:-1], "0"]) == 2
    assert "at least 1 process" in capsys.readouterr().err


def test_more_processes_than_gpus_are_refused(data, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="2 processes need a GPU each, and this machine has 1"):
        check_gpus(2)
    check_gpus(1)
    assert cli.main(["train", "--recipe", "pico", "--data", str(data), "--device", "cuda", "--nproc", "2"]) == 2
    assert "this machine has 1. Give --nproc 1, or --device cpu." in capsys.readouterr().err
    with pytest.raises(ValueError, match="'cuda:1' is one device"):
        pick_device("cuda:1", Ranks(rank=0, size=2))
    assert pick_device("cpu", Ranks(rank=1, size=2, local_rank=1)).type == "cpu"


def test_a_batch_that_cannot_be_shared_out_is_refused_by_number(data):
    from dfine_lib.data import find_split, read_coco
    from dfine_lib.data.loader import TrainLoader

    recipe = changed(get_recipe("pico"), SMALL | {"data.batch_size": 4})
    with pytest.raises(ValueError, match="batch_size 4 cannot be sharded evenly over 3 ranks"):
        TrainLoader(read_coco(*find_split(data, "train")), recipe, seed=0, world_size=3)


def test_a_program_that_fails_is_started_again_as_often_as_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys\n"
        f"with open({str(tmp_path / 'seen')!r}, 'a') as seen: seen.write(' '.join(sys.argv[1:]) + ';')\n"
        "sys.exit(5 if os.environ['RANK'] == '0' else 0)\n"
    )
    with pytest.raises(ProcessesFailed, match="process 0 ended with exit code 5"):
        run_in_processes("program", ["--x"], 1, max_restarts=1)
    assert (tmp_path / "seen").read_text() == "--x;--x --resume;"


def test_a_port_that_is_taken_is_told_with_the_way_out(data, tmp_path, monkeypatch, capsys):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(taken.getsockname()[1])}
        for name, value in (
            place | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        ).items():
            monkeypatch.setenv(name, value)
        words = ["train", "--recipe", "pico", "--data", str(data), "--out", str(tmp_path / "run"), "--device", "cpu"]
        assert cli.main(words) == 2
    told = capsys.readouterr().err
    assert f"cannot meet at localhost, port {place['MASTER_PORT']}" in told and "--standalone" in told


def test_a_second_rank_writes_nothing(tmp_path):
    folder = RunFolder(tmp_path / "run", writes=False)
    folder.begin({})
    folder.record({"kind": "train", "step": 0})
    folder.save_state(folder.last, {})
    folder.forget_rows_after(0)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("nproc", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_ends_with_the_notebook_that_started_it(data, tmp_path, nproc, how):
    out = tmp_path / "run"
    command = command_of(data, out, nproc=nproc, **{"train.epochs": 200})
    words = f"from dfine_tools.runs.launch import launch_training; launch_training({command!r}, {str(out)!r})"
    notebook = start([sys.executable, "-c", words], tmp_path / "words")
    after_an_epoch(out, notebook)
    processes = descendants(notebook)
    assert processes
    notebook.send_signal(how)
    notebook.wait(60)
    assert gone(processes, seconds=60)
    assert load_state(out / "last.pt")["step"] >= 2
    FolderLock(out).acquire()  # nobody holds it
