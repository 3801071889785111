"""Sweeps: the list is checked before anything runs, one failure stops nobody, what is finished is not run again."""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from scipy import stats

from dfine_tools.runs import sweep
from dfine_tools.runs.sweep import (
    Outcome,
    SweepError,
    Trial,
    condition_rows,
    read_sweep,
    run_sweep,
    student_interval,
)
from tests.small_runs import SMALL, write_folder

ABLATIONS = Path(__file__).parents[3] / "notebooks" / "experiments" / "ablations.yaml"


def listed(folder: Path, text: str) -> Path:
    (folder / "sweep.yaml").write_text(text)
    return folder / "sweep.yaml"


def trial(folder: Path, name: str, program: str, seed: int = 0) -> Trial:
    """A trial that runs this Python program in its folder in place of a training."""
    out = folder / name / f"seed{seed}"
    head = f"import json, os, pathlib, sys, time; out = pathlib.Path({str(out)!r}); "
    return Trial(name, seed, out, (sys.executable, "-c", head + program))


FINISHES = "(out / 'metrics.json').write_text(json.dumps({'last': {'ema': {'ap': 0.5}}}))"


def test_a_list_becomes_a_trial_a_condition_and_seed_all_conditions_of_a_seed_first(tmp_path):
    file = listed(tmp_path, "- {name: full}\n- {name: no_fgl, set: {loss.fgl: 0}, epochs: 2}\n")
    trials = read_sweep(
        file, tmp_path / "out", recipe="pico", data="d", seeds=[3, 1], epochs=5, set={"train.lr": "1e-4"}
    )
    assert [(t.condition, t.seed) for t in trials] == [("full", 3), ("no_fgl", 3), ("full", 1), ("no_fgl", 1)]
    assert trials[3].out == tmp_path / "out" / "no_fgl" / "seed1"
    words = " ".join(trials[3].command)
    assert "--recipe pico --data d" in words and "--seed 1" in words and "--epochs 2" in words
    assert words.endswith("--set train.lr=1e-4 --set loss.fgl=0")
    assert "--epochs 5" in " ".join(trials[2].command)


def test_the_ablations_of_the_notebook_are_settings_that_the_recipe_has(tmp_path):
    trials = read_sweep(ABLATIONS, tmp_path, recipe="pico", data="d")
    assert trials[0].condition == "full" and len(trials) == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a", "should be a list of runs"),
        ("[]", "should be a list of runs"),
        ("- {name: [", "no YAML"),
        ("- {set: {}}", "entry 1: 'name' should be"),
        ("- {name: ../up}", "'name' should be"),
        ("- {name: a}\n- {name: a}", "two entries are named 'a'"),
        ("- {name: a, epoch: 3}", "unknown key 'epoch'"),
        ("- {name: a, set: {loss.fgel: 0}}", r"a: .*loss\.fgel"),
        ("- {name: a, set: 3}", "'set' should be fields"),
        ("- {name: a, seeds: [1, 1]}", "'seeds' should be whole numbers"),
        ("- {name: a, seeds: [x]}", "'seeds' should be whole numbers"),
        ("- {name: a, recipe: nobody}", "nobody"),
    ],
)
def test_a_faulty_list_is_refused_with_file_entry_and_key(tmp_path, text, message):
    with pytest.raises(SweepError, match=message) as error:
        read_sweep(listed(tmp_path, text), tmp_path, **{"recipe": "pico", "data": "d"})
    assert "sweep.yaml" in str(error.value)


def test_without_a_file_or_a_recipe_the_way_out_is_told(tmp_path):
    with pytest.raises(SweepError, match="give a YAML file"):
        read_sweep(tmp_path / "none.yaml", tmp_path)
    with pytest.raises(SweepError, match="no 'data'"):
        read_sweep(listed(tmp_path, "- {name: a}"), tmp_path, recipe="pico")


def test_a_failing_trial_does_not_stop_the_others_and_its_last_words_are_kept(tmp_path):
    trials = [
        trial(tmp_path, "a", "print('loss is not a number'); sys.exit(3)"),
        trial(tmp_path, "b", FINISHES),
        trial(tmp_path, "c", "pass"),  # ends well, but leaves no result
    ]
    outcomes = run_sweep(trials, 2, show_progress=False)
    assert [(o.trial.condition, o.state) for o in outcomes] == [("a", "failed"), ("b", "finished"), ("c", "failed")]
    assert outcomes[0].words == "exit code 3: loss is not a number"
    assert outcomes[2].words == "exit code 0: no output"


def test_what_is_finished_is_not_run_again_and_what_failed_is(tmp_path):
    counts = "log = out.parent.parent / 'log'; log.open('a').write(out.parent.name); "
    trials = [trial(tmp_path, "a", counts + FINISHES), trial(tmp_path, "b", counts + "sys.exit(1)")]
    for _ in range(2):
        run_sweep(trials, show_progress=False)
    assert (tmp_path / "log").read_text() == "abb"


def test_never_more_trials_run_at_once_than_asked_for(tmp_path):
    both = "flag = out.parent.parent / ('on' + out.parent.name); flag.touch(); time.sleep(0.3); "
    both += "n = len(list(out.parent.parent.glob('on*'))); flag.unlink(); sys.exit(n)"
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        trials = [trial(folder, name, both) for name in "abcd"]
        outcomes = run_sweep(trials, processes, show_progress=False)
        most = max(int(o.words.split(":")[0].split()[-1]) for o in outcomes)
        assert most <= processes
    with pytest.raises(SweepError, match="at least 1"):
        run_sweep([], 0)


def test_a_folder_that_holds_a_trial_with_other_settings_is_refused(tmp_path):
    run_sweep([trial(tmp_path, "a", FINISHES)], show_progress=False)
    with pytest.raises(SweepError, match="holds a trial with other settings"):
        run_sweep([trial(tmp_path, "a", FINISHES + "; 1")], show_progress=False)


def test_an_interrupt_ends_the_running_trials_and_starts_no_other(tmp_path, monkeypatch):
    wait = "(out / 'started').touch(); time.sleep(60)"
    trials = [trial(tmp_path, name, wait) for name in "ab"]
    begun = []
    start = sweep.start_training
    monkeypatch.setattr(sweep, "start_training", lambda *args: begun.append(start(*args)) or begun[-1])

    def interrupt():
        while not (trials[0].out / "started").exists():
            time.sleep(0.02)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run_sweep(trials, 1, show_progress=False)
    assert len(begun) == 1 and begun[0].returncode not in (None, 0)
    assert not trials[1].out.joinpath("started").exists()


def test_the_interval_of_three_values_is_worked_out_by_hand():
    mean, low, high = student_interval([1.0, 2.0, 3.0])
    assert mean == 2 and (high - 2) == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert low == pytest.approx(4 - high)
    expected = stats.t.interval(0.9, 3, loc=1.75, scale=stats.sem([1, 1, 2, 3]))
    assert student_interval([1, 1, 2, 3], 0.9)[1:] == pytest.approx(expected)
    assert student_interval([0.5, 0.5]) == (0.5, 0.5, 0.5)
    assert student_interval([0.4])[0] == 0.4 and math.isnan(student_interval([0.4])[1])
    assert all(map(math.isnan, student_interval([])))


def test_conditions_are_held_against_the_first_seed_by_seed(tmp_path):
    def outcome(condition, seed, ap, state="finished"):
        one = trial(tmp_path, condition, "pass", seed)
        one.out.mkdir(parents=True)
        if ap is not None:
            (one.out / "metrics.json").write_text(json.dumps({"last": {"ema": {"ap": ap}}}))
        return Outcome(one, state)

    rows = condition_rows(
        [
            outcome("full", 0, 0.5),
            outcome("full", 1, 0.7),
            outcome("no_fgl", 0, 0.4),
            outcome("no_fgl", 1, 0.6),
            outcome("no_ddf", 1, 0.65),
            outcome("no_ddf", 0, None, "failed"),
        ]
    )
    assert [(r["condition"], r["seeds"], r["failed"]) for r in rows] == [
        ("full", 2, 0),
        ("no_fgl", 2, 0),
        ("no_ddf", 1, 1),
    ]
    assert rows[0]["AP"] == pytest.approx(0.6) and rows[0]["difference"] is None
    assert rows[1]["difference"] == pytest.approx(-0.1)
    assert rows[1]["difference low"] == pytest.approx(-0.1) and rows[1]["low"] < 0 < rows[1]["high"]
    assert rows[2]["difference"] == pytest.approx(-0.05) and rows[2]["difference low"] is None


def test_a_real_training_and_one_that_cannot_start(tmp_path):
    data = write_folder(tmp_path / "data", images=4)
    file = listed(tmp_path, f"- {{name: good, data: {data}}}\n- {{name: bad, data: {tmp_path / 'nothing'}}}\n")
    trials = read_sweep(file, tmp_path / "out", recipe="pico", device="cpu", set=SMALL | {"train.epochs": 1})
    good, bad = run_sweep(trials, 2, show_progress=False)
    assert good.state == "finished", good.words
    assert good.trial.result["recipe"]["train"]["epochs"] == 1
    assert bad.state == "failed" and "exit code 2" in bad.words and "nothing" in bad.words
