"""torch.compile: few shapes, the same results, and a failure that costs nothing but a warning."""

from __future__ import annotations

import copy
import itertools
import logging
import weakref
from dataclasses import replace

import pytest
import torch
from published import as_targets, filled
from torch import nn
from torch.testing import assert_close

from dfine_lib import DFINE
from dfine_lib.config import SIZES
from dfine_lib.criterion import build_criterion
from dfine_tools.forms.compilation import compile_model, is_compiled

TINY = replace(
    SIZES["pico"], encoder_dim=32, encoder_feedforward=32, hidden_dim=32, feedforward=32, num_queries=10,
    num_denoising=4, num_classes=3, num_decoder_layers=2,
)  # fmt: skip


def tiny() -> DFINE:
    return filled(DFINE(TINY), 1).train()


def pictures(side: int = 64, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(side))


def with_compiled_decoder(backend: object = "eager") -> DFINE:
    """The part whose shapes follow the boxes; tracing the others takes seconds each time."""
    model = tiny()
    compile_model(model, backend=backend)
    del model.backbone.forward, model.encoder.forward
    return model


def gradients(model: DFINE, counts: list[int]) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """Losses and gradients of one pass on that many boxes an image."""
    targets = as_targets(counts, 3)
    torch.manual_seed(0)  # denoising
    model.zero_grad()
    losses = build_criterion("pico")(model(pictures(), targets), targets)
    sum(losses.values()).backward()
    return losses, [torch.zeros(1) if p.grad is None else p.grad.clone() for p in model.parameters()]


def agree(actual: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    """Up to rounding: padded denoising queries change the order of sums."""
    actual, expected = (torch.cat([g.flatten() for g in each]) for each in (actual, expected))
    return bool((actual - expected).norm() < 1e-5 * expected.norm())


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_compiled_and_padded_a_step_has_the_same_losses_and_gradients():
    plain, compiled = tiny(), with_compiled_decoder()
    for counts in ([1, 2], [5, 0]):  # 8 and 10 denoising queries, padded to 8 and 16
        losses, expected = gradients(plain, counts)
        found, actual = gradients(compiled, counts)
        assert_close(found, losses, rtol=1e-5, atol=1e-6)
        assert agree(actual, expected)
    assert is_compiled(compiled) and not is_compiled(plain)
    assert compiled.state_dict().keys() == plain.state_dict().keys()


def test_other_numbers_of_boxes_and_sizes_that_were_seen_compile_nothing_anew():
    model = with_compiled_decoder()
    for side in (64, 96):
        model(pictures(side), as_targets([1, 2], 3))
    model(pictures(), as_targets([0, 0], 3))
    with torch.compiler.set_stance("fail_on_recompile"):
        for side in (96, 64):
            for counts in ([2, 2], [1, 0], [4, 3], [3, 1]):
                model(pictures(side), as_targets(counts, 3))
        model(pictures(), as_targets([0, 0], 3))
        assert is_compiled(model)
        model(pictures(128), as_targets([1, 2], 3))  # the check can fail: a size that was not seen
        assert not is_compiled(model)


def test_a_copy_is_compiled_and_runs_with_its_own_weights():
    model = tiny().eval()
    compile_model(model, backend="eager")
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.decoder.enc_score_head.bias.add_(1.0)
        twin.backbone.stem.stem1.conv.weight.mul_(2.0)
        before = model(pictures()).pred_logits
        plain = tiny().eval()
        assert_close(before, plain(pictures()).pred_logits)
        plain.load_state_dict(twin.state_dict())
        assert_close(twin(pictures()).pred_logits, plain(pictures()).pred_logits)
    assert is_compiled(twin) and twin.decoder.refine.args[0] is twin.decoder


def broken_backend(graph, inputs):
    raise OSError("no C++ compiler")


def broken_backward(graph, inputs):
    """A backend whose forward pass works and whose backward pass does not compile."""
    from torch._dynamo.backends.common import aot_autograd

    return aot_autograd(fw_compiler=lambda g, _: g, bw_compiler=broken_backend)(graph, inputs)


@pytest.mark.parametrize("backend", [broken_backend, broken_backward])
def test_where_compiling_fails_one_warning_says_why_and_the_step_is_taken_without(backend, caplog):
    plain, model = tiny(), with_compiled_decoder(backend)
    with caplog.at_level(logging.WARNING, logger="dfine_tools"):
        for counts in ([1, 2], [3, 1]):
            _, expected = gradients(plain, counts)
            _, actual = gradients(model, counts)
            assert agree(actual, expected)
    (record,) = [r for r in caplog.records if r.name.startswith("dfine_tools")]
    assert "torch.compile failed (no C++ compiler)" in record.message
    assert not is_compiled(model) and "refine" not in vars(model.decoder)


def failing(error: Exception, calls: range):
    """A backend whose compiled graphs run, and then raise an error in those of their calls that are named."""
    count = itertools.count()

    def backend(graph, inputs):
        def run(*arguments):
            result = graph(*arguments)
            if next(count) in calls:
                raise error
            return result

        return run

    return backend


def only_backbone(backend: object) -> DFINE:
    model = tiny()
    compile_model(model, backend=backend)
    del model.encoder.forward, model.decoder.refine
    return model


def test_running_statistics_move_once_where_a_graph_fails_after_it_has_moved_them(caplog):
    plain, model = tiny(), only_backbone(failing(RuntimeError("a kernel failed"), range(1)))
    for _ in range(2):
        expected, actual = plain(pictures()), model(pictures())
        assert_close(actual.pred_logits, expected.pred_logits)
    assert not is_compiled(model) and "a kernel failed" in caplog.text
    for (name, buffer), (_, other) in zip(plain.named_buffers(), model.named_buffers(), strict=True):
        assert_close(other, buffer, msg=name)


def test_an_error_of_what_has_run_before_is_none_of_the_compiler(caplog):
    model = only_backbone(failing(RuntimeError("a device was lost"), range(1, 9)))
    model(pictures())
    with pytest.raises(RuntimeError, match="a device was lost"):
        model(pictures())
    assert is_compiled(model) and "torch.compile" not in caplog.text


def test_memory_that_ran_out_is_raised_as_it_is(caplog):
    model = only_backbone(failing(torch.cuda.OutOfMemoryError("out of memory"), range(1)))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        model(pictures())
    assert is_compiled(model) and "torch.compile" not in caplog.text


def test_memory_that_ran_out_while_compiling_is_raised_as_it_is():
    """The compiler wraps what its backend raises; whoever catches an OutOfMemoryError would miss it."""

    def out_of_memory(graph, inputs):
        raise torch.cuda.OutOfMemoryError("out of memory")

    model = only_backbone(out_of_memory)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        model(pictures())
    assert is_compiled(model)


def test_nothing_of_a_failed_call_is_held_while_it_is_made_again(monkeypatch):
    """Its activations and those of the second call would not fit a GPU together."""
    made: list[weakref.ref] = []

    def backend(graph, inputs):
        def run(*arguments):
            result = graph(*arguments)
            made.append(weakref.ref(result[0]))
            raise RuntimeError("a kernel failed")

        return run

    model = only_backbone(backend)
    plain = type(model.backbone).forward

    def forward(*arguments):
        assert made and all(one() is None for one in made)
        made.clear()
        return plain(*arguments)

    monkeypatch.setattr(type(model.backbone), "forward", forward)
    model(pictures())
    assert not made and not is_compiled(model)


def test_nothing_is_run_twice_where_processes_exchange_statistics(caplog):
    model = nn.SyncBatchNorm.convert_sync_batchnorm(tiny())
    compile_model(model, backend=broken_backend)
    with pytest.raises(Exception, match=r"no C\+\+ compiler"):
        model(pictures())
    assert "this goes on" not in caplog.text


def test_a_python_that_torch_cannot_compile_is_told_at_once(monkeypatch, caplog):
    def refuse(*_, **__):
        raise RuntimeError("torch.compile is not supported on Python 3.99+")

    monkeypatch.setattr(torch, "compile", refuse)
    model = tiny()
    compile_model(model)
    assert not is_compiled(model) and "Python 3.99" in caplog.text
    model(pictures(), as_targets([1, 2], 3))


def test_what_fails_either_way_is_raised_as_it_is_and_not_laid_on_the_compiler(caplog):
    model = tiny()
    compile_model(model, backend="eager")
    with pytest.raises(ValueError, match="multiples of 32"):
        model(torch.rand(1, 3, 65, 64))
    assert not [r for r in caplog.records if r.name.startswith("dfine_tools")]
