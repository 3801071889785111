"""Torch: the graph that is exported, or, where edges are asked for, the model as it was trained."""

from __future__ import annotations

import copy
import logging

import numpy as np
import torch
from torch import Tensor

from dfine_lib.config import TrainConfig, parse_hw
from dfine_lib.device import pick_device, set_backends
from dfine_lib.evaluate.postprocess import Detections, postprocess
from dfine_lib.model.dfine import DFINE, open_model
from dfine_lib.model.outputs import DFINEOutput
from dfine_tools.deploy.backends.backend import PUBLISHED_HW, Backend, EdgeDistributions
from dfine_tools.deploy.backends.exported import raw_detections
from dfine_tools.deploy.graph import RawDetector, graph_form
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
    distributions = edges and not model.config.direct_regression
    if edges and not distributions:
        log.warning("%s: regresses boxes directly, so there are no edge distributions", path or "the model")
    running = copy.deepcopy(model).eval().requires_grad_(False) if edges else RawDetector(graph_form(model, image_hw))
    running.to(where, memory_format=torch.channels_last)
    gpu = where.type == "cuda"

    @torch.inference_mode()
    def answer(images: np.ndarray, sizes: np.ndarray):
        pixels = torch.from_numpy(images)
        if gpu:  # bytes travel, and become floats there
            pixels = pixels.pin_memory().to(where, non_blocking=True)
            pixels = pixels.to(torch.float32).div_(255) if pixels.dtype == torch.uint8 else pixels
        pixels = pixels.to(where, memory_format=torch.channels_last)
        sizes_wh = torch.from_numpy(sizes).to(where)
        if not edges:
            return raw_detections(*running(pixels), sizes_wh, top_k), None
        outputs = running(pixels, keep_layers=True)
        found = postprocess(outputs, sizes_wh, top_k)
        return found, _edges_of(outputs, found, sizes_wh) if distributions else None

    return Backend("torch", path, image_hw, tuple(names), tuple(ids), None, str(where), answer, takes_bytes=gpu)


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
