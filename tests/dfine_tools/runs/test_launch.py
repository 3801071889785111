"""A training in its own process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dfine_lib.files import write_atomically
from dfine_tools.runs import launch
from dfine_tools.runs.launch import TrainingFailed, _NewRows, launch_training, start_training, training_command


def test_choices_become_the_command_that_a_person_would_type():
    command = training_command("n_custom", "set", "runs/a", epochs=3, settings={"train.lr": 1e-3})
    assert command[1:4] == ["-m", "dfine_tools.cli", "train"]
    assert "--epochs 3" in " ".join(command) and "--set train.lr=0.001" in " ".join(command)
    assert "--image-size" not in command and "--weights" not in command


def test_a_failing_run_tells_its_last_words(tmp_path):
    with pytest.raises(TrainingFailed, match="no such place"):
        launch_training([sys.executable, "-c", "raise SystemExit('no such place')"], tmp_path, show_progress=False)
    assert "no such place" in (tmp_path / "train.log").read_text()


def test_a_watcher_follows_a_file_that_a_resumed_run_wrote_anew_and_no_line_of_it_ends_the_run(tmp_path):
    def line(step: int) -> str:
        return json.dumps({"kind": "train", "step": step, "total": 99}) + "\n"

    file = tmp_path / "metrics.jsonl"
    rows = _NewRows(file)
    rows.read()
    file.write_text("".join(map(line, range(5))) + '{"kind": "tr')
    rows.read()
    assert rows.train["step"] == 4
    # Rows of the interrupted epoch go, and before the next look more has come than there was.
    write_atomically(file, ('{"kind": "session"}\nnull\n' + "".join(map(line, (0, *range(50, 60))))).encode())
    rows.read()
    assert rows.train["step"] == 59
    with open(file, "a") as more:
        more.write('torn"}\n{"kind": "eval", "ema": {"ap": 0.5}}\n{"kind": "eval"}\n')
    rows.read()
    assert rows.best_ap == 0.5


def test_an_interrupt_leaves_no_process(tmp_path, monkeypatch):
    program = (
        "import os, subprocess, sys, time, json\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(tmp_path / 'pids')!r}, 'w').write(json.dumps([os.getpid(), child.pid]))\n"
        "time.sleep(600)\n"
    )
    real_sleep = time.sleep

    def interrupt_when_running(seconds):
        real_sleep(0.05)
        if threading.current_thread() is not threading.main_thread():
            return  # of an earlier test, which watches its parent
        if (tmp_path / "pids").exists() and (tmp_path / "pids").read_text().endswith("]"):
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt_when_running)
    with pytest.raises(KeyboardInterrupt):
        launch_training([sys.executable, "-c", program], tmp_path, show_progress=False)
    monkeypatch.undo()
    deadline = time.monotonic() + 10
    pids = json.loads((tmp_path / "pids").read_text())
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, pids))


def test_a_run_that_ends_at_the_interrupt_is_sent_nothing_more_but_what_outlived_it_is_killed(tmp_path, monkeypatch):
    child = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(1, flush=True); time.sleep(99)"
    program = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True)
    pids = (process.pid, int(process.stdout.readline()))
    sent, killpg = [], os.killpg
    monkeypatch.setattr(launch.os, "killpg", lambda group, number: (sent.append(number), killpg(group, number)))
    launch.stop([process])
    assert sent == [signal.SIGINT, signal.SIGKILL] and process.returncode is not None
    deadline = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, pids))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
    except NotADirectoryError:  # no /proc: ask the kernel
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True


def test_nothing_is_left_running_after_a_normal_end(tmp_path):
    before = set(threading.enumerate())
    launch_training([sys.executable, "-c", "print('done')"], tmp_path, show_progress=False, poll_seconds=0.05)
    assert set(threading.enumerate()) <= before


def test_a_run_can_be_started_without_waiting_and_its_words_are_added_to_the_log(tmp_path):
    for word in ("first", "second"):
        process = start_training(
            [sys.executable, "-c", f"import time; time.sleep(0.2); print({word!r})"], tmp_path / "run"
        )
        assert process.poll() is None
        assert os.getpgid(process.pid) == process.pid  # a group of its own: stopping the notebook leaves it alone
        assert process.wait(20) == 0
    assert (tmp_path / "run" / "train.log").read_text().split() == ["first", "second"]
