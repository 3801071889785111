"""Deployment of models on CUDA and for CUDA, held without a GPU by stand-ins."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest

from dfine_lib import DFINE
from dfine_tools.deploy import export
from dfine_tools.deploy.backends import Backend, DeviceError, open_backend


class OnAGpu:
    """A model that knows only where it is."""

    device = "cuda"

    def cpu(self) -> OnAGpu:
        self.device = "cpu"
        return self


def test_a_model_on_a_gpu_is_exported_from_a_copy_on_the_cpu(monkeypatch, tmp_path):
    """Folded there, the file is the same from every device; the exporter's example inputs are on the CPU too."""
    seen: list[str] = []

    class Seen(Exception):
        pass

    def graph_form(model: Any, image_hw: object) -> None:
        seen.append(model.device)
        raise Seen

    monkeypatch.setattr(export, "graph_form", graph_form)
    model = OnAGpu()
    with pytest.raises(Seen):
        export.export_onnx(model, tmp_path / "x.onnx", 160)
    assert seen == ["cpu"] and model.device == "cuda"


class Sessions:
    """ONNX Runtime with a CUDA provider, which starts or does not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, starts: bool) -> None:
        onnxruntime = pytest.importorskip("onnxruntime")
        self.real, self.starts, self.asked = inspect.signature(onnxruntime.InferenceSession), starts, []
        names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
        monkeypatch.setattr(onnxruntime, "InferenceSession", self.open)

    def open(self, *arguments: Any, **options: Any) -> Any:
        asked = self.real.bind(*arguments, **options).arguments["providers"]
        self.asked += asked
        names = [each if isinstance(each, str) else each[0] for each in asked]
        inputs = [
            SimpleNamespace(name="images", type="tensor(float)", shape=["batch", 3, 64, 64]),
            SimpleNamespace(name="orig_target_sizes", type="tensor(int64)", shape=["batch", 2]),
        ]
        return SimpleNamespace(
            get_providers=lambda: names if self.starts else ["CPUExecutionProvider"],
            get_inputs=lambda: inputs,
            get_outputs=lambda: [SimpleNamespace(name=name) for name in ("labels", "boxes", "scores")],
            get_modelmeta=lambda: SimpleNamespace(custom_metadata_map={}),
        )


def test_onnx_runtime_that_cannot_start_on_cuda_does_not_run_on_the_cpu_silently(monkeypatch, tmp_path):
    (tmp_path / "x.onnx").touch()
    Sessions(monkeypatch, starts=False)
    with pytest.raises(DeviceError, match=r"x\.onnx: device 'cuda': .* would run on the CPU"):
        open_backend(tmp_path / "x.onnx", backend="onnxruntime", device="cuda")
    assert open_backend(tmp_path / "x.onnx", backend="onnxruntime", device="auto").device == "cpu"


@pytest.mark.parametrize(("asked", "number"), [("auto", 0), ("cuda", 0), ("cuda:1", 1)])
def test_onnx_runtime_names_its_card_and_computes_in_exact_float32(monkeypatch, tmp_path, asked, number):
    (tmp_path / "x.onnx").touch()
    sessions = Sessions(monkeypatch, starts=True)
    assert open_backend(tmp_path / "x.onnx", backend="onnxruntime", device=asked).device == f"cuda:{number}"
    assert sessions.asked[0] == ("CUDAExecutionProvider", {"device_id": number, "use_tf32": 0})


class _Nothing:
    """A predictor that finds nothing."""

    def __init__(self, backend: Any) -> None:
        pass

    of = classmethod(lambda cls, backend: cls(backend))

    def stream(self, source: Any, batch_size: int) -> Any:
        return iter(source.items)


def test_bench_goes_on_without_what_has_no_cuda_and_names_it(monkeypatch, exported, tmp_path):
    from dfine_tools.deploy import bench as benches
    from dfine_tools.deploy import timing

    def opened(source: Any, *, device: str, **options: Any) -> Backend:
        if isinstance(source, DFINE):
            return Backend("torch", None, (64, 64), (), (), None, "cuda:0", lambda images, sizes: ([], None))
        return open_backend(source, device=device, **options)

    monkeypatch.setattr(benches, "open_backend", opened)
    monkeypatch.setattr(timing, "Predictor", _Nothing)
    monkeypatch.setattr("dfine_tools.runs.machine.describe_device", str)
    report = benches.bench([exported, "pico"], backends=["torch", "openvino"], device="cuda", seconds=0.01)
    assert [row.device for row in report.latencies] == ["cuda:0"]
    (reason,) = report.to_dict()["not_run"]
    assert exported.name in reason and "OpenVINO runs on cpu or gpu" in reason and f"not run: {reason}" in str(report)
    with pytest.raises(DeviceError, match="OpenVINO runs on cpu or gpu"):
        benches.bench([exported], backends=["openvino"], device="cuda", seconds=0.01)
