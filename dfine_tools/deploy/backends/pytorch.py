"""Torch: the graph that is exported, or, where edges are asked for, the model as it was trained."""

from __future__ import annotations

import copy
import logging
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dfine_lib.boxes import box_xyxy_to_cxcywh
from dfine_lib.config import TrainConfig, parse_hw
from dfine_lib.device import pick_device, set_backends
from dfine_lib.evaluate.postprocess import Detections, postprocess
from dfine_lib.model.dfine import DFINE, open_model
from dfine_lib.model.outputs import DFINEOutput
from dfine_tools.deploy.backends.backend import PUBLISHED_HW, Backend, EdgeDistributions
from dfine_tools.deploy.graph import GraphModel, graph_form
from dfine_tools.weights.sources import read

log = logging.getLogger(__name__)


def open_torch(source, device, image_size, class_names, top_k, edges) -> Backend:
    """Weights or a model; the arguments are those of `open_backend`."""
    where = pick_device(device)
    set_backends(TrainConfig().matmul_precision, where)  # as the model was trained and evaluated
    if isinstance(source, DFINE):
        model, path, names, ids, own_hw = source, None, tuple(class_names), (), None
    else:
        model, weights = open_model(read(source))
        path, names, ids = weights.path, weights.category_names or tuple(class_names), weights.category_ids
        own_hw = weights.data.image_hw if weights.data else None
        if not names:
            remedy = {"remedy": "name_rows", "values": {"path": path}}
            log.info("%s: names no classes; labels are the numbers of its class rows", path, extra=remedy)
    image_hw = parse_hw(image_size) if image_size is not None else own_hw or PUBLISHED_HW
    running = copy.deepcopy(model).eval().requires_grad_(False) if edges else FixedSides(graph_form(model, image_hw))
    running.to(where, memory_format=torch.channels_last)

    @torch.inference_mode()
    def answer(images: np.ndarray, sizes: np.ndarray):
        pixels = torch.from_numpy(images).to(where, memory_format=torch.channels_last)
        sizes_wh = torch.from_numpy(sizes).to(where)
        outputs = running(pixels, keep_layers=True) if edges else running(pixels)
        found = postprocess(outputs, sizes_wh, top_k)
        about_edges = _edges_of(outputs, found, sizes_wh) if edges else None
        return [one.to("cpu") for one in found], about_edges

    return Backend("torch", path, image_hw, tuple(names), tuple(ids), None, str(where), answer)


class Answer(NamedTuple):
    """What a model says of a batch."""

    pred_logits: Tensor  # [B, Q, C]
    pred_boxes: Tensor  # [B, Q, 4] cxcywh, 0..1


class FixedSides(nn.Module):
    """A graph whose images all have its height and width; in torch, too, fewer operations take less time."""

    def __init__(self, graph: GraphModel) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, images: Tensor) -> Answer:
        """Of `[B, 3, H, W]`."""
        logits, boxes_xyxy = self.graph(images)
        in_rows = (images.shape[0], self.graph.num_queries, -1)
        return Answer(logits.reshape(in_rows), box_xyxy_to_cxcywh(boxes_xyxy).reshape(in_rows))


def _edges_of(outputs: DFINEOutput, found: list[Detections], sizes_wh: Tensor) -> list[EdgeDistributions]:
    """The last layer's distributions of the queries that detections came from."""
    offsets = outputs.bin_offsets.float()  # [N + 1]
    probabilities = outputs.layers[-1].corner_logits.float().softmax(-1)
    centre, size = outputs.decoder.initial.boxes_cxcywh.float().split(2, dim=-1)  # [B, Q, 2] each
    reach = (0.5 + offsets) * size[..., None]  # [B, Q, 2, N + 1]
    positions = torch.cat([centre[..., None] - reach, centre[..., None] + reach], dim=2)  # [B, Q, 4, N + 1]
    positions = positions * sizes_wh.to(positions).repeat(1, 2)[:, None, :, None]
    return [
        EdgeDistributions(probabilities[i][one.queries].cpu(), positions[i][one.queries].cpu())
        for i, one in enumerate(found)
    ]
