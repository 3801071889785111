"""The whole model: which inputs it takes, and what must not depend on what."""

from __future__ import annotations

import copy
import io
from dataclasses import replace

import pytest
import torch
from published import as_targets, filled
from torch import Tensor
from torch.testing import assert_close

from dfine_lib import DFINE
from dfine_lib.config import SIZES
from dfine_lib.model.distribution import weighting_function
from dfine_lib.model.layers import ConvNorm

TINY = replace(
    SIZES["pico"], encoder_dim=32, encoder_feedforward=64, hidden_dim=32, feedforward=64, num_queries=12, num_classes=5
)


def tiny(**changes: object) -> DFINE:
    """A small model with weights that do something, in training mode."""
    return filled(DFINE(replace(TINY, **changes)))


def images(height: int, width: int, batch: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def size_n() -> DFINE:
    return filled(DFINE.from_recipe("n_coco")).eval()


# ---- inputs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "tokens"), [(192, 144 + 36), (128, 64 + 16), (64, 16 + 4), (32, 4 + 1)])
def test_fewer_tokens_than_queries_gives_as_many_queries_as_tokens(size_n, side, tokens):
    with torch.no_grad():
        output = size_n(images(side, side))
    assert output.pred_logits.shape == (2, tokens, 80)
    assert output.pred_boxes.shape == (2, tokens, 4)
    assert torch.isfinite(output.pred_boxes).all()


def test_training_works_with_fewer_tokens_than_queries():
    model = tiny(num_queries=300)
    output = model(images(64, 64), as_targets([2, 0], 5))
    assert output.pred_logits.shape[1] == 64 + 16 + 4
    output.decoder.logits.sum().backward()


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 160), (224, 32), (96, 352)])
def test_any_multiple_of_32_works_square_or_not(height, width):
    with torch.no_grad():
        output = tiny().eval()(images(height, width))
    assert output.pred_boxes.shape == (2, 12, 4)
    assert torch.isfinite(output.pred_boxes).all()
    assert torch.isfinite(output.pred_logits).all()


def test_an_image_lying_down_is_not_the_image_standing():
    # Rows and columns are not mixed up on the way: features of a wide image lie along its width.
    model = tiny().eval()
    wide = torch.zeros(1, 3, 32, 128)
    wide[..., 96:] = 1.0
    with torch.no_grad():
        finest = model.encoder(model.backbone(wide))[0]
        plain = model.encoder(model.backbone(torch.zeros(1, 3, 32, 128)))[0]
    assert finest.shape[-2:] == (4, 16)
    change = (finest - plain).abs().mean((0, 1, 2))
    assert change[12:].mean() > 2 * change[:8].mean()


@pytest.mark.parametrize("shape", [(2, 3, 100, 64), (2, 3, 64, 100), (2, 1, 64, 64), (3, 64, 64), (2, 3, 16, 32)])
def test_other_shapes_are_refused_with_the_shape_they_have(shape):
    with pytest.raises(ValueError, match=r"multiples of 32, got \(" + ", ".join(map(str, shape))):
        tiny()(torch.zeros(shape))


def test_targets_of_another_number_of_images_are_refused():
    with pytest.raises(ValueError, match="each of the 2 images, got 1"):
        tiny()(images(64, 64), as_targets([3], 5))


# ---- what must not depend on what ------------------------------------------------------------------------------------


def test_an_image_alone_gives_what_it_gives_in_a_batch():
    model, batch = tiny().double().eval(), images(64, 96, batch=3).double()
    with torch.no_grad():
        together = model(batch)
        for i in range(3):
            alone = model(batch[i : i + 1])
            assert_close(alone.pred_logits, together.pred_logits[i : i + 1])
            assert_close(alone.pred_boxes, together.pred_boxes[i : i + 1])


def test_the_order_of_a_batch_does_not_matter():
    model, batch = tiny().double().eval(), images(64, 64, batch=3).double()
    with torch.no_grad():
        assert_close(model(batch.flip(0)).pred_boxes, model(batch).pred_boxes.flip(0))


def test_one_model_takes_images_of_many_sizes_one_after_the_other():
    model = tiny().eval()
    with torch.no_grad():
        first = model(images(64, 96)).pred_boxes
        model(images(96, 64))
        assert torch.equal(model(images(64, 96)).pred_boxes, first)


def test_training_works_right_after_an_evaluation_under_inference_mode():
    model = tiny()
    with torch.inference_mode():
        model.eval()(images(64, 64))
    output = model.train()(images(64, 64), as_targets([2, 1], 5))
    (output.decoder.boxes_cxcywh.sum() + output.encoder.boxes_cxcywh.sum()).backward()
    assert not output.pred_boxes.is_inference()


def test_weights_can_be_loaded_and_trained_after_loading_under_inference_mode():
    model = tiny()
    with torch.inference_mode():
        model.load_state_dict(model.state_dict())
    model(images(64, 64), as_targets([2, 1], 5)).decoder.boxes_cxcywh.sum().backward()


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_all_layers_are_given_back_in_eval_mode_on_request():
    model = tiny().eval()
    with torch.no_grad():
        usual, kept = model(images(64, 64)), model(images(64, 64), keep_layers=True)
    assert usual.decoder is None
    assert usual.encoder is None
    assert usual.layers == ()
    assert len(kept.layers) == 3
    assert kept.layers[0].corner_logits.shape == (2, 12, 4, 33)
    assert kept.encoder.boxes_cxcywh.shape == (2, 12, 4)
    assert kept.decoder.initial.boxes_cxcywh.shape == (2, 12, 4)
    for boxes in (kept.pred_boxes, usual.pred_boxes):
        assert torch.equal(kept.layers[-1].boxes_cxcywh, boxes)
    for logits in (kept.pred_logits, usual.pred_logits):
        assert torch.equal(kept.layers[-1].logits, logits)


def test_boxes_and_encoder_boxes_lie_in_the_image_at_the_start():
    with torch.no_grad():
        output = DFINE(TINY)(images(64, 64), as_targets([1, 2], 5))
    for boxes in (output.encoder.boxes_cxcywh, output.decoder.initial.boxes_cxcywh, output.decoder.boxes_cxcywh):
        assert ((boxes >= 0) & (boxes <= 1)).all()


def test_a_fresh_model_gives_every_class_one_in_a_hundred():
    with torch.no_grad():
        model = DFINE(TINY).eval()
        for head in (model.decoder.enc_score_head, *model.decoder.dec_score_head):
            head.weight.zero_()
        output = model(images(64, 64), keep_layers=True)
    assert_close(output.decoder.logits.sigmoid(), torch.full((3, 2, 12, 5), 0.01))


# ---- copies ----------------------------------------------------------------------------------------------------------


def test_a_deep_copy_answers_the_same_and_stands_on_its_own():
    model = tiny().eval()
    with torch.no_grad():
        before = model(images(64, 64)).pred_boxes
        twin = copy.deepcopy(model)
        assert torch.equal(twin(images(64, 64)).pred_boxes, before)
        assert twin.decoder.decoder.up is twin.decoder.up
        state = twin.state_dict()
        for prefix in ("decoder.", "decoder.decoder."):
            state[f"{prefix}reg_scale"] = torch.tensor([8.0])
        twin.load_state_dict(state)
        assert torch.equal(twin.decoder.bin_offsets, weighting_function(32, 0.5, 8.0))
        assert torch.equal(model.decoder.bin_offsets, weighting_function(32, 0.5, 4.0))
        assert torch.equal(model(images(64, 64)).pred_boxes, before)


def test_a_deep_copy_can_be_made_after_a_training_step():
    model = tiny()
    model(images(64, 64), as_targets([1, 2], 5)).decoder.logits.sum().backward()
    copy.deepcopy(model)


def test_a_whole_model_goes_through_a_file():
    model, file = tiny().eval(), io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    twin = torch.load(file, weights_only=False)
    scales = {f"{prefix}reg_scale": torch.tensor([8.0]) for prefix in ("decoder.", "decoder.decoder.")}
    twin.load_state_dict(twin.state_dict() | scales)
    assert torch.equal(twin.decoder.bin_offsets, weighting_function(32, 0.5, 8.0))  # W still follows what is loaded
    assert torch.equal(model.decoder.bin_offsets, weighting_function(32, 0.5, 4.0))


@pytest.mark.slow
def test_torch_exports_the_plain_model_for_any_batch():
    class Answers(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = tiny(num_decoder_layers=1).eval()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            output = self.model(x)
            return output.pred_logits, output.pred_boxes

    plain = Answers()
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(plain, (images(64, 96),), dynamic_shapes={"x": {0: batch}}).module()
    for number in (1, 3):
        assert_close(program(images(64, 96, number)), plain(images(64, 96, number)))


def test_a_model_without_boxes_in_its_batch_still_trains():
    model = tiny()
    output = model(images(64, 64), as_targets([0, 0], 5))
    assert output.denoising is None
    (output.decoder.logits.sum() + output.encoder.boxes_cxcywh.sum()).backward()


@pytest.mark.parametrize("norms_train", [True, False])
def test_one_image_has_the_same_gradients_in_both_memory_layouts(norms_train):
    """torch's batch norm on CPUs can take one channels_last map with an odd batch stride for another (`as_tokens`)."""
    gradients = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model = tiny(num_denoising=0).double().train()
        torch.manual_seed(0)
        model.decoder.input_proj[2] = ConvNorm(32, 32, 1).double()  # as in size x: no activation behind the norm
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.train(norms_train)
        outputs = model.to(memory_format=layout)(images(64, 96, 1).double().contiguous(memory_format=layout))
        (outputs.encoder.logits.square().sum() + outputs.pred_logits.square().sum()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert any("backbone" in name for name in gradients[0])
    assert_close(gradients[1], gradients[0], rtol=1e-6, atol=1e-8)
