"""notebooks/experiments/deploy.ipynb, run by papermill: a checkpoint in; a proven file, its report, latencies out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "experiments" / "deploy.ipynb"
WEIGHTS = ROOT / "notebooks" / "assets" / "dfine_pico_shapes.safetensors"


def run(out: Path, **parameters) -> dict:
    """Execute the notebook; its contents afterwards."""
    papermill = pytest.importorskip("papermill")
    for name in ("onnx", "onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(name, reason=f'{name} is not installed: pip install -e ".[deploy]"')
    out.mkdir(parents=True, exist_ok=True)
    papermill.execute_notebook(
        NOTEBOOK, out / "deploy.ipynb", parameters | {"weights": str(WEIGHTS), "out": str(out)},
        cwd=ROOT, kernel_name="python3", progress_bar=False,
    )  # fmt: skip
    return json.loads((out / "deploy.ipynb").read_text(encoding="utf-8"))


def test_a_checkpoint_becomes_a_proven_file_with_its_latencies(tmp_path, monkeypatch):
    from data_tools.shapes import make_shapes

    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    shapes = make_shapes(tmp_path / "shapes", train=1, val=4, size=160, progress=False)
    out = tmp_path / "run"
    notebook = run(out, data=str(shapes), formats="onnx", batches="1 2", seconds=0.05)

    gate = json.loads((out / "detector_fp32.onnx.gate.json").read_text(encoding="utf-8"))
    assert gate["passed"] and {"onnxruntime: AP", "openvino: AP"} <= {check["name"] for check in gate["checks"]}
    written = json.loads((out / "deploy.json").read_text(encoding="utf-8"))
    assert written["gates"] == {"detector_fp32.onnx": gate}
    (file,) = written["files"]
    assert file["gate"] == "passed" and file["MB"] * 1e6 == (out / "detector_fp32.onnx").stat().st_size
    rows = {(row["model"], row["backend"], row["batch"]): row for row in written["bench"]["latencies"]}
    assert set(rows) == {
        (model, backend, batch)
        for model, backend in (
            (WEIGHTS.name, "torch"), ("detector_fp32.onnx", "onnxruntime"), ("detector_fp32.onnx", "openvino"),
        )
        for batch in (1, 2)
    }  # fmt: skip
    assert all(row["model_only"]["median"] > 0 for row in rows.values())
    known = {check["name"]: check["numbers"] for check in gate["checks"]}
    assert rows["detector_fp32.onnx", "openvino", 1]["ap"] == known["openvino: AP"]["exported"]["ap"] > 0

    assert (out / "latency.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "deploy.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page and "batch 7" in page
    printed = "".join(
        "".join(output.get("text", [])) for cell in notebook["cells"] for output in cell.get("outputs", [])
    )
    assert "1 of 1 files find what the weights find" in printed


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (dict(formats="onnx tflite"), "formats: 'tflite' is none of onnx"),
        (dict(precisions="fp32 fp8"), "precisions: 'fp8' is none of fp32"),
        (dict(precisions=" "), "name no file"),
        (dict(precisions="fp32 int8"), "int8 needs data"),
        (dict(data="nowhere_at_all"), "is no folder"),
        (dict(batches="1 0"), "batches: whole numbers"),
        (dict(batches="1,4"), "batches: whole numbers"),
        (dict(seconds=0), "seconds: must be above 0"),
        (dict(image_size=100), "100"),
        (dict(device="tpu"), "tpu"),
        (dict(weights="none.safetensors"), "none.safetensors: no such"),
    ],
)
def test_wrong_parameters_are_said_before_the_work(parameters, message, tmp_path, monkeypatch):
    """Of the second precision once, after the first file's export and gate; of `device` after all of them."""
    monkeypatch.chdir(ROOT)
    cells = {cell["id"]: "".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]}
    space: dict = {}
    for cell in ("parameters", "imports"):
        exec(cells[cell], space)
    space |= {"out": str(tmp_path / "out"), **parameters}
    with pytest.raises(ValueError, match=message) as caught:
        exec(cells["check-parameters"], space)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_a_single_batch_size_comes_from_papermill_as_a_number(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    sources = {cell["id"]: "".join(cell["source"]) for cell in cells}
    space: dict = {}
    for cell in ("parameters", "imports"):
        exec(sources[cell], space)
    space |= {"weights": str(WEIGHTS), "batches": 2}
    exec(sources["check-parameters"], space)
    assert space["batches"] == "2"
