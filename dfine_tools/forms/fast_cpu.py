"""Training on CPUs with fewer passes over memory: the plain model's numbers, up to floating-point error.

Time of a training step compared with the plain model, on one thread: size n at 640 px 0.71, s at 640 px 0.93, n at
320 px 0.88 to 0.98, pico at 160 px 0.98 to 1.02. It is put on for every training on a CPU: it costs nothing where it
gains nothing, and runs recorded with it repeat to the bit.

`put_on` replaces the forward method of a few modules, instance by instance; the state dict stays. In evaluation, under
autocast, and wherever `by_hand` says so, the modules compute as the plain model does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfine_lib.model.decoder import DFINEDecoder, make_anchors, pick
from dfine_lib.model.deformable_attention import DeformableAttention
from dfine_lib.model.hgnetv2 import ConvBlock, LearnableAffine, Stem
from dfine_lib.model.hybrid_encoder import FusionBlock
from dfine_lib.model.layers import FrozenBatchNorm2d, SelfAttention
from dfine_lib.model.outputs import LayerOutput
from dfine_tools.forms.autograd import (
    batch_norm,
    by_hand,
    dense_gradient,
    max_of_four,
    memory_format,
    norm_relu_affine,
    pad_end,
)


def put_on(model: nn.Module) -> None:
    """Let a model, or a part of one, train by the operations of this file; its copies do too."""
    for module in model.modules():
        for name, function in _REPLACED.get(type(module), {}).items():
            setattr(module, name, functools.partial(function, module))


def _norm(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    return batch_norm(x, norm) if by_hand(x, norm.training) else nn.BatchNorm2d.forward(norm, x)


def _conv_block(block: ConvBlock, x: Tensor) -> Tensor:
    if block.training and isinstance(block.bn, FrozenBatchNorm2d):
        # Scaling the kernel instead of the feature map spares passes over the feature map.
        scale, shift = block.bn.scale_shift()
        conv = block.conv
        x = F.conv2d(x, conv.weight * scale.view(-1, 1, 1, 1), shift, conv.stride, conv.padding, groups=conv.groups)
    else:
        x = block.conv(x)
        norm_trains = type(block.bn) is nn.BatchNorm2d and by_hand(x, block.bn.training)
        if norm_trains and isinstance(block.lab, LearnableAffine):
            return norm_relu_affine(x, block.bn, block.lab.scale, block.lab.bias)
        x = block.bn(x)
    return block.lab(F.relu(x, inplace=block.training)) if block.activate else x


def _stem(stem: Stem, images: Tensor) -> Tensor:
    x = pad_end(stem.stem1(images), stem.training)
    pooled = max_of_four(x, stem.training)
    convolved = stem.stem2b(pad_end(stem.stem2a(x), stem.training))
    return stem.stem4(stem.stem3(torch.cat([pooled, convolved], dim=1)))


def _fusion_block(block: FusionBlock, x: Tensor) -> Tensor:
    passed, half = block.cv1(x).chunk(2, dim=1)
    half = half.contiguous(memory_format=memory_format(half))  # once, not in each of the convolutions that read it
    first = block.cv2(half)
    return block.cv4(torch.cat([dense_gradient(passed), half, first, block.cv3(first)], dim=1))


def _upsample(upsample: nn.Upsample, x: Tensor) -> Tensor:
    return dense_gradient(nn.Upsample.forward(upsample, x))


def _self_attention(attention: SelfAttention, x: Tensor, position: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """Matching queries attend to each other only: their part of the attention needs no mask and fewer products."""
    if attn_mask is None or not by_hand(x, attention.training):
        return SelfAttention.forward(attention, x, position, attn_mask)
    query, key, value = attention.query_key_value(x, position)
    first = int((~attn_mask[-1]).sum())  # denoising queries, which stand first: those that the last query must not see
    attend = F.scaled_dot_product_attention
    parts = (
        attend(query[:, :, :first], key, value, attn_mask=attn_mask[:first]),
        attend(query[:, :, first:], key[:, :, first:], value[:, :, first:]),
    )
    attended = torch.cat([part.transpose(1, 2) for part in parts], dim=1)
    return attention.out_proj(attended.reshape(x.shape))


def _select_queries(
    decoder: DFINEDecoder, memory: Tensor, shapes: list[tuple[int, int]]
) -> tuple[Tensor, Tensor, LayerOutput]:
    """Choose without gradients, then compute the chosen tokens once more with gradients: the others' would be 0."""
    if not by_hand(memory, decoder.training):
        return DFINEDecoder.select_queries(decoder, memory, shapes)
    anchors, valid = make_anchors(shapes, device=memory.device)
    with torch.no_grad():
        scores = decoder.enc_score_head(decoder.enc_output(memory * valid)).amax(-1)
    chosen = scores.topk(min(decoder.config.num_queries, memory.shape[1]), dim=1).indices
    anchors, valid = (x.expand(memory.shape[0], -1, -1) for x in (anchors, valid))
    content = decoder.enc_output(pick(memory, chosen) * pick(valid, chosen))
    reference = decoder.enc_bbox_head(content) + pick(anchors, chosen)
    encoder = LayerOutput(decoder.enc_score_head(content), reference.sigmoid())
    return content.detach(), reference.detach(), encoder


def _split_images(decoder: DFINEDecoder, maps: list[Tensor]) -> list[Tensor] | list[tuple[Tensor, ...]]:
    """Image by image, `[heads, D / heads, h, w]` each, as views: a change of layout costs more than a few calls."""
    if not by_hand(maps[0], decoder.training):
        return DFINEDecoder.split_heads(decoder, maps)
    heads, levels = decoder.config.num_heads, []
    for x in maps:
        if memory_format(x) == torch.channels_last:  # so that gradients arrive in the layout of the feature map
            images = [image.permute(2, 0, 1) for image in x.permute(0, 2, 3, 1).unbind()]
        else:
            images = x.unbind()
        levels.append(tuple(image.unflatten(0, (heads, -1)) for image in images))
    return levels


def _sample(attention: DeformableAttention, level: Tensor | tuple[Tensor, ...], grid: Tensor) -> Tensor:
    if not isinstance(level, tuple):
        return DeformableAttention.sample(level, grid)
    grids = grid.split(len(level[0]))
    return torch.cat([DeformableAttention.sample(image, own) for image, own in zip(level, grids, strict=True)])


_REPLACED: dict[type[nn.Module], dict[str, Callable[..., Any]]] = {
    nn.BatchNorm2d: {"forward": _norm},
    ConvBlock: {"forward": _conv_block},
    Stem: {"forward": _stem},
    FusionBlock: {"forward": _fusion_block},
    nn.Upsample: {"forward": _upsample},
    SelfAttention: {"forward": _self_attention},
    DeformableAttention: {"sample": _sample},
    DFINEDecoder: {"select_queries": _select_queries, "split_heads": _split_images},
}
