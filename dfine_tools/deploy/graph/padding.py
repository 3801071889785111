"""Padding in ONNX: a node of its own, or an attribute of the convolution or pooling that reads it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def join_padding(model: Any) -> Any:
    """Let convolutions pad by zeros and poolings by -inf themselves, where a `Pad` node did so for them.

    Args:
        model: `onnx.ModelProto`; changed in place.

    Returns:
        The same model.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    pads = {node.output[0]: node for node in graph.node if node.op_type == "Pad"}
    filler = {"Conv": 0.0, "MaxPool": -math.inf}
    for node in graph.node:
        pad = pads.get(node.input[0]) if node.op_type in filler else None
        if pad is None or any(a.name == "mode" and a.s != b"constant" for a in pad.attribute) or len(pad.input) > 3:
            continue
        value = constants.get(pad.input[2]) if len(pad.input) > 2 and pad.input[2] else np.float32(0.0)
        amounts = constants.get(pad.input[1])
        if value is None or amounts is None or float(value) != filler[node.op_type]:
            continue
        begin, end = np.split(amounts.astype(int), 2)
        own = {attribute.name: attribute for attribute in node.attribute}
        if begin[:2].any() or end[:2].any() or ("auto_pad" in own and own["auto_pad"].s not in (b"NOTSET", b"")):
            continue
        before = np.array(own["pads"].ints if "pads" in own else [0] * (2 * (len(begin) - 2)))
        if "pads" in own:
            node.attribute.remove(own["pads"])
        node.attribute.append(helper.make_attribute("pads", (before + [*begin[2:], *end[2:]]).tolist()))
        node.input[0] = pad.input[0]
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    kept = [node for node in graph.node if node.op_type != "Pad" or node.output[0] in used]
    del graph.node[:]
    graph.node.extend(kept)
    return model
