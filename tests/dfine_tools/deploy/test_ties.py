"""A difference that rounding explains is a tie and fails no export; one that rounding does not explain is a fault."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from dfine_lib import DFINE
from dfine_lib.model.weights import load_weights, read_weights
from dfine_tools.deploy.export import export_onnx
from dfine_tools.deploy.predict import Predictor, network_input
from dfine_tools.deploy.results import Prediction
from dfine_tools.deploy.ties import Reselection, compare
from dfine_tools.deploy.validation import LIMITS, validate_export

WEIGHTS = Path(__file__).parents[3] / "notebooks" / "assets" / "dfine_pico_shapes.safetensors"
SIDE, QUERIES = 96, 12
LOWEST = 1e-3  # score from which objects are compared


class Close(NamedTuple):
    """An image whose last query is nearly another one."""

    image: Tensor  # uint8 [3, SIDE, SIDE]
    order: Tensor  # int64 [S], tokens by falling score
    scores: Tensor  # [S], in that order

    @property
    def margin(self) -> float:
        return float(self.scores[QUERIES - 1] - self.scores[QUERIES])


@pytest.fixture(scope="module")
def model() -> DFINE:
    """Trained weights with fewer queries than tokens, so that the selection leaves some out."""
    stored = read_weights(WEIGHTS)
    model = DFINE(replace(stored.model, num_queries=QUERIES))
    load_weights(model, stored)
    return model.eval()


@pytest.fixture(scope="module")
def close(model) -> Close:
    """Of many images of noise the one whose two candidates for the last query are closest."""
    rng, kept = np.random.default_rng(0), []
    hook = model.decoder.enc_score_head.register_forward_hook(lambda _module, _inputs, out: kept.append(out))
    images = []
    for _ in range(150):
        blocks = rng.integers(0, 255, (6, 6, 3), np.uint8)
        images.append(torch.from_numpy(np.kron(blocks, np.ones((16, 16, 1), np.uint8))).permute(2, 0, 1))
    with torch.no_grad():
        model(torch.stack([network_input(image, (SIDE, SIDE)) for image in images]).float() / 255)
    hook.remove()
    scores, order = kept[0].amax(-1).sort(dim=1, descending=True)
    best = int((scores[:, QUERIES - 1] - scores[:, QUERIES]).argmin())
    found = Close(images[best], order[best], scores[best])
    assert found.margin < LIMITS["fp32"].rounding / 2
    return found


@pytest.fixture(scope="module")
def expected(model, close) -> Prediction:
    return Predictor(model, image_size=SIDE, device="cpu", edges=True)(close.image, score=0.0)[0]


def selecting_otherwise(model: DFINE, close: Close, rank: int) -> Prediction:
    """What the model detects without the token of this rank: the first token that was not selected comes in."""

    def rule_out(_module, _inputs, logits: Tensor) -> Tensor:
        logits = logits.clone()
        logits[:, close.order[rank]] = -torch.inf
        return logits

    hook = model.decoder.enc_score_head.register_forward_hook(rule_out)
    found = Predictor(model, image_size=SIDE, device="cpu", edges=True)(close.image, score=0.0)[0]
    hook.remove()
    return found


def follow(model, close, expected, found, rounding=LIMITS["fp32"].rounding):
    limits = LIMITS["fp32"]._replace(rounding=rounding)
    return Reselection(model, (SIDE, SIDE)).follow(expected, close.image, found, LOWEST, limits)


def test_the_other_candidate_for_the_last_query_is_a_tie_with_its_margin(model, close, expected):
    found = selecting_otherwise(model, close, QUERIES - 1)
    assert compare(expected, found, LOWEST, LIMITS["fp32"])[0], "the other query should show"
    answer, tie = follow(model, close, expected, found)
    assert compare(answer, found, LOWEST, LIMITS["fp32"]) == ([], [])
    assert tie.margin == pytest.approx(close.margin, abs=1e-4) and "last query" in str(tie)


def test_a_margin_beyond_rounding_is_no_tie(model, close, expected):
    found = selecting_otherwise(model, close, QUERIES - 1)
    assert follow(model, close, expected, found, rounding=0.0) is None
    surely_selected = int((close.scores > close.scores[QUERIES] + 2 * LIMITS["fp32"].rounding).sum()) - 1
    assert follow(model, close, expected, selecting_otherwise(model, close, surely_selected)) is None


@pytest.mark.parametrize(("box_px", "score"), [(1.0, 0.0), (0.0, 0.01)])
@pytest.mark.parametrize("place", ["of the highest score", "of the other query"])
def test_beside_a_tie_a_fault_is_still_a_fault(model, close, expected, place, box_px, score):
    found = selecting_otherwise(model, close, QUERIES - 1)
    k = 0
    if place == "of the other query":
        texts = compare(found, expected, LOWEST, LIMITS["fp32"])[0]
        k = next(k for k in range(len(found)) if any(f"{found.scores[k]:.4f} at" in t and "first" in t for t in texts))
    boxes, scores = found.boxes_xyxy.clone(), found.scores.clone()
    boxes[k] += box_px
    scores[k] += score
    assert follow(model, close, expected, replace(found, boxes_xyxy=boxes, scores=scores)) is None


def test_a_file_that_selects_as_the_weights_do_has_no_tie(model, close, expected):
    answer, tie = follow(model, close, expected, expected)
    assert tie is None and compare(answer, expected, LOWEST, LIMITS["fp32"]) == ([], [])


def test_objects_that_score_as_the_last_of_the_top_k_are_ties():
    scores = torch.tensor([0.9, 0.3, 0.3, 0.3])
    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [9.0, 9.0, 20.0, 20.0], [30.0, 0.0, 40.0, 9.0], [50.0, 0.0, 60.0, 9.0]])
    every = Prediction("x", (60, 60), torch.zeros(4, dtype=torch.int64), boxes, scores)
    one, other = (
        replace(every, labels=every.labels[kept], boxes_xyxy=boxes[kept], scores=scores[kept])
        for kept in ([0, 1, 2], [0, 1, 3])
    )
    words, ties = compare(one, other, 0.1, LIMITS["fp32"])
    assert words == [] and len(ties) == 2 and "top-k" in str(ties[0])
    lower = replace(other, scores=other.scores - torch.tensor([0.0, 0.0, 0.05]))
    words, ties = compare(one, lower, 0.1, LIMITS["fp32"])
    assert len(words) == 2 and ties == [], "0.3 was not within rounding of the last, 0.25"


# ---- the whole validation, of files whose query selection was changed ----


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory) -> Path:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    return export_onnx(model, tmp_path_factory.mktemp("ties") / "few.onnx", SIDE)


def pushed_down(file: Path, out: Path, token: int, amount: float, tokens: int) -> Path:
    """A copy of a file whose query selection sees one token's score lower."""
    import onnx

    content = onnx.load(file)
    nodes = content.graph.node
    (place,) = [i for i, node in enumerate(nodes) if node.op_type == "TopK" and "scores" not in node.output][:1]
    change = np.zeros((1, tokens), np.float32)
    change[0, token] = -amount
    content.graph.initializer.append(onnx.numpy_helper.from_array(change, "push"))
    nodes.insert(place, onnx.helper.make_node("Add", [nodes[place].input[0], "push"], ["pushed"]))
    nodes[place + 1].input[0] = "pushed"
    onnx.save(content, out)
    return out


def test_validation_reports_a_tie_with_its_margin_and_passes(model, close, exported, tmp_path):
    file = pushed_down(exported, tmp_path / "tie.onnx", close.order[QUERIES - 1], 2e-3, len(close.order))
    report = validate_export(model, file, images=[close.image], backends=["onnxruntime"])
    assert report.passed, str(report)
    (check,) = [check for check in report.checks if check.name == "onnxruntime: batch 1"]
    assert check.numbers["tied"] == 1 and check.numbers["ties"][0]["margin"] < LIMITS["fp32"].rounding
    assert "1 tie" in str(report) and "apart" in str(report)


def test_validation_fails_a_file_that_selects_a_clearly_lower_token(model, close, exported, tmp_path):
    rank = int((close.scores > close.scores[QUERIES] + 5 * LIMITS["fp32"].rounding).sum()) - 1
    file = pushed_down(exported, tmp_path / "fault.onnx", close.order[rank], 10.0, len(close.order))
    report = validate_export(model, file, images=[close.image], backends=["onnxruntime"])
    assert not report.passed and "alone" in str(report)
