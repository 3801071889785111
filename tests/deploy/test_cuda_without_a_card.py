"""Deployment of models on CUDA and for CUDA, held without a GPU by stand-ins."""

from __future__ import annotations

from typing import Any

import pytest

from dfine_lib.deploy import export


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
