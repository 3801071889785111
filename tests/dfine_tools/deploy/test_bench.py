"""`dfine bench`: counts as published, times that are times, one table and one figure."""

from __future__ import annotations

import json
import mmap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text
from workbook.viz import accuracy_by_latency

from dfine_lib.config import SIZES
from dfine_tools import cli
from dfine_tools.deploy.backends import Backend
from dfine_tools.deploy.bench import bench, known_ap
from dfine_tools.deploy.images import SourceError
from dfine_tools.deploy.timing import PeakMemory, authors_latency, cost, latency, repeated

WEIGHTS = Path(__file__).parents[3] / "notebooks" / "assets" / "dfine_pico_shapes.safetensors"


@pytest.mark.parametrize("size", "nm")  # all five, and exactly: tests/evaluate/test_profile.py
def test_counts_round_to_the_published_table(size):
    counted = cost(SIZES[size], size)
    assert counted.published == (round(counted.parameters / 1e6), round(counted.flops / 1e9))
    assert counted.parameters < counted.training_parameters and 2 * counted.macs < counted.flops
    assert cost(SIZES[size], size, (320, 320)).published is None, "published at 640 px only"


def sleeper(milliseconds: float, batch: int | None = None) -> Backend:
    """A detector that only takes time."""

    def answer(images: np.ndarray, sizes: np.ndarray):
        time.sleep(milliseconds / 1000)
        return [], None

    return Backend("torch", None, (64, 64), (), (), batch, "cpu", answer)


def test_the_median_is_that_of_the_calls_and_warming_up_does_not_count():
    calls = []

    def call() -> None:
        calls.append(0.06 if len(calls) < 5 else 0.004)
        time.sleep(calls[-1])

    spread = repeated(call, 0.1)
    assert 4 <= spread.median < 12 and spread.low <= spread.median <= spread.high
    assert 5 <= spread.runs == len(calls) - 5


def photographs() -> list[Path]:
    from sklearn import datasets

    return sorted((Path(datasets.__file__).parent / "images").glob("*.jpg"))


def test_end_to_end_is_the_model_and_the_images(monkeypatch):
    monkeypatch.setattr("dfine_tools.deploy.timing.Predictor", lambda backend: Streams())
    fields = latency(sleeper(20), photographs(), 2, seconds=0.1)
    assert 20 <= fields["model_only"].median < fields["end_to_end"].median
    assert fields["images_per_second"] == pytest.approx(2000 / fields["model_only"].median)


class Streams:
    """Stands for a predictor over the sleeper, which finds nothing at all."""

    def stream(self, source, batch_size):
        return iter(source.items)


def test_as_the_authors_time_it_every_image_counts_once_after_as_many_runs():
    sizes = []

    def answer(images, sizes_wh):
        sizes.append(tuple(sizes_wh[0].tolist()))
        return [], None

    backend = Backend("torch", None, (64, 64), (), (), None, "cpu", answer)
    assert authors_latency(backend, photographs()[0].parent, runs=4) >= 0
    assert len(sizes) == 8, "four to warm up, four that count"
    with pytest.raises(SourceError, match="folder of them"):
        authors_latency(backend, [np.zeros((4, 4, 3), np.uint8)], runs=1)


def test_memory_that_is_taken_is_seen():
    peak = PeakMemory()
    if peak.before is None:
        pytest.skip("this system does not tell a process's peak of memory")
    block = mmap.mmap(-1, 40_000_000)  # new pages in any case; numpy may get some that were freed before
    np.frombuffer(block, np.uint8)[:] = 1
    megabytes, counts = peak.megabytes()
    assert megabytes > 30 and counts == "growth of the process"


class FakeCuda:
    """A machine with two GPUs on which only torch's allocations can be counted."""

    taken = (100 << 20, 300 << 20)

    def __getattr__(self, name: str):
        return lambda *_: None

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 2

    def memory_allocated(self, number: int) -> int:
        return 60 << 20

    def max_memory_allocated(self, number: int) -> int:
        return self.taken[number]


def test_memory_on_a_gpu_is_torchs_own_or_nobody_counts_it(monkeypatch):
    monkeypatch.setattr("torch.cuda", FakeCuda())
    peak = PeakMemory("auto")
    assert peak.megabytes("torch", "cuda") == (40, "allocated by torch on the GPU")
    assert peak.megabytes("torch", "cuda:1") == (240, "allocated by torch on the GPU")
    for backend, device in (("onnxruntime", "cuda"), ("tensorrt", "cuda:0"), ("openvino", "gpu")):
        assert peak.megabytes(backend, device) == (None, "")
    assert PeakMemory("cpu").megabytes("torch", "cuda") == (None, "")


def test_the_device_in_the_report_is_the_one_that_was_measured(monkeypatch):
    def on_a_gpu(*_, **__) -> Backend:
        return replace(sleeper(1), device="cuda:0")

    described = []
    monkeypatch.setattr("dfine_tools.deploy.bench.open_backend", on_a_gpu)
    monkeypatch.setattr("dfine_tools.deploy.timing.Predictor", lambda backend: Streams())
    monkeypatch.setattr("dfine_tools.runs.machine.describe_device", lambda device: described.append(device) or "GPU")
    report = bench(["pico"], device="auto", seconds=0.05).to_dict()
    assert [str(device) for device in described] == ["cuda:0"] and report["device"] == "GPU"
    assert report["devices"] == ["cuda:0"] and report["latencies"][0]["device"] == "cuda:0"


def test_an_image_that_cannot_be_read_is_left_out_and_counted(tmp_path, capsys):
    for file in photographs():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "broken.jpg").write_bytes(photographs()[0].read_bytes()[:3000])
    (tmp_path / "notes.txt").touch()
    words = ["bench", "pico", "--images", tmp_path, "--seconds", "0.05", "--image-size", "64", "--device", "cpu"]
    assert cli.main([*map(str, words), "--json", str(tmp_path / "bench.json")]) == 0
    assert "4 files found: 2 taken, 2 left out (" in capsys.readouterr().out
    files = json.loads((tmp_path / "bench.json").read_text())["ledger"]["files"]
    assert files["left_out"] == {"not an image by the ending of its name": 1, "unreadable": 1}
    backend = sleeper(0)
    assert authors_latency(backend, tmp_path, runs=5) >= 0
    for file in photographs():
        (tmp_path / file.name).write_bytes(b"")
    with pytest.raises(SourceError, match=r"no image that can be read: .*\(unreadable: 3"):
        authors_latency(backend, tmp_path, runs=5)


def test_a_report_has_both_tables_the_machine_and_a_figure(tmp_path, capsys, exported):
    (tmp_path / "run").mkdir()
    weights = tmp_path / "run" / "model.safetensors"
    weights.write_bytes(WEIGHTS.read_bytes())
    (tmp_path / "run" / "metrics.json").write_text('{"ap": 0.5}')
    words = ["bench", weights, exported, "--backend", "torch,onnxruntime", "--batch", "1,2", "--seconds", "0.05"]
    files = ["--json", tmp_path / "bench.json", "--figure", tmp_path / "bench.png"]
    assert cli.main([*map(str, words), *map(str, files), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "GFLOPs" in said and "images/s" in said and "cores" in said
    content = json.loads((tmp_path / "bench.json").read_text())
    rows = {(row["model"], row["backend"], row["batch"]): row for row in content["latencies"]}
    assert set(rows) == {
        (name, backend, batch)
        for name, backend in (("model.safetensors", "torch"), (exported.name, "onnxruntime"))
        for batch in (1, 2)
    }
    assert all(row["model_only"]["median"] > 0 and row["images_per_second"] > 0 for row in rows.values())
    assert rows["model.safetensors", "torch", 1]["ap"] == 0.5 and rows[exported.name, "onnxruntime", 1]["ap"] is None
    assert content["machine"]["cores"] and content["commit"] and content["published"]["n"]["latency_ms"] == 2.12
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    figure = accuracy_by_latency(content)
    figure.draw_without_rendering()
    for text in figure.findobj(Text):  # a title that is too long is cut at the figure's edge
        assert "here" not in text.get_text() or text.get_window_extent().x1 <= figure.bbox.x1, text.get_text()
    words = figure.alt_text
    assert "Published, one T4" in words and "at AP 50.0" in words


def test_ap_is_read_from_the_gates_report(tmp_path):
    file = tmp_path / "x.onnx"
    assert known_ap(file, "onnxruntime") is None
    check = {"name": "onnxruntime: AP", "numbers": {"exported": {"ap": 0.4}}}
    (tmp_path / "x.onnx.gate.json").write_text(json.dumps({"checks": [check]}))
    assert known_ap(file, "onnxruntime") == (0.4, "x.onnx.gate.json") and known_ap(file, "openvino") is None
    (tmp_path / "x.onnx.gate.json").write_text("[]")
    assert known_ap(file, "onnxruntime") is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.onnx"], "no such file"),
        (["pico", "--batch", "0"], "at least 1"),
        (["pico", "--batch", "a"], "numbers with commas"),
        (["pico", "--backend", "onnxruntime"], "cannot run it, torch can"),
        (["pico", "--as-authors"], "needs --images"),
        (["pico", "--figure", "x.txt"], "a figure is a"),
        (["pico", "--images", "none"], "no such file or folder"),
        (["pico", "--seconds", "0"], "above 0"),
        (["pico", "--json", "."], "--json .: is a folder"),
    ],
)
def test_what_cannot_be_measured_is_one_line(words, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", *words]) == 2
    assert message in capsys.readouterr().err


def test_nothing_to_measure_is_refused():
    with pytest.raises(ValueError, match="no model"):
        bench([])


@pytest.mark.gpu
def test_an_engine_is_timed_as_the_authors_do(tmp_path):
    """Needs an engine in DFINE_ENGINE, which benchmarks/gpu.sh gives."""
    import os

    from dfine_tools.deploy.backends import open_backend

    engine = os.environ.get("DFINE_ENGINE") or pytest.skip("DFINE_ENGINE names no engine file")
    assert 0 < authors_latency(open_backend(engine, device="cuda"), photographs()[0].parent) < 1000
