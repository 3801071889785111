"""Backbone, encoder and decoder of a model in deploy mode, written for exporters and runtimes.

A runtime pays for every node and for every map that is copied. Here constants are folded further than torch needs,
tokens and queries of all images are rows of one matrix (a linear layer is one node then), and every shape but the batch
is a constant.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfine_lib.boxes import box_xyxy_to_cxcywh
from dfine_lib.config import ModelConfig
from dfine_lib.model.dfine import DFINE
from dfine_lib.model.hgnetv2 import Stem
from dfine_tools.deploy.deployed import ClampedConv, convolution_like, deploy_mode
from dfine_tools.deploy.graph.decoder import GraphDecoder
from dfine_tools.deploy.graph.encoder import GraphEncoder


class GraphModel(nn.Module):
    """Images `[B, 3, H, W]` to logits `[B * Q, C]` and boxes `[B * Q, 4]`, the queries of an image consecutive."""

    def __init__(self, model: DFINE, image_hw: tuple[int, int] | None) -> None:
        super().__init__()
        self.config: ModelConfig = model.config
        self.backbone = model.backbone
        self.backbone.stem = GraphStem(model.backbone.stem)
        strides = model.config.feat_strides
        shapes = image_hw and [(image_hw[0] // stride, image_hw[1] // stride) for stride in strides]
        self.encoder = GraphEncoder(model.encoder, shapes)
        self.decoder = GraphDecoder(model.decoder, shapes)

    @property
    def num_queries(self) -> int:
        """Q: as configured, or as many as an image has tokens."""
        return self.decoder.num_queries

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `[B * Q, C]` and boxes xyxy `[B * Q, 4]` in 0..1 of the image."""
        return self.decoder(self.encoder(self.backbone(images)))


class RawDetector(nn.Module):
    """The graph's outputs by image: logits `[B, Q, C]` and boxes cxcywh `[B, Q, 4]` in 0..1."""

    def __init__(self, model: GraphModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Of `[B, 3, H, W]`."""
        logits, boxes = self.model(images)
        num_queries = self.model.num_queries
        return logits.reshape(-1, num_queries, logits.shape[1]), box_xyxy_to_cxcywh(boxes).reshape(-1, num_queries, 4)


class GraphStem(nn.Module):
    """A `Stem` whose pooling is one node, and whose two branches are added up by convolutions, not concatenated.

    These maps are the largest of all. A convolution of two maps side by side is the sum of a convolution of each.
    """

    def __init__(self, stem: Stem) -> None:
        super().__init__()
        self.stem1, self.stem2a, self.stem2b, self.stem4 = stem.stem1, stem.stem2a, stem.stem2b, stem.stem4
        # The model pads by zeros and then takes the largest. Where nothing is below 0, zeros never win over what is
        # there, and padding by -inf, which a pooling node does by itself, is the same.
        self.padding = -torch.inf if not isinstance(stem.stem1, ClampedConv) or stem.stem1.low >= 0 else 0.0
        self.from_pooled, self.from_convolved = _by_input(stem.stem3.conv)
        self.joined = stem.stem3  # what it does behind its convolution
        self.joined.conv = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        x, after = self.stem1(images), (0, 1, 0, 1)
        pooled = F.max_pool2d(F.pad(x, after, value=self.padding), 2, 1)
        convolved = self.stem2b(F.pad(self.stem2a(F.pad(x, after)), after))
        return self.stem4(self.joined(self.from_pooled(pooled) + self.from_convolved(convolved)))


def _by_input(conv: nn.Conv2d) -> list[nn.Conv2d]:
    """Two convolutions, of the first and the last half of the input's channels, whose sum is the one given."""
    return [
        convolution_like(conv, weight, conv.bias if i == 0 else None)
        for i, weight in enumerate(conv.weight.chunk(2, dim=1))
    ]


def graph_form(model: DFINE, image_hw: tuple[int, int] | None) -> GraphModel:
    """A model as the graph that is exported.

    Args:
        model: any D-FINE; left as it is.
        image_hw: the one height and width of images, in pixels; None: any, and what depends on them is computed.
    """
    with torch.inference_mode(False), torch.no_grad():
        return GraphModel(deploy_mode(model), image_hw).eval().requires_grad_(False)
