"""What a device can do: bf16 where there is none is told and replaced; backends are set in one place."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from dfine_lib import DFINE
from dfine_lib import device as devices
from dfine_lib.config import DataConfig, TrainConfig
from dfine_lib.data import loader
from dfine_lib.device import has_bf16, pick_device, set_backends, usable_precision
from dfine_lib.model.weights import save_weights
from dfine_lib.recipes import changed, get_recipe
from dfine_lib.train import trainer
from dfine_tools.analysis import saved
from dfine_tools.deploy.backends import pytorch

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


@pytest.mark.parametrize(
    ("device", "there", "asked", "used"),
    [
        (CPU, True, "bf16", "bf16"), (CPU, False, "bf16", "fp32"), (GPU, False, "bf16", "fp16"),
        (GPU, True, "bf16", "bf16"), (CPU, False, "fp16", "fp16"), (CPU, False, "fp32", "fp32"),
        (GPU, True, "fp32", "fp32"),
    ],
)  # fmt: skip
def test_bf16_where_there_is_none_is_told_and_replaced(monkeypatch, caplog, device, there, asked, used):
    monkeypatch.setattr(devices, "has_bf16", lambda _: there)
    monkeypatch.setattr(devices, "describe_device", lambda _: "this one")
    assert usable_precision(asked, device) == used
    said = [record.message for record in caplog.records]
    assert said == ([] if asked == used else [f"this one has no bf16 arithmetic: {used} is used instead"])


@pytest.mark.parametrize(
    ("device", "there", "used"), [(CPU, True, "fp32"), (CPU, False, "fp32"), (GPU, True, "bf16"), (GPU, False, "fp16")]
)
def test_a_precision_that_nobody_chose_is_mixed_on_a_gpu_and_fp32_on_a_cpu(monkeypatch, caplog, device, there, used):
    monkeypatch.setattr(devices, "has_bf16", lambda _: there)
    assert usable_precision(None, device) == used and not caplog.records


@pytest.mark.parametrize(
    ("asked", "earlier", "taken"),
    [(None, None, "bf16"), (None, "fp32", "fp32"), ("fp32", None, "fp32"), ("fp16", "fp32", "fp16")],
)
def test_a_run_on_a_gpu_is_planned_in_its_precision(monkeypatch, tmp_path, asked, earlier, taken):
    """A run that was started in fp32 resumes in fp32; another precision is compared with it, and refused."""
    planned = []

    def stop_there(recipe, *_, **__):
        planned.append(recipe.train.precision)
        raise InterruptedError

    monkeypatch.setattr(devices, "has_bf16", lambda _: True)
    monkeypatch.setattr(trainer, "pick_device", lambda *_: GPU)
    monkeypatch.setattr(trainer, "plan_run", stop_there)
    if earlier:
        (tmp_path / "last.pt").touch()
        (tmp_path / "run.json").write_text(json.dumps({"recipe": {"train": {"precision": earlier}}}))
    with pytest.raises(InterruptedError):
        trainer.train(changed(get_recipe("pico"), {"train.precision": asked}), "data", tmp_path)
    assert planned == [taken]


@pytest.mark.parametrize(("asked", "number"), [("cuda:1", 1), ("cuda", 0), ("auto", 0)])
def test_the_gpu_that_is_picked_is_the_current_one_before_anything_runs_on_it(monkeypatch, asked, number):
    """Otherwise the thread that pins memory opens a context on the first GPU, whichever one trains."""
    current, used = [0], []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: current.__setitem__(0, device))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(torch, "empty", lambda *_, device: used.append((str(device), current[0])))
    assert pick_device(asked) == torch.device("cuda", number)
    assert used == [(f"cuda:{number}", number)]


def test_bf16_that_the_given_gpu_only_imitates_does_not_count(monkeypatch):
    majors = {GPU: 7, torch.device("cuda:1"): 8}  # a V100 imitates it, an A100 has it
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=majors[device]))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert not has_bf16(GPU) and has_bf16(torch.device("cuda:1"))


def test_backends_are_set_for_a_gpu_and_left_alone_on_a_processor(monkeypatch):
    backends = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), backends.allow_tf32, backends.benchmark
    try:
        there = set_backends("medium", CPU, not before[2])
        assert tuple(there.values()) == before and torch.backends.cuda.cudnn_sdp_enabled()
        there = set_backends("medium", GPU, not before[2])  # settings need no GPU
        assert there == {"matmul_precision": "medium", "cudnn_tf32": True, "cudnn_benchmark": not before[2]}
        assert not set_backends("highest", GPU)["cudnn_tf32"]
        assert not torch.backends.cuda.cudnn_sdp_enabled(), "a plan for each number of denoising queries"
    finally:
        torch.set_float32_matmul_precision(before[0])
        backends.allow_tf32, backends.benchmark = before[1:]
        torch.backends.cuda.enable_cudnn_sdp(True)


def test_prediction_and_evaluation_take_float32_as_training_does(monkeypatch, data_folder, tmp_path):
    """Otherwise AP in a run, of `dfine eval` and detections of a Predictor come from three precisions."""
    asked: list[tuple[str, str]] = []
    for module in (pytorch, saved):
        monkeypatch.setattr(module, "set_backends", lambda precision, device: asked.append((precision, device.type)))
    model, file = DFINE.from_recipe(get_recipe("pico"), num_classes=2), tmp_path / "x.safetensors"
    save_weights(file, model, data=DataConfig(image_size=64), category_names=("dot", "bar"), category_ids=(7, 8))
    pytorch.open_torch(model, "cpu", 64, (), 10, False)
    settings = {"train.matmul_precision": "highest", "data.num_workers": 0}
    opened = saved.open_saved(file, data_folder, device="cpu", settings=settings)
    assert asked == [("high", "cpu"), ("highest", "cpu")]
    assert opened.loader.device == torch.device("cpu"), "bytes are sent, and made floats on the device"


@pytest.mark.parametrize(("device", "pinned"), [(None, False), ("cpu", False), (CPU, False), (GPU, True)])
def test_batches_are_pinned_for_a_gpu_alone_whatever_the_machine_has(monkeypatch, device, pinned):
    """Pinning opens a context on the GPU: an error where the GPU is full, though it was told to stay on the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    asked: list[bool] = []
    monkeypatch.setattr(loader, "DataLoader", lambda *_, pin_memory, **__: asked.append(pin_memory))
    loader.data_loader(None, 0, device)
    assert asked == [pinned]


def test_an_unknown_matmul_precision_is_refused():
    with pytest.raises(ValueError, match="matmul_precision must be highest, high or medium, got 'tf32'"):
        TrainConfig(matmul_precision="tf32")
