"""notebooks/experiments/evaluate.ipynb, run by papermill: its numbers are those of `dfine eval`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dfine_tools import cli

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "experiments" / "evaluate.ipynb"
WEIGHTS = ROOT / "notebooks" / "assets" / "dfine_pico_shapes.safetensors"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    """A handful of pictures of what the teaching checkpoint knows."""
    from data_tools.shapes import make_shapes

    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", train=1, val=8, size=160, progress=False)


def run(out: Path, **parameters) -> dict:
    """Execute the notebook; its contents afterwards."""
    papermill = pytest.importorskip("papermill")
    out.mkdir(parents=True, exist_ok=True)
    papermill.execute_notebook(
        NOTEBOOK,
        out / "evaluate.ipynb",
        parameters | {"out": str(out)},
        cwd=ROOT,
        kernel_name="python3",
        progress_bar=False,
    )
    return json.loads((out / "evaluate.ipynb").read_text(encoding="utf-8"))


def test_its_numbers_are_those_of_dfine_eval_and_everything_is_drawn_and_reported(shapes, tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    notebook = run(tmp_path / "run", weights=str(WEIGHTS), data=str(shapes), device="cpu")
    arguments = ["--weights", str(WEIGHTS), "--data", str(shapes), "--out", str(tmp_path / "eval.json")]
    assert cli.main(["eval", *arguments, "--device", "cpu", "--workers", "0"]) == 0
    expected = json.loads((tmp_path / "eval.json").read_text(encoding="utf-8"))
    written = json.loads((tmp_path / "run" / "evaluation.json").read_text(encoding="utf-8"))
    assert {name: written[name] for name in expected if name != "per_class"} == pytest.approx(
        {name: value for name, value in expected.items() if name != "per_class"}, abs=1e-6
    )
    assert written["per_class"] == pytest.approx(expected["per_class"], abs=1e-6)
    assert written["errors"]["ap50"] == pytest.approx(expected["ap50"], abs=1e-6)

    file = json.loads((shapes / "annotations" / "instances_val.json").read_text(encoding="utf-8"))
    counts = written["confusion"]["counts"]
    assert sum(map(sum, counts[:-1])) == len(file["annotations"])
    missed = sum(each["missed"] for each in written["worst"])
    assert missed == len(file["annotations"]) - sum(counts[n][n] for n in range(len(counts) - 1))

    alt_texts = [
        "".join(output["data"]["text/plain"])
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    firsts = [text.split()[0] for text in alt_texts]
    assert firsts[:4] == ["AP", "AP", "Precision", "Confusion"]
    assert firsts[4:] == ["Objects"] * bool(written["worst"])
    page = (tmp_path / "run" / "evaluation.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == len(alt_texts)
