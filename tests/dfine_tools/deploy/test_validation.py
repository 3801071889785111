"""An export is done when it finds what its weights find; a file that does not is told so, and stays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dfine_tools import cli
from dfine_tools.deploy import validation
from dfine_tools.deploy.backends import open_backend
from dfine_tools.deploy.export_file import export_file
from dfine_tools.deploy.images import as_image
from dfine_tools.deploy.ties import Reselection
from dfine_tools.deploy.validation import ValidationError, report_path, validate_export

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
ROOT = Path(__file__).parents[3]
WEIGHTS = ROOT / "notebooks" / "assets" / "dfine_pico_shapes.safetensors"
NAMES = ("circle", "square", "triangle", "star", "cross", "ring", "crescent", "arrow", "heart", "bar")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Four images of light squares on dark ground; the one class is the second of the weights'."""
    folder = tmp_path_factory.mktemp("squares")
    (folder / "images" / "val").mkdir(parents=True)
    (folder / "annotations").mkdir()
    rng, images, annotations = np.random.default_rng(0), [], []
    for i in range(1, 5):
        image = rng.integers(20, 60, (160, 160, 3), np.uint8)
        x, y, side = 20 + 15 * i, 40, 30 + 5 * i
        image[y : y + side, x : x + side] = 200
        Image.fromarray(image).save(folder / "images" / "val" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 160, "height": 160})
        annotations.append({"id": i, "image_id": i, "category_id": 40, "bbox": [x, y, side, side], "iscrowd": 0})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 40, "name": "square"}]}
    for one in annotations:
        one["area"] = one["bbox"][2] ** 2
    for split in ("train", "val"):
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    noise = [np.kron(rng.integers(0, 255, (s, s, 3), np.uint8), np.ones((20, 20, 1), np.uint8)) for s in (6, 8, 9)]
    return [*noise, noise[0][:90, ::-1]]


def changed(file: Path, out: Path, change) -> Path:
    """A copy of an ONNX file after `change(graph)`."""
    model = onnx.load(file)
    change(model.graph)
    onnx.save(model, out)
    return out


def off_by(output: str, amount: float):
    """Add a constant to one output of a graph."""

    def change(graph) -> None:
        for node in graph.node:
            node.output[:] = [f"{name}_before" if name == output else name for name in node.output]
            node.input[:] = [f"{name}_before" if name == output else name for name in node.input]
        graph.initializer.append(onnx.numpy_helper.from_array(np.float32(amount), "amount"))
        graph.node.append(onnx.helper.make_node("Add", [f"{output}_before", "amount"], [output]))

    return change


def failed(report) -> set[str]:
    return {check.name for check in report.checks if not check.passed}


def test_a_good_export_passes_and_says_so_beside_the_file(exported, photographs):
    report = validate_export(WEIGHTS, exported, images=photographs, backends=["onnxruntime"])
    assert report.passed, str(report)
    names = [check.name for check in report.checks]
    assert names == ["checker", *(f"onnxruntime: batch {b}" for b in (1, 2, 7)), "onnxruntime: repeated"]
    assert all(check.numbers["objects"] >= 20 for check in report.checks if "batch" in check.name)
    about = json.loads(report_path(exported).read_text())
    assert about["passed"] and about == report.to_dict()


@pytest.mark.parametrize(("output", "amount"), [("boxes", 0.5), ("scores", 0.01), ("scores", float("nan"))])
def test_a_file_that_answers_otherwise_fails_and_stays(exported, photographs, tmp_path, output, amount):
    file = changed(exported, tmp_path / "off.onnx", off_by(output, amount))
    before = file.read_bytes()
    report = validate_export(WEIGHTS, file, images=photographs, backends=["onnxruntime"])
    wanted = {f"onnxruntime: batch {b}" for b in (1, 2, 7)}
    assert failed(report) - {"onnxruntime: repeated"} == wanted
    assert file.read_bytes() == before
    assert json.loads(report_path(file).read_text(), parse_constant=pytest.fail)["passed"] is False


@pytest.mark.parametrize("factor", [0.99, 0.0, float("nan")])
def test_an_answer_that_depends_on_the_place_in_the_batch_fails(exported, factor):
    opened = open_backend(exported)

    def answer(images, sizes):
        found, edges = opened.answer(images, sizes)
        for place, one in enumerate(found):
            one.scores.mul_(factor**place)
        return found, edges

    leaning = type(opened)(**{**vars(opened), "answer": answer})
    image = np.random.default_rng(0).integers(0, 255, (3, 64, 64), np.uint8)
    tensor, selection = validation.torch.from_numpy(image), Reselection(WEIGHTS, (160, 160))
    assert validation._repeated(selection, opened, tensor).passed
    assert not validation._repeated(selection, leaning, tensor).passed


def test_a_file_of_one_batch_size_fails(photographs, exported, tmp_path):
    def change(graph) -> None:
        for value in graph.input:
            value.type.tensor_type.shape.dim[0].dim_value = 2

    file = changed(exported, tmp_path / "two.onnx", change)
    report = validate_export(WEIGHTS, file, images=photographs, backends=["onnxruntime"])
    assert "onnxruntime: any batch" in failed(report)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_file_that_runs_for_one_image_alone_fails_and_is_reported(backend, photographs, exported, tmp_path):
    pytest.importorskip(backend)

    def change(graph) -> None:  # any batch by its signature; inside, a shape of one image
        off_by("scores", 0.0)(graph)
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 300]), "one"))
        graph.node[-1].output[0] = "scores_flat"
        graph.node.append(onnx.helper.make_node("Reshape", ["scores_flat", "one"], ["scores"]))

    file = changed(exported, tmp_path / "one.onnx", change)
    report = validate_export(WEIGHTS, file, images=photographs, backends=[backend])
    assert f"{backend}: runs" in failed(report) and "batches" not in str(report.checks[0])
    (words,) = [check.detail for check in report.checks if check.name.endswith("runs")]
    assert words.startswith(f"{file}: ") and "cannot run" in words and "\n" not in words


def test_a_file_that_cannot_be_opened_fails_and_is_reported(exported, photographs, tmp_path):
    file = tmp_path / "half.onnx"
    file.write_bytes(exported.read_bytes()[:2000])
    report = validate_export(WEIGHTS, file, images=photographs, backends=["onnxruntime"])
    assert failed(report) == {"checker", "onnxruntime: opens"} and report_path(file).is_file()


def test_with_data_the_average_precision_is_compared(exported, data, tmp_path):
    report = validate_export(WEIGHTS, exported, data=data, backends=["onnxruntime"], report=tmp_path / "r.json")
    (check,) = [check for check in report.checks if check.name.endswith("AP")]
    assert report.passed, str(report)
    assert check.numbers["images"] == 4
    assert check.numbers["torch"]["ap"] == pytest.approx(check.numbers["exported"]["ap"], abs=1e-3)
    assert check.numbers["torch"]["ap"] > 0.2, "the weights know squares: an AP of 0 would compare nothing"


@pytest.mark.parametrize("damaged", [1, 2, 4])
def test_an_image_that_cannot_be_read_shifts_no_other_images_objects(exported, data, tmp_path, damaged):
    """It has a sound header and end: only decoding finds out."""
    shutil.copytree(data, tmp_path / "set")
    file = tmp_path / "set" / "images" / "val" / f"{damaged}.png"
    content = bytearray(file.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 500] = bytes(500)
    file.write_bytes(content)
    report = validate_export(
        WEIGHTS, exported, data=tmp_path / "set", backends=["onnxruntime"], report=tmp_path / "r.json"
    )
    (check,) = [check for check in report.checks if check.name.endswith("AP")]
    assert report.passed and check.numbers["images"] == 3 and file.name in check.detail
    whole = validate_export(
        WEIGHTS, exported, data=data, backends=["onnxruntime"], report=tmp_path / "whole.json"
    ).checks[-1]
    assert whole.numbers["images"] == 4 and whole.numbers["left_out"] == []
    assert check.numbers["torch"]["ap50"] > 0.9 * whole.numbers["torch"]["ap50"]


def test_average_precision_that_falls_is_seen(exported, data, tmp_path):
    file = changed(exported, tmp_path / "off.onnx", off_by("boxes", 6.0))
    report = validate_export(WEIGHTS, file, data=data, backends=["onnxruntime"])
    assert "onnxruntime: AP" in failed(report)


def test_a_backend_that_does_not_run_such_files_is_refused(exported):
    with pytest.raises(ValidationError, match="torch does not run such files"):
        validate_export(WEIGHTS, exported, backends=["torch"])


def test_the_command_exports_and_reports(tmp_path, capsys, monkeypatch, photographs):
    pytest.importorskip("openvino")  # its export makes an ONNX file on the way
    monkeypatch.setattr(validation, "_photographs", lambda: [as_image(p) for p in photographs])
    out = tmp_path / "new" / "x.xml"
    assert cli.main(
        ["export", "--weights", str(WEIGHTS), "--to", "openvino", "--out", str(out), "--image-size", "96"]
    ) == 0  # fmt: skip
    said = capsys.readouterr().out
    assert f"done: {out}" in said and "FAIL" not in said
    opened = open_backend(out)
    assert (opened.image_hw, opened.class_names, opened.category_ids) == ((96, 96), NAMES, tuple(range(1, 11)))
    assert {p.name for p in out.parent.iterdir()} == {"x.xml", "x.bin", report_path(out).name}


def test_the_command_ends_with_1_where_validation_fails(tmp_path, capsys, monkeypatch, exported, photographs):
    from dfine_tools.deploy import export_file as module

    def wrong(model, path, *_, **__):
        return changed(exported, path, off_by("boxes", 1.0))

    monkeypatch.setattr(module, "export_onnx", wrong)
    monkeypatch.setattr(validation, "_photographs", lambda: [as_image(p) for p in photographs])
    out = tmp_path / "x.onnx"
    assert cli.main(["export", "--weights", str(WEIGHTS), "--to", "onnx", "--out", str(out)]) == 1
    said = capsys.readouterr().out
    assert "validation failed" in said and "done: " not in said
    assert out.is_file() and report_path(out).is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--to", "onnx", "--out", "x.xml"), "ends in .onnx"),
        (("--to", "openvino", "--out", "x.onnx"), "ends in .xml"),
        (("--to", "onnx", "--out", "x.onnx", "--image-size", "100"), "multiple of 32"),
    ],
)
def test_what_cannot_be_exported_is_said_in_a_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", "--weights", str(WEIGHTS), *arguments]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="none of onnx"):
        export_file(WEIGHTS, tmp_path / "x", to="tflite")
