"""One detector, three backends, one answer; and files that cannot be run say so in a line."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import datasets

from dfine_lib import DFINE
from dfine_lib.boxes import box_cxcywh_to_xyxy
from dfine_lib.data.transforms import Sample, stretch
from dfine_tools.deploy.backends import BackendError, open_backend
from dfine_tools.deploy.images import SourceError, read_image
from dfine_tools.deploy.predict import MANY, Predictor, network_input
from dfine_tools.deploy.ties import Limits, compare
from dfine_tools.weights.categories import COCO

ROOT = Path(__file__).parents[3]
WEIGHTS = ROOT / "notebooks" / "assets" / "dfine_pico_shapes.safetensors"
PHOTOGRAPHS = sorted((Path(datasets.__file__).parent / "images").glob("*.jpg"))  # two, in a package we depend on
REAL = ROOT.parent / "shared" / "data" / "coco_free" / "val2017"
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
HAS_OPENVINO = importlib.util.find_spec("openvino") is not None
NAMES = ("circle", "square", "triangle", "star", "cross", "ring", "crescent", "arrow", "heart", "bar")


def same_objects(one, other, score=0.3, box_tolerance=1e-3, score_tolerance=1e-3):
    """Where two answers differ, in words; empty: they are the same as sets of objects."""
    return compare(one, other, score, Limits(box_tolerance, score_tolerance, 0.0, 0.0, rounding=-1.0))[0]


def without_metadata(file: Path, out: Path) -> Path:
    model = onnx.load(file)
    del model.metadata_props[:]
    onnx.save(model, out)
    return out


@pytest.fixture(scope="module")
def predictors(exported) -> dict[str, Predictor]:
    found = {
        "edges": Predictor(WEIGHTS, edges=True, device="cpu"),  # the model as it was trained
        "torch": Predictor(WEIGHTS, device="cpu"),  # the deployed form
        "onnxruntime": Predictor(exported, backend="onnxruntime"),
    }
    if HAS_OPENVINO:
        found["openvino"] = Predictor(exported, backend="openvino")
    return found


@pytest.fixture(scope="module")
def photographs() -> list[str]:
    """Two photographs, and parts of them."""
    assert len(PHOTOGRAPHS) == 2
    images = [np.asarray(Image.open(p).convert("RGB")) for p in PHOTOGRAPHS]
    return images + [p[y : y + 200, x : x + 260] for p in images for y, x in ((0, 0), (200, 300), (100, 50))]


@pytest.mark.parametrize("batch_size", [1, 2, 7])
@pytest.mark.parametrize("name", ["torch", "onnxruntime", "openvino"])
def test_every_backend_finds_the_same_objects(predictors, photographs, name, batch_size):
    if name not in predictors:
        pytest.skip("openvino is not installed")
    expected = predictors["edges"](photographs, score=0.0)
    found = predictors[name](photographs, score=0.0, batch_size=batch_size)
    assert sum(len(one.above(0.3)) for one in expected) > 20
    assert [line for pair in zip(expected, found) for line in same_objects(*pair, 0.3)] == []
    assert predictors[name].class_names == NAMES


@pytest.mark.skipif(not HAS_OPENVINO, reason="needs openvino")
def test_openvino_compiles_one_image_apart_from_batches(exported, photographs, monkeypatch):
    from dfine_tools.deploy.backends import openvino_runtime

    shapes = []

    class Noting:  # a core that notes what it compiles
        def __init__(self, core):
            self.core, self.read_model = core, core.read_model

        def compile_model(self, model, *settings):
            shapes.append(str(model.input("images").get_partial_shape()))
            return self.core.compile_model(model, *settings)

    core = Noting(openvino_runtime.shared_core())
    monkeypatch.setattr(openvino_runtime, "shared_core", lambda: core)
    predictor = Predictor(exported, backend="openvino")
    assert shapes == ["[1,3,160,160]"]
    alone, *rest = predictor(photographs, score=0.0, batch_size=3)
    assert len(rest) == len(photographs) - 1 and shapes == ["[1,3,160,160]", "[?,3,160,160]"]
    assert same_objects(predictor(photographs[0], score=0.0)[0], alone, 0.3) == [] and len(shapes) == 2


@pytest.mark.skipif(not HAS_OPENVINO, reason="needs openvino")
def test_a_signal_after_two_openvino_predictors_ends_nothing(exported):
    """With a core each it was SIGSEGV: freed in the order of their making, they left an unmapped signal stack."""
    program = """
import gc, signal, sys
from dfine_tools.deploy.predict import Predictor
came = []
signal.signal(signal.SIGUSR1, lambda *_: came.append(True))
first, second = (Predictor(sys.argv[1], backend="openvino") for _ in range(2))
del first
gc.collect()
del second
gc.collect()
signal.raise_signal(signal.SIGUSR1)
assert came
"""
    done = subprocess.run([sys.executable, "-c", program, str(exported)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, (done.returncode, done.stderr)


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data/coco_free")
@pytest.mark.parametrize("name", ["torch", "onnxruntime", "openvino"])
def test_every_backend_finds_the_same_objects_in_real_images(predictors, name):
    if name not in predictors:
        pytest.skip("openvino is not installed")
    expected, found = predictors["edges"](REAL, score=0.0), predictors[name](REAL, score=0.0, batch_size=7)
    assert len(found) == 17 and [one.name for one in found] == [one.name for one in expected]
    assert [line for pair in zip(expected, found) for line in same_objects(*pair, 0.3)] == []


def test_images_are_prepared_as_in_evaluation():
    image = read_image(PHOTOGRAPHS[0])
    expected = stretch(Sample(image, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4)), (96, 160)).image
    assert torch.equal(network_input(image, (96, 160)), expected)


def test_the_mean_of_an_edges_distribution_is_the_boxs_edge(predictors, photographs):
    for one in predictors["edges"](photographs[:2], score=0.1):
        assert one.edges.probabilities.shape == (len(one), 4, 33)
        torch.testing.assert_close(one.edges.probabilities.sum(-1), torch.ones(len(one), 4))
        mean = (one.edges.probabilities * one.edges.positions_px).sum(-1)
        torch.testing.assert_close(mean, one.boxes_xyxy, rtol=0, atol=1e-3)


def test_edges_are_refused_of_an_exported_file(exported):
    with pytest.raises(BackendError, match="edge distributions"):
        Predictor(exported, edges=True)


def test_boxes_are_in_pixels_of_the_image_as_it_came(predictors, photographs):
    image = photographs[0]
    (one,) = predictors["torch"](image, score=0.0)
    model = DFINE.from_pretrained(WEIGHTS)
    pixels = network_input(torch.tensor(image).permute(2, 0, 1), (160, 160))[None].float() / 255
    with torch.no_grad():
        output = model(pixels)
    best = int(output.pred_logits[0].amax(-1).argmax())
    expected = box_cxcywh_to_xyxy(output.pred_boxes[0, best]) * torch.tensor([640, 427] * 2)
    torch.testing.assert_close(one.boxes_xyxy[0], expected, rtol=0, atol=0.05)


def test_size_names_and_ids_travel_in_the_file(exported):
    opened = open_backend(exported)
    assert (opened.name, opened.image_hw, opened.class_names, opened.category_ids, opened.batch) == (
        "onnxruntime", (160, 160), NAMES, tuple(range(11, 21)), None
    )  # fmt: skip
    weights = open_backend(WEIGHTS, device="cpu")
    assert (weights.name, weights.image_hw, weights.class_names) == ("torch", (160, 160), NAMES)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_file_without_metadata_runs_as_the_authors_do(exported, tmp_path, backend, photographs, predictors, caplog):
    pytest.importorskip(backend)
    bare = without_metadata(exported, tmp_path / "bare.onnx")
    predictor = Predictor(bare, backend=backend)
    (found,) = predictor(photographs[0], score=0.0)
    assert predictor.class_names == COCO and "taken for the 80 of COCO" in caplog.text
    assert predictor.backend.category_ids[:12] == (*range(1, 12), 13) and predictor.backend.category_ids[-1] == 90
    assert same_objects(found, predictors["edges"](photographs[0], score=0.0)[0], 0.3) == []
    assert Predictor(bare, backend=backend, class_names=NAMES)(photographs[0])[0].names[0] in NAMES


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_file_of_one_batch_size_takes_any_number(tmp_path, backend, photographs):
    """An authors' export that was made without dynamic axes: three images at a time, no metadata."""
    pytest.importorskip(backend)
    helper, real, whole = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    nodes = [  # each image's one box is its whole size, its score the mean of its pixels
        helper.make_node("ReduceMean", ["images", "axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "one"], ["scores"]),
        helper.make_node("Cast", ["orig_target_sizes"], ["wh"], to=real),
        helper.make_node("Sub", ["wh", "wh"], ["zero"]),
        helper.make_node("Concat", ["zero", "wh"], ["flat"], axis=1),
        helper.make_node("Unsqueeze", ["flat", "one"], ["boxes"]),
        helper.make_node("Cast", ["scores"], ["labels"], to=whole),
    ]
    numbers = [helper.make_tensor("axes", whole, [3], [1, 2, 3]), helper.make_tensor("one", whole, [1], [1])]
    make = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "three",
        [make("images", real, [3, 3, 32, 64]), make("orig_target_sizes", whole, [3, 2])],
        [make("labels", whole, [3, 1]), make("boxes", real, [3, 1, 4]), make("scores", real, [3, 1])], numbers,
    )  # fmt: skip
    file = tmp_path / "three.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), file)
    predictor = Predictor(file, backend=backend)
    assert predictor.backend.batch == 3 and predictor.backend.image_hw == (32, 64)
    for batch_size in (1, 4, 8):
        found = predictor(photographs, score=0.0, batch_size=batch_size)
        assert len(found) == len(photographs)
        for one, image in zip(found, photographs):
            assert one.boxes_xyxy.tolist() == [[0, 0, image.shape[1], image.shape[0]]]
            assert float(one.scores[0]) == pytest.approx(image.mean() / 255, abs=0.01)


def test_what_a_backend_cannot_run_is_said_in_a_line(exported, tmp_path):
    other = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Relu", ["x"], ["y"])], "g",
            [onnx.helper.make_tensor_value_info("x", 1, [1])], [onnx.helper.make_tensor_value_info("y", 1, [1])],
        ), ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 18)],
    )  # fmt: skip
    onnx.save(other, tmp_path / "other.onnx")
    (tmp_path / "damaged.onnx").write_bytes(exported.read_bytes()[:1000])
    (tmp_path / "x.tflite").write_bytes(b"1")
    cases = [
        (exported, dict(backend="torch"), "the backend torch cannot run it, onnxruntime and openvino can"),
        (WEIGHTS, dict(backend="onnxruntime"), "dfine export"),
        (exported, dict(backend="tflite"), "none of auto"),
        (exported, dict(device="tpu", backend="onnxruntime"), "cpu or cuda"),
        (exported, dict(image_size=192), "made for images of 160 x 160"),
        (tmp_path / "none.onnx", {}, "no such file"),
        (tmp_path / "other.onnx", {}, "maps x to y"),
        (tmp_path / "damaged.onnx", {}, "cannot|can run"),
        (tmp_path / "x.tflite", {}, "not run here"),
    ]
    if HAS_OPENVINO:
        cases.append((tmp_path / "damaged.onnx", dict(backend="openvino"), "OpenVINO can read"))
    for source, options, message in cases:
        with pytest.raises(BackendError, match=message) as error:
            open_backend(source, **options)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="no such weights file"):
        open_backend(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="multiple of 32"):
        open_backend(WEIGHTS, image_size=100)


def test_images_of_another_size_than_the_file_takes_are_refused(predictors):
    with pytest.raises(ValueError, match=r"\[B, 3, 160, 160\]"):
        predictors["onnxruntime"].backend.detect(torch.zeros(1, 3, 32, 32), torch.ones(1, 2))


def test_a_model_in_memory_is_taken_and_left_alone():
    model = DFINE.from_pretrained(WEIGHTS).train()
    predictor = Predictor(model, image_size=96, class_names=NAMES, edges=True, device="cpu")
    (found,) = predictor(np.zeros((1, 1, 3), np.uint8), score=0.0)
    assert found.size_wh == (1, 1) and predictor.class_names == NAMES and model.training


def test_one_damaged_image_among_many_is_left_out_and_named(predictors, tmp_path, caplog):
    for name in ("a.png", "c.png"):
        Image.new("RGB", (30, 20), (90, 10, 10)).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"x")
    predictor = predictors["onnxruntime"]
    assert [one.name for one in predictor(tmp_path)] == ["a.png", "c.png"]
    assert len(predictor.skipped) == 1 and "b.png" in caplog.text
    with pytest.raises(SourceError, match=r"b\.png: not an image"):
        predictor(tmp_path / "b.png")
    with pytest.raises(SourceError, match="none of the 2 images"):
        predictor([tmp_path / "b.png", tmp_path / "nothing.png"])


def test_what_another_thread_cannot_read_is_not_counted_here(predictors, tmp_path):
    """Two calls at a time, one in the middle of the other: each raises, and counts, by its own images."""
    good, bad = np.zeros((8, 8, 3), np.uint8), tmp_path / "gone.png"
    predictor = predictors["torch"]
    outer = predictor.stream([good, good, bad])
    next(outer)
    assert len(predictor([good, bad])) == 1 and len(predictor.skipped) == 1
    assert len(list(outer)) == 1 and len(predictor.skipped) == 1


def test_a_source_without_end_is_no_list(predictors):
    with pytest.raises(SourceError, match="stream"):
        predictors["torch"](0)


def test_leaving_the_loop_early_ends_the_work(predictors):
    import threading

    before = threading.active_count()
    stream = predictors["torch"].stream([np.zeros((8, 8, 3), np.uint8)] * 500)
    next(stream)
    stream.close()
    assert threading.active_count() <= before


@pytest.mark.parametrize(
    "options", [dict(batch_size=0), dict(batch_size=1.5), dict(score=1.5), dict(score=float("nan"))]
)
def test_numbers_out_of_range_are_refused(predictors, options):
    with pytest.raises(ValueError, match=r"batch_size|score"):
        predictors["torch"](np.zeros((8, 8, 3), np.uint8), **options)


def test_many_images_are_answered_several_at_a_time_and_the_same(exported, photographs):
    predictor = Predictor(exported, backend="onnxruntime", device="cpu")
    files = [photographs[i % len(photographs)] for i in range(MANY)]
    found = predictor(files, score=0.1, batch_size=3)
    assert predictor.backend.shared() is predictor.backend.shared(), "opened once"
    expected = predictor(photographs, score=0.1)
    assert len(found) == MANY
    for i, one in enumerate(found):
        assert same_objects(one, expected[i % len(photographs)], 0.15) == []


@pytest.mark.parametrize("name", ["torch", "onnxruntime", "openvino"])
def test_one_predictor_answers_several_threads_at_a_time(predictors, photographs, name):
    if name not in predictors:
        pytest.skip("openvino is not installed")
    expected = predictors[name](photographs, score=0.1)

    def ask(batch_size: int) -> list[str]:
        found = [one for _ in range(4) for one in predictors[name](photographs, score=0.1, batch_size=batch_size)]
        return [line for pair in zip(expected * 4, found, strict=True) for line in same_objects(*pair, 0.15)]

    with ThreadPoolExecutor(4) as pool:
        assert [line for lines in pool.map(ask, (1, 2, 3, 1)) for line in lines] == []
