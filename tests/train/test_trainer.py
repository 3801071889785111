"""The loop: resume is exact, results are files, bad starts cost nothing, good work survives."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from small_runs import SMALL, Score, score_by_weights, write_folder

from dfine_lib import files
from dfine_lib.data.coco import find_split, read_coco
from dfine_lib.data.images import DataError
from dfine_lib.model.dfine import DFINE
from dfine_lib.model.weights import WeightsError, read_weights
from dfine_lib.recipes import changed, get_recipe
from dfine_lib.train import step as step_module
from dfine_lib.train import trainer
from dfine_lib.train.checkpoint import CheckpointError, load_state
from dfine_lib.train.run_folder import read_rows
from dfine_lib.train.run_plan import fitted_to_data
from dfine_lib.train.step import NonFiniteLoss
from dfine_tools.forms import FORMS
from dfine_tools.forms.compilation import compile_model
from dfine_tools.runs import folder_lock
from dfine_tools.runs.folder_lock import FolderLock
from dfine_tools.runs.recorder import RunRecorder
from dfine_tools.runs.settings import recipe_from_dict


def train(recipe, data, out, score=score_by_weights, **options):
    """A training in which `score` stands in for the evaluation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "evaluate_model", score)
        return trainer.train(recipe, data, out, device="cpu", **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One uninterrupted run that several tests look at."""
    torch.set_num_threads(1)
    data = write_folder(tmp_path_factory.mktemp("set"))
    out = tmp_path_factory.mktemp("runs") / "whole"
    recipe = changed(get_recipe("pico"), SMALL)
    return recipe, data, out, train(recipe, data, out)


def same_state(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_state(a[k], b[k]) for k in a if k != "seconds")
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same_state, a, b))
    return a == b


def test_a_run_folder_holds_what_another_person_needs(finished):
    recipe, data, out, result = finished
    assert {"run.json", "metrics.jsonl", "metrics.json", "model.safetensors", "last.pt"} <= set(os.listdir(out))
    about = json.loads((out / "run.json").read_text())
    assert about["seed"] == 0 and about["device"] == "cpu" and about["classes"] == ["dot", "bar"]
    assert recipe_from_dict(about["recipe"]).model.num_classes == 2
    assert about["versions"]["torch"] == torch.__version__
    assert result["steps"] == 6 and set(result["last"]) == {"ema", "raw"}


def test_metrics_have_a_line_for_training_and_for_every_evaluation(finished):
    rows = read_rows(finished[2] / "metrics.jsonl")
    assert [row["epoch"] for row in rows if row["kind"] == "eval"] == [0, 1, 2]
    train_rows = [row for row in rows if row["kind"] == "train"]
    assert all(row["loss"] == pytest.approx(sum(row["losses"].values())) for row in train_rows)
    assert all(0 <= row["data_wait_share"] <= 1 and row["images_per_second"] > 0 for row in train_rows)


def test_saved_weights_open_as_the_model_that_was_trained(finished):
    stored = read_weights(finished[2] / "model.safetensors")
    assert stored.category_names == ("dot", "bar") and stored.category_ids == (7, 8)
    assert stored.data.image_size == 64
    DFINE(stored.model).load_state_dict(stored.state_dict)


def test_a_finished_run_is_not_trained_again(finished, monkeypatch):
    recipe, data, out, result = finished
    monkeypatch.setattr(trainer.TrainStep, "__call__", lambda *_: pytest.fail("trained again"))
    assert train(recipe, data, out)["ap"] == result["ap"]


def test_the_same_seed_gives_the_same_run_and_another_seed_another(finished, tmp_path):
    recipe, data, out, _ = finished
    train(recipe, data, tmp_path / "again")
    assert same_state(load_state(out / "last.pt"), load_state(tmp_path / "again" / "last.pt"))
    train(recipe, data, tmp_path / "other", seed=1)
    assert not same_state(load_state(out / "last.pt"), load_state(tmp_path / "other" / "last.pt"))


class Killed(BaseException):
    """Stands for a kill: nothing of the library catches it."""


@pytest.mark.parametrize("step", [0, 1, 3, 5])
def test_a_run_stopped_within_an_epoch_goes_on_to_the_same_bits(finished, tmp_path, monkeypatch, step):
    recipe, data, out, _ = finished
    whole, taken = trainer.TrainStep.__call__, []

    def stop_there(self, batches):
        if len(taken) == step:
            raise Killed
        taken.append(1)
        return whole(self, batches)

    monkeypatch.setattr(trainer.TrainStep, "__call__", stop_there)
    with pytest.raises(Killed):
        train(recipe, data, tmp_path / "run")
    monkeypatch.setattr(trainer.TrainStep, "__call__", whole)
    train(recipe, data, tmp_path / "run")
    assert same_state(load_state(out / "last.pt"), load_state(tmp_path / "run" / "last.pt"))
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (out, tmp_path / "run"))
    assert same_state(ours, theirs)
    rows = [read_rows(folder / "metrics.jsonl") for folder in (out, tmp_path / "run")]
    steps = [[row["step"] for row in of_one if row["kind"] != "session"] for of_one in rows]
    assert steps[0] == steps[1]
    assert [row["kind"] for row in rows[1]].count("session") == 2  # who looks can tell that it was stopped


def test_a_state_saved_within_an_epoch_continues_at_the_next_step(finished, tmp_path, monkeypatch):
    recipe, data, out, _ = finished
    monkeypatch.setattr(trainer, "STATE_EVERY", 0.0)
    whole, taken = trainer.TrainStep.__call__, []

    def stop_there(self, batches):
        if len(taken) == 3:
            raise Killed
        taken.append(1)
        return whole(self, batches)

    monkeypatch.setattr(trainer.TrainStep, "__call__", stop_there)
    with pytest.raises(Killed):
        train(recipe, data, tmp_path / "run")
    assert load_state(tmp_path / "run" / "last.pt")["progress"]["step_in_epoch"] == 1
    monkeypatch.setattr(trainer.TrainStep, "__call__", whole)
    train(recipe, data, tmp_path / "run")
    assert same_state(load_state(out / "last.pt"), load_state(tmp_path / "run" / "last.pt"))


def test_an_evaluation_that_was_cut_off_stands_in_the_rows_once(finished, tmp_path, monkeypatch):
    recipe, data, _, _ = finished
    whole = trainer.after_evaluation

    def stop(*_):
        raise Killed

    monkeypatch.setattr(trainer, "after_evaluation", stop)
    with pytest.raises(Killed):
        train(recipe, data, tmp_path / "run")
    assert [row["epoch"] for row in read_rows(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "eval"] == [0]
    monkeypatch.setattr(trainer, "after_evaluation", whole)
    train(recipe, data, tmp_path / "run")
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["epoch"] for row in rows if row["kind"] == "eval"] == [0, 1, 2]


def test_a_run_stopped_in_stage_two_goes_on_to_the_same_bits(small_recipe, data_folder, tmp_path, monkeypatch):
    recipe = changed(
        small_recipe, {"train.stop_epoch": 1, "train.adapt_to_length": False, "train.ema_restart_decay": 0.99}
    )
    train(recipe, data_folder, tmp_path / "whole")
    whole, taken = trainer.TrainStep.__call__, []

    def stop_there(self, batches):
        if len(taken) == 5:
            raise Killed
        taken.append(1)
        return whole(self, batches)

    monkeypatch.setattr(trainer.TrainStep, "__call__", stop_there)
    with pytest.raises(Killed):
        train(recipe, data_folder, tmp_path / "run")
    monkeypatch.setattr(trainer.TrainStep, "__call__", whole)
    train(recipe, data_folder, tmp_path / "run")
    ours, theirs = (load_state(tmp_path / name / "last.pt") for name in ("whole", "run"))
    assert same_state(ours, theirs)


def test_a_run_that_an_earlier_version_wrote_is_resumed_to_the_same_bits(finished, tmp_path, monkeypatch):
    """Its state counts no overflows, its recipe lacks later fields, its lock holds a process id (commit 7cd89aa)."""
    recipe, data, out, _ = finished
    run, whole, taken = tmp_path / "run", trainer.TrainStep.__call__, []

    def stop_there(self, batches):
        taken.append(1)
        if len(taken) > 3:
            raise Killed
        return whole(self, batches)

    monkeypatch.setattr(trainer.TrainStep, "__call__", stop_there)
    with pytest.raises(Killed):
        train(recipe, data, run)
    monkeypatch.setattr(trainer.TrainStep, "__call__", whole)
    state = load_state(run / "last.pt")
    assert state["progress"].keys() == {
        "epoch", "step_in_epoch", "best_ap", "best_stage1_ap", "best_epoch", "skipped", "overflowed", "ema_decay",
        "seconds",
    }  # fmt: skip
    del state["progress"]["overflowed"]
    torch.save(state, run / "last.pt")
    about = json.loads((run / "run.json").read_text())
    del about["forms"], about["recipe"]["data"]["repeat_threshold"], about["recipe"]["data"]["fit_batch_size"]
    (run / "run.json").write_text(json.dumps(about))
    (run / ".lock").write_text("12345")
    train(recipe, data, run)
    assert same_state(load_state(out / "last.pt"), load_state(run / "last.pt"))


def test_kill_9_in_an_epoch_and_the_same_command_give_the_uninterrupted_run(finished, tmp_path):
    recipe, data, out = *finished[:2], tmp_path / "whole"
    train(recipe, data, out, forms=FORMS)  # as the command does
    settings = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "dfine_tools.cli", "train", "--recipe", "pico", "--data", str(data)]
    command += ["--out", str(tmp_path / "run"), "--device", "cpu", *settings]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    learned = ("model", "ema", "optimizer", "ema_updates", "step")
    ours, theirs = load_state(out / "last.pt"), load_state(tmp_path / "run" / "last.pt")
    assert all(same_state(ours[key], theirs[key]) for key in learned)


def test_a_folder_with_a_run_of_other_settings_is_left_alone(finished, tmp_path):
    recipe, data, out, _ = finished
    with pytest.raises(CheckpointError, match=r"train\.lr"):
        train(changed(recipe, {"train.lr": 0.5}), data, out)
    with pytest.raises(CheckpointError, match="seed 0 then, 3 now"):
        train(recipe, data, out, seed=3)
    with pytest.raises(ValueError, match="already holds a run"):
        train(recipe, data, out, resume=False)


def test_a_damaged_state_is_named(finished, tmp_path):
    recipe, data, out, _ = finished
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("run.json", "metrics.jsonl"):
        (copy / name).write_bytes((out / name).read_bytes())
    (copy / "last.pt").write_bytes((out / "last.pt").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"last\.pt"):
        train(recipe, data, copy)


def test_a_full_disk_leaves_the_last_good_state(finished, tmp_path, monkeypatch):
    recipe, data, _, _ = finished
    written = files.os.replace

    def full(source, target):
        if str(target).endswith("last.pt") and os.path.exists(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(source, target)

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        train(recipe, data, tmp_path / "run")
    monkeypatch.undo()
    assert load_state(tmp_path / "run" / "last.pt")["step"] == 0  # as it was written before the first step
    assert not [name for name in os.listdir(tmp_path / "run") if name.endswith(".part")]


def test_two_processes_do_not_train_into_one_folder(small_recipe, data_folder, tmp_path, monkeypatch):
    out = tmp_path / "run"
    out.mkdir()
    hold = "import sys, time; from pathlib import Path; from dfine_tools.runs.folder_lock import FolderLock"
    hold += "; lock = FolderLock(Path(sys.argv[1])); lock.acquire()"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{hold}; print('held', flush=True); time.sleep(600)", str(out)],
        stdout=subprocess.PIPE,
    )
    try:
        monkeypatch.setattr(folder_lock, "LOCK_WAIT", 0.5)
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match=f"process {process.pid} is training into this folder"):
            train(small_recipe, data_folder, out, callback=RunRecorder())
    finally:
        process.kill()
        process.wait()
    monkeypatch.undo()
    FolderLock(out).acquire()  # the lock went with its process


def test_a_finished_run_without_its_state_is_still_finished(finished, tmp_path, monkeypatch):
    recipe, data, out, result = finished
    for name in ("run.json", "metrics.json", "model.safetensors"):
        (tmp_path / name).write_bytes((out / name).read_bytes())
    monkeypatch.setattr(trainer.TrainStep, "__call__", lambda *_: pytest.fail("trained again"))
    assert train(recipe, data, tmp_path)["ap"] == result["ap"]


def test_weights_without_their_run_are_not_written_over(finished, tmp_path):
    recipe, data, out, _ = finished
    (tmp_path / "model.safetensors").write_bytes((out / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="holds weights but no run to resume"):
        train(recipe, data, tmp_path)


def test_a_state_of_another_model_is_named(finished, tmp_path):
    recipe, data, out, _ = finished
    (tmp_path / "run.json").write_bytes((out / "run.json").read_bytes())
    torch.save({"model": {}, "step": 0}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match=r"last\.pt: not a state of this run"):
        train(recipe, data, tmp_path)


def test_a_run_goes_on_after_its_data_has_moved(finished, tmp_path, monkeypatch):
    recipe, data, out, _ = finished
    shutil.copytree(data, tmp_path / "elsewhere")
    shutil.copytree(out, tmp_path / "run")
    monkeypatch.setattr(trainer.TrainStep, "__call__", lambda *_: pytest.fail("trained again"))
    train(recipe, tmp_path / "elsewhere", tmp_path / "run")


def test_a_batch_of_the_recipe_s_own_is_lowered_for_a_small_set_and_a_chosen_one_is_not(data_folder):
    index = read_coco(*find_split(data_folder, "train"))  # 8 images
    recipe = changed(get_recipe("n_custom"), {"data.image_size": 64})
    assert fitted_to_data(recipe, index).data.batch_size == 8
    for chosen in (100, 128):  # 128 is the recipe's own
        assert fitted_to_data(changed(recipe, {"data.batch_size": chosen}), index).data.batch_size == chosen
    assert fitted_to_data(changed(recipe, {"train.faithful": True}), index).data.batch_size == 128


def test_an_unwritable_folder_is_refused_before_training(small_recipe, data_folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot be written"):
        train(small_recipe, data_folder, tmp_path / "file" / "run")


def test_a_category_id_with_two_names_is_refused_before_training(small_recipe, tmp_path):
    data = write_folder(tmp_path / "set")
    val = data / "annotations" / "instances_val.json"
    val.write_text(val.read_text().replace('"bar"', '"rod"'))
    with pytest.raises(DataError, match="'rod', but 'bar'"):
        train(small_recipe, data, tmp_path / "run")


def test_steps_that_are_not_finite_are_skipped_named_and_end_the_run_when_they_go_on(
    small_recipe, data_folder, tmp_path, monkeypatch
):
    recipe = changed(small_recipe, {"train.max_skipped_steps": 3})
    real = trainer.Criterion

    def poisoned(config):
        criterion = real(config)
        return lambda outputs, *given: criterion(outputs, *given) | {"loss_fgl": outputs.pred_boxes.sum() * torch.nan}

    monkeypatch.setattr(trainer, "Criterion", poisoned)
    with pytest.raises(NonFiniteLoss, match="loss_fgl"):
        train(recipe, data_folder, tmp_path / "run")
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    skipped = [row for row in rows if row["kind"] == "skipped"]
    assert len(skipped) == 3 and skipped[0]["terms"] == ["loss_fgl"] and skipped[0]["image_ids"]


def test_one_poisoned_step_changes_neither_weights_nor_statistics(small_recipe, data_folder, tmp_path, monkeypatch):
    whole, seen = trainer.TrainStep.__call__, []

    def poison_second(self, batches):
        if len(seen) == 1:
            batches = [replace(batch, images=batch.images * torch.nan) for batch in batches]
        before = {k: v.clone() for k, v in self.model.state_dict().items() if v.is_floating_point()}
        result = whole(self, batches)
        seen.append((before, {k: v.clone() for k, v in self.model.state_dict().items()}, result.non_finite))
        return result

    monkeypatch.setattr(trainer.TrainStep, "__call__", poison_second)
    train(small_recipe, data_folder, tmp_path / "run")
    before, after, broken = seen[1]
    assert broken and all(torch.isfinite(v).all() for v in after.values())
    assert all(torch.equal(after[k], v) for k, v in before.items() if "running" not in k)
    assert not seen[2][2]


def test_fine_tuning_takes_the_rows_of_classes_that_both_know(finished, tmp_path):
    recipe, _, out, _ = finished
    other = write_folder(tmp_path / "set", names=("bar", "ring", "dot"))
    started = {}
    monkey = pytest.MonkeyPatch()
    monkey.setattr(trainer.TrainStep, "__call__", lambda self, _: started.update(self.model.state_dict()) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(recipe, other, tmp_path / "run", weights=out / "model.safetensors")
    monkey.undo()
    stored = load_file(out / "model.safetensors")["decoder.enc_score_head.weight"]
    rows = started["decoder.enc_score_head.weight"]
    assert torch.equal(rows[0], stored[1]) and torch.equal(rows[2], stored[0])
    assert not torch.equal(rows[1], stored[0]) and not torch.equal(rows[1], stored[1])


def test_weights_of_another_size_are_refused_with_the_entries_that_differ(finished, tmp_path):
    recipe, data, out, _ = finished
    with pytest.raises(WeightsError, match="another model"):
        train(changed(recipe, {"model.hidden_dim": 64}), data, tmp_path / "run", weights=out / "model.safetensors")


def test_stage_two_starts_from_the_best_of_stage_one_and_goes_back_when_it_does_not_help(
    small_recipe, data_folder, tmp_path, monkeypatch
):
    recipe = changed(
        small_recipe,
        {"train.epochs": 4, "train.stop_epoch": 2, "train.adapt_to_length": False, "train.ema_restart_decay": 0.99},
    )
    scores = iter([0.5, 0.5, 0.4, 0.4, 0.45, 0.45, 0.45, 0.45])  # ema and raw of four epochs
    restored, restore = [], trainer.TrainStep.load_state_dict
    monkeypatch.setattr(
        trainer.TrainStep,
        "load_state_dict",
        lambda self, state: restored.append(state["ema_updates"]) or restore(self, state),
    )
    result = train(recipe, data_folder, tmp_path / "run", score=lambda *_, **__: Score(next(scores)))
    assert restored == [2, 2, 2]  # at the start of stage 2, then after each epoch of it: always the state of epoch 1
    assert result["best_epoch"] == 0
    state = load_state(tmp_path / "run" / "last.pt")
    assert state["ema_decay_in_use"] == pytest.approx(0.99 - 0.0002)


@pytest.mark.parametrize(("aps", "best"), [([0.2, 0.0, 0.1], 0), ([0.0, 0.0, 0.0], 2), ([0.0, 0.3, 0.3], 1)])
def test_the_weights_kept_are_the_best_and_the_latest_while_nothing_is_found(
    small_recipe, data_folder, tmp_path, aps, best
):
    scores = iter([ap for ap in aps for _ in ("ema", "raw")])
    result = train(small_recipe, data_folder, tmp_path / "run", score=lambda *_, **__: Score(next(scores)))
    assert (result["best_epoch"], result["ap"]) == (best, aps[best])


def test_the_faithful_restart_leaves_the_decay_in_use_alone(small_recipe, data_folder, tmp_path):
    recipe = changed(
        small_recipe,
        {"train.epochs": 2, "train.stop_epoch": 1, "train.faithful": True, "train.ema_restart_decay": 0.5},
    )
    train(recipe, data_folder, tmp_path / "run")
    assert load_state(tmp_path / "run" / "last.pt")["ema_decay_in_use"] == recipe.train.ema_decay


def test_workers_change_nothing(finished, tmp_path):
    recipe, data, out, _ = finished
    train(changed(recipe, {"data.num_workers": 2}), data, tmp_path / "run")
    ours, theirs = (load_state(f / "last.pt")["model"] for f in (out, tmp_path / "run"))
    assert same_state(ours, theirs)


def test_accumulated_passes_take_one_step(small_recipe, data_folder, tmp_path):
    result = train(changed(small_recipe, {"train.accumulate": 2, "train.epochs": 1}), data_folder, tmp_path / "run")
    state = load_state(tmp_path / "run" / "last.pt")
    assert result["steps"] == 2 and state["ema_updates"] == 2


# ---- speed and memory ------------------------------------------------------------------------------------------------


def test_speed_memory_and_what_was_in_force_are_written(finished):
    _, _, out, result = finished
    rows = read_rows(out / "metrics.jsonl")
    measured = [row for row in rows if row["kind"] in ("train", "eval")]
    assert len(measured) == 6 and all(row["images_per_second"] > 0 and row["memory_mb"] > 50 for row in measured)
    assert result["images_per_second"] in [row["images_per_second"] for row in rows if row["kind"] == "train"]
    assert result["memory_mb"] == max(row["memory_mb"] for row in measured)
    numerics = json.loads((out / "run.json").read_text())["numerics"]
    assert numerics.keys() == {"precision", "matmul_precision", "cudnn_tf32", "cudnn_benchmark"}
    assert numerics["precision"] == "fp32" and result["compiled"] is False


def test_a_run_that_cannot_compile_says_so_once_and_ends_as_one_that_did_not_try(
    finished, tmp_path, monkeypatch, caplog
):
    recipe, data, out, result = finished

    def broken(graph, inputs):
        raise OSError("no C++ compiler")

    found = train(recipe, data, tmp_path / "run", forms=[lambda model, *_: compile_model(model, backend=broken)])
    assert [r.message for r in caplog.records if "torch.compile failed (no C++ compiler)" in r.message]
    assert len([r for r in caplog.records if "torch.compile" in r.message and r.name.startswith("dfine_")]) == 1
    assert found["compiled"] is False and found["last"] == result["last"]


def test_a_run_that_ran_out_of_memory_may_go_on_with_checkpointed_activations(finished, tmp_path, monkeypatch):
    recipe, data, out, _ = finished
    whole, taken = trainer.TrainStep.__call__, []

    def stop_there(self, batches):
        if len(taken) == 3:
            raise Killed
        taken.append(1)
        return whole(self, batches)

    monkeypatch.setattr(trainer.TrainStep, "__call__", stop_there)
    with pytest.raises(Killed):
        train(recipe, data, tmp_path / "run")
    monkeypatch.setattr(trainer.TrainStep, "__call__", whole)
    train(changed(recipe, {"train.checkpoint_activations": True}), data, tmp_path / "run", forms=FORMS)
    sessions = json.loads((tmp_path / "run" / "metrics.json").read_text())["sessions"]
    assert sessions[1]["forms"] == ["train_fast_on_cpu", "checkpoint_activations"]
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (out, tmp_path / "run"))
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key].float(), value.float(), rtol=1e-3, atol=1e-4)


def test_bf16_where_there_is_none_trains_in_what_is_used_instead(finished, tmp_path, monkeypatch):
    recipe, data, _, result = finished
    monkeypatch.setattr("dfine_lib.device.has_bf16", lambda _: False)
    found = train(changed(recipe, {"train.precision": "bf16"}), data, tmp_path / "run")
    assert found["numerics"]["precision"] == "fp32" and found["last"] == result["last"]
    assert found["recipe"]["train"]["precision"] == "bf16"


def test_an_open_precision_is_that_of_the_run_that_resumes(finished, tmp_path, caplog):
    recipe, data, out, result = finished
    assert recipe.train.precision is None and result["recipe"]["train"]["precision"] == "fp32"
    assert trainer.RunFolder(out, writes=False).precision() == "fp32"
    copy = tmp_path / "run"
    shutil.copytree(out, copy)
    assert train(changed(recipe, {"train.precision": "fp32"}), data, copy) == result
    about = json.loads((copy / "run.json").read_text())
    about["recipe"]["train"]["precision"] = "bf16"
    (copy / "run.json").write_text(json.dumps(about))
    assert train(recipe, data, copy) == result
    with pytest.raises(CheckpointError, match=r"recipe\.train\.precision 'bf16' then, 'fp32' now"):
        train(changed(recipe, {"train.precision": "fp32"}), data, copy)


def test_fine_tuning_takes_the_rows_that_are_named_and_is_another_run_with_others(finished, tmp_path):
    recipe, _, out, _ = finished
    other = write_folder(tmp_path / "other", names=("pole", "dot"))
    how = dict(weights=out / "model.safetensors")
    short = changed(recipe, {"train.epochs": 1})
    result = train(short, other, tmp_path / "run", class_rows={"pole": "bar"}, **how)
    assert result["class_rows"] == {"rows": {"pole": "bar", "dot": "dot"}}
    with pytest.raises(CheckpointError, match="rows"):
        train(short, other, tmp_path / "run", **how)
    with pytest.raises(WeightsError, match="the file has no class 'pillar'"):
        train(short, other, tmp_path / "run2", class_rows={"pole": "pillar"}, **how)
    with pytest.raises(ValueError, match="name the weights too"):
        train(short, other, tmp_path / "run3", class_rows={"pole": "bar"})


def test_a_step_that_has_moved_the_weights_is_not_taken_again_for_a_compiler(
    small_recipe, data_folder, tmp_path, monkeypatch
):
    """Whatever fails after the update has nothing to do with compiling, and a second update would be a wrong one."""
    updates = []
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_, **__: updates.append(1))

    def fails(self, model):
        raise RuntimeError("after the update")

    monkeypatch.setattr(trainer.ModelEMA, "update", fails)
    eager = lambda model, *_: compile_model(model, backend="eager")  # noqa: E731
    with pytest.raises(RuntimeError, match="after the update"):
        train(small_recipe, data_folder, tmp_path / "run", forms=[eager])
    assert updates == [1]


def test_steps_that_overflow_in_fp16_are_skipped_and_counted_apart(small_recipe, data_folder, tmp_path, monkeypatch):
    """They are no fault: the loss scale finds its height. But a run that skips many learns from fewer steps."""
    monkeypatch.setattr(step_module, "FIRST_SCALE", 2.0**40)
    recipe = changed(small_recipe, {"train.precision": "fp16"})
    result = train(recipe, data_folder, tmp_path / "run")
    assert result["skipped_steps"] == 0 and 0 < result["overflowed_steps"] <= result["steps"]
    rows = [row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "train"]
    counts = [row["overflowed_steps"] for row in rows]
    assert counts == sorted(counts) and counts[-1] == result["overflowed_steps"]
