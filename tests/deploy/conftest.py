"""One exported file for all tests here: exporting is what takes longest."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Path:
    """The teaching weights as ONNX for 160 px, classes named as in the weights, their ids 11 to 20."""
    from dfine_lib import DFINE
    from dfine_lib.deploy.export import export_onnx
    from dfine_lib.model.weights import read_weights

    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    weights = read_weights(Path(__file__).parents[2] / "notebooks" / "assets" / "dfine_pico_shapes.safetensors")
    file = tmp_path_factory.mktemp("onnx") / "pico.onnx"
    model = DFINE.from_pretrained(weights.path)
    return export_onnx(model, file, 160, weights.category_names, category_ids=range(11, 21))
