"""The file that the authors' exporter gives for one of our models, and weights that suit a comparison."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.peers.authors import Authors
from dfine_lib.model.dfine import DFINE
from dfine_lib.model.hgnetv2 import LearnableAffine
from dfine_lib.model.layers import FrozenBatchNorm2d

OPSET = 16  # of their export_onnx.py
TOP_K = 300


class _Together(nn.Module):
    """Their model and their post-processing, as their script joins them."""

    def __init__(self, model: nn.Module, postprocessor: nn.Module) -> None:
        super().__init__()
        self.model, self.postprocessor = model, postprocessor

    def forward(self, images: Tensor, orig_target_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.postprocessor(self.model(images), orig_target_sizes)


def authors_onnx(peer: Authors, ours: DFINE, image_size: int, path: Path) -> Path:
    """Export as their `tools/deployment/export_onnx.py` does, before its onnxsim, which it tries and may skip.

    `deploy()` of model and post-processing, the tracing exporter, opset 16, constants folded, any batch.
    """
    model = peer.model(ours, image_size).eval()
    model.deploy()
    head = peer._module("zoo.dfine.postprocessor").DFINEPostProcessor(
        num_classes=ours.config.num_classes, num_top_queries=TOP_K
    )
    together = _Together(model, head.deploy()).eval()
    images, sizes = torch.rand(2, 3, image_size, image_size), torch.tensor([[image_size, image_size]] * 2)
    axes = {"images": {0: "N"}, "orig_target_sizes": {0: "N"}}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        together(images, sizes)
        torch.onnx.export(
            together, (images, sizes), path, input_names=list(axes), output_names=["labels", "boxes", "scores"],
            dynamic_axes=axes, opset_version=OPSET, do_constant_folding=True, dynamo=False, verbose=False,
        )  # fmt: skip
    return path


def as_if_trained(model: DFINE, images: Tensor, seed: int = 0) -> DFINE:
    """Fresh weights made like trained ones: norms that fit images, affines that are not 1 and 0.

    Without it maps shrink or grow from layer to layer, and denormal or huge numbers decide how fast a runtime is.
    """
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, LearnableAffine):
            nn.init.uniform_(module.scale, 0.7, 1.4), nn.init.uniform_(module.bias, -0.2, 0.2)

    def fit(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
        norm.running_var.copy_(inputs[0].var((0, 2, 3)) + 1e-3)

    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(fit) for norm in norms]
    with torch.no_grad():
        model.eval()(images)
    for hook in hooks:
        hook.remove()
    return model
