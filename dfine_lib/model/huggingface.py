"""Weights and configuration as Hugging Face's port keeps them, in both directions (`DFineForObjectDetection`).

A folder of theirs holds `config.json`, `model.safetensors` and `preprocessor_config.json`. The names below are those of
the file; `transformers` renames some again while it loads. `transformers` itself is not needed here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from dfine_lib.config import DataConfig, ModelConfig
from dfine_lib.files import write_atomically
from dfine_lib.model.hgnetv2 import ARCHITECTURES

# Beginnings of names, ours and theirs; # is a number, the same on both sides.
_BEGINNINGS = (
    ("backbone.stem.", "model.backbone.model.embedder."),
    ("backbone.stages.", "model.backbone.model.encoder.stages."),
    ("encoder.input_proj.#.conv.", "model.encoder_input_proj.#.0."),
    ("encoder.input_proj.#.norm.", "model.encoder_input_proj.#.1."),
    *(
        (f"encoder.{way}_blocks.#.{own}.", f"model.encoder.{way}_blocks.#.{theirs}.")
        for way in ("fpn", "pan")
        for own, theirs in (
            ("cv1", "conv1"), ("cv2.0", "csp_rep1"), ("cv2.1", "conv2"),
            ("cv3.0", "csp_rep2"), ("cv3.1", "conv3"), ("cv4", "conv4"),
        )
    ),
    ("encoder.downsample_convs.#.0.cv#.", "model.encoder.downsample_convs.#.conv#."),
    ("encoder.encoder.#.layers.#.norm1.", "model.encoder.encoder.#.layers.#.self_attn_layer_norm."),
    ("encoder.encoder.#.layers.#.norm2.", "model.encoder.encoder.#.layers.#.final_layer_norm."),
    ("encoder.encoder.#.layers.#.linear#.", "model.encoder.encoder.#.layers.#.fc#."),
    ("encoder.", "model.encoder."),
    ("decoder.input_proj.#.conv.", "model.decoder_input_proj.#.0."),
    ("decoder.input_proj.#.norm.", "model.decoder_input_proj.#.1."),
    ("decoder.enc_output.proj.", "model.enc_output.0."),
    ("decoder.enc_output.norm.", "model.enc_output.1."),
    ("decoder.enc_score_head.", "model.enc_score_head."),
    ("decoder.enc_bbox_head.", "model.enc_bbox_head."),
    ("decoder.denoising_class_embed.", "model.denoising_class_embed."),
    ("decoder.decoder.layers.#.norm1.", "model.decoder.layers.#.self_attn_layer_norm."),
    ("decoder.decoder.layers.#.norm3.", "model.decoder.layers.#.final_layer_norm."),
    ("decoder.decoder.layers.#.linear#.", "model.decoder.layers.#.fc#."),
    ("decoder.decoder.layers.#.cross_attn.", "model.decoder.layers.#.encoder_attn."),
    ("decoder.decoder.layers.", "model.decoder.layers."),
    ("decoder.decoder.lqe_layers.", "model.decoder.lqe_layers."),
    ("decoder.dec_score_head.", "model.decoder.class_embed."),
    ("decoder.dec_bbox_head.", "model.decoder.bbox_embed."),
    ("decoder.", "model.decoder."),
)  # fmt: skip
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")  # one matrix here, three there


def is_huggingface(state: Mapping[str, Tensor]) -> bool:
    """Whether these entries are named as in Hugging Face's files."""
    return any(key.startswith("model.backbone.model.") for key in state)


def from_huggingface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Entries of their file under our names.

    Their frozen norms do not count batches; ours, which may be trained on, get a count of 0.
    """
    found: dict[str, Tensor] = {}
    thirds: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        if not key.startswith("model."):  # the same heads once more, outside of the model
            continue
        own = _renamed(key, theirs_to_ours=True)
        match = re.fullmatch(r"(.*self_attn)\.([qkv]_proj)\.(weight|bias)", own)
        if match:
            thirds.setdefault(f"{match[1]}.in_proj_{match[3]}", {})[match[2]] = value
        else:
            found[own] = value
    found |= {key: torch.cat([parts[name] for name in _PROJECTIONS]) for key, parts in thirds.items()}
    for name in ("up", "reg_scale"):
        found[f"decoder.decoder.{name}"] = found[f"decoder.{name}"]
    return found


def to_huggingface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Entries of our model under the names of their file."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        match = re.fullmatch(r"(.*self_attn)\.in_proj_(weight|bias)", key)
        if match:
            base = _renamed(f"{match[1]}.", theirs_to_ours=False)
            for name, part in zip(_PROJECTIONS, value.chunk(3), strict=True):
                found[f"{base}{name}.{match[2]}"] = part
        elif key not in ("decoder.decoder.up", "decoder.decoder.reg_scale"):  # the decoder's own, once more
            found[_renamed(key, theirs_to_ours=False)] = value
    heads = {key: value for key, value in found.items() if re.match(r"model\.decoder\.(class|bbox)_embed\.", key)}
    return found | {key.removeprefix("model.decoder."): value for key, value in heads.items()}


def _pattern(beginning: str) -> re.Pattern[str]:
    return re.compile(re.escape(beginning).replace(r"\#", r"(\d+)"))


_TABLE = [(_pattern(own), own, _pattern(theirs), theirs) for own, theirs in _BEGINNINGS]


def _renamed(key: str, *, theirs_to_ours: bool) -> str:
    for own_pattern, own, their_pattern, theirs in _TABLE:
        pattern, goal = (their_pattern, own) if theirs_to_ours else (own_pattern, theirs)
        match = pattern.match(key)
        if match:
            numbers = iter(match.groups())
            beginning, rest = re.sub("#", lambda _, n=numbers: next(n), goal), key[match.end() :]
            if own.startswith("backbone."):
                for a, b in (("conv.", "convolution."), ("bn.", "normalization.")):
                    a, b = (b, a) if theirs_to_ours else (a, b)
                    rest = re.sub(rf"(^|\.){re.escape(a)}", rf"\g<1>{b}", rest)
            return beginning + rest
    return key


def model_config(config: Mapping[str, Any]) -> ModelConfig:
    """The model that a `config.json` of theirs describes.

    Raises:
        ValueError: not a D-FINE, or one of a form that this library does not build; the key is named.
    """
    if config.get("model_type") != "d_fine":
        raise ValueError(f"model_type is {config.get('model_type')!r}, not 'd_fine'")
    backbone = config["backbone_config"]
    shape = (backbone["stem_channels"], backbone["stage_out_channels"], backbone["stage_num_blocks"])
    names = [name for name in ARCHITECTURES if _their_shape(name) == shape]
    if not names:
        raise ValueError(f"backbone_config describes no HGNetV2 that is known here: {shape}")
    for key, wanted in (("encoder_layers", 1), ("normalize_before", False), ("layer_scale", 1.0), ("eval_idx", -1)):
        if config.get(key, wanted) != wanted:
            raise ValueError(f"{key} is {config[key]!r}; only {wanted!r} is built here")
    points, strides = config["decoder_n_points"], config["feat_strides"]
    return ModelConfig(
        backbone=names[0],
        use_lab=backbone["use_learnable_affine_block"],
        freeze_norm=config["freeze_backbone_batch_norms"],
        freeze_stem=config["freeze_backbone_batch_norms"],
        feat_strides=tuple(strides),
        encoder_dim=config["encoder_hidden_dim"],
        encoder_feedforward=config["encoder_ffn_dim"],
        encoder_expansion=config["hidden_expansion"],
        encoder_depth_mult=config["depth_mult"],
        hidden_dim=config["d_model"],
        feedforward=config["decoder_ffn_dim"],
        num_decoder_layers=config["decoder_layers"],
        points_per_level=tuple(points) if isinstance(points, list) else (points,) * len(strides),
        num_heads=config["decoder_attention_heads"],
        num_classes=len(config["id2label"]),
        num_queries=config["num_queries"],
        num_denoising=config["num_denoising"],
        label_noise_ratio=config["label_noise_ratio"],
        box_noise_scale=config["box_noise_scale"],
        reg_max=config["max_num_bins"],
        reg_scale=float(config["reg_scale"]),
        up=float(config["up"]),
    )


def huggingface_config(model: ModelConfig, names: Sequence[str]) -> dict[str, Any]:
    """What their `config.json` says of such a model; names of the classes in the order of their rows.

    Raises:
        ValueError: a model that their port cannot build.
    """
    if model.only_ours:
        raise ValueError(f"Hugging Face's port cannot build a model with {', '.join(model.only_ours)}")
    stem, stages = ARCHITECTURES[model.backbone]
    labels = {str(i): name for i, name in enumerate(names or [f"LABEL_{i}" for i in range(model.num_classes)])}
    first = 5 - len(model.feat_strides)
    columns = zip(*stages, strict=True)
    channels_in, mid, out, blocks, downsample, light, kernel, layers = (list(column) for column in columns)
    backbone = {
        "model_type": "hgnet_v2", "stem_channels": list(stem), "stem_strides": [2, 1, 1, 2, 1],
        "stage_in_channels": channels_in, "stage_mid_channels": mid, "stage_out_channels": out,
        "stage_num_blocks": blocks, "stage_downsample": downsample, "stage_light_block": light,
        "stage_kernel_size": kernel, "stage_numb_of_layers": layers, "hidden_sizes": out, "depths": blocks,
        "use_learnable_affine_block": model.use_lab, "hidden_act": "relu",
        "out_features": [f"stage{i}" for i in range(first, 5)], "out_indices": list(range(first, 5)),
    }  # fmt: skip
    dims = [model.encoder_dim] * len(model.feat_strides)
    return {
        "model_type": "d_fine", "architectures": ["DFineForObjectDetection"], "backbone_config": backbone,
        "freeze_backbone_batch_norms": model.freeze_norm, "feat_strides": list(model.feat_strides),
        "num_feature_levels": len(model.feat_strides), "encoder_in_channels": out[first - 1 :],
        "encode_proj_layers": [len(model.feat_strides) - 1], "encoder_layers": 1,
        "encoder_hidden_dim": model.encoder_dim, "encoder_ffn_dim": model.encoder_feedforward,
        "encoder_attention_heads": model.num_heads, "hidden_expansion": model.encoder_expansion,
        "depth_mult": model.encoder_depth_mult, "d_model": model.hidden_dim, "decoder_in_channels": dims,
        "decoder_ffn_dim": model.feedforward, "decoder_layers": model.num_decoder_layers,
        "decoder_n_points": list(model.points_per_level), "decoder_attention_heads": model.num_heads,
        "num_queries": model.num_queries, "num_denoising": model.num_denoising,
        "label_noise_ratio": model.label_noise_ratio, "box_noise_scale": model.box_noise_scale,
        "max_num_bins": model.reg_max, "reg_scale": model.reg_scale, "up": model.up, "eval_idx": -1,
        "layer_scale": 1.0, "normalize_before": False, "id2label": labels,
        "label2id": {name: int(i) for i, name in labels.items()},
    }  # fmt: skip


def save_huggingface(
    folder: str | Path, model: torch.nn.Module, *, data: DataConfig, names: Sequence[str] = ()
) -> Path:
    """Write a folder that `transformers.AutoModelForObjectDetection.from_pretrained` opens.

    Args:
        folder: made where it does not exist; files of these names are replaced.
        model: a `DFINE`.
        data: its image size goes into the preprocessor's file.
        names: of the classes, in the order of their rows.

    Returns:
        The folder.

    Raises:
        ValueError: a model that their port cannot build; nothing is written.
    """
    folder, config = Path(folder), huggingface_config(model.config, names)
    folder.mkdir(parents=True, exist_ok=True)
    height, width = data.image_hw
    processor = {
        "image_processor_type": "RTDetrImageProcessor", "do_resize": True, "size": {"height": height, "width": width},
        "resample": 2, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": False, "do_pad": False,
    }  # fmt: skip
    state = {k: v.detach().cpu().contiguous().clone() for k, v in to_huggingface(model.state_dict()).items()}
    for name, content in (
        ("config.json", config),
        ("preprocessor_config.json", processor),
    ):
        write_atomically(folder / name, (json.dumps(content, indent=2) + "\n").encode())
    write_atomically(folder / "model.safetensors", save(state, {"format": "pt"}))
    return folder


def _their_shape(name: str) -> tuple[list[int], list[int], list[int]]:
    stem, stages = ARCHITECTURES[name]
    return list(stem), [stage.out_channels for stage in stages], [stage.num_blocks for stage in stages]
