"""Hugging Face's port (`DFineForObjectDetection`): its files and folders read and written, without `transformers`.

The names below are those of the file `model.safetensors`; `transformers` renames some again while it loads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from dfine_lib.config import DataConfig, ModelConfig
from dfine_lib.errors import DfineError
from dfine_lib.files import write_atomically
from dfine_lib.model.hgnetv2 import ARCHITECTURES
from dfine_lib.model.weights import Weights, WeightsError
from dfine_tools.weights.categories import PUBLISHED_IDS

# Beginnings of names, ours and theirs; # stands for a number, the same on both sides.
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
_FIELDS = {  # of our ModelConfig: keys of their config.json that hold the same value
    "encoder_dim": "encoder_hidden_dim", "encoder_feedforward": "encoder_ffn_dim",
    "encoder_expansion": "hidden_expansion", "encoder_depth_mult": "depth_mult", "hidden_dim": "d_model",
    "feedforward": "decoder_ffn_dim", "num_decoder_layers": "decoder_layers",
    "num_heads": "decoder_attention_heads", "num_queries": "num_queries", "num_denoising": "num_denoising",
    "label_noise_ratio": "label_noise_ratio", "box_noise_scale": "box_noise_scale", "reg_max": "max_num_bins",
}  # fmt: skip
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
        own = _renamed(key, to_ours=True)
        match = re.fullmatch(r"(.*self_attn)\.([qkv]_proj)\.(weight|bias)", own)
        if match:
            thirds.setdefault(f"{match[1]}.in_proj_{match[3]}", {})[match[2]] = value
        else:
            found[own] = value
    found |= {key: torch.cat([parts[name] for name in _PROJECTIONS]) for key, parts in thirds.items()}
    for name in ("up", "reg_scale"):
        found[f"decoder.decoder.{name}"] = found[f"decoder.{name}"]
    return found


def _pattern(beginning: str) -> re.Pattern[str]:
    return re.compile(re.escape(beginning).replace(r"\#", r"(\d+)"))


_TABLE = [(_pattern(ours), ours, _pattern(theirs), theirs) for ours, theirs in _BEGINNINGS]


def _renamed(key: str, *, to_ours: bool) -> str:
    """The name of an entry in the other naming: the first row of the table that fits decides."""
    for our_pattern, ours, their_pattern, theirs in _TABLE:
        pattern, goal = (their_pattern, ours) if to_ours else (our_pattern, theirs)
        if match := pattern.match(key):
            numbers = iter(match.groups())
            beginning, rest = re.sub("#", lambda _, n=numbers: next(n), goal), key[match.end() :]
            if ours.startswith("backbone."):
                for short, long in (("conv.", "convolution."), ("bn.", "normalization.")):
                    old, new = (long, short) if to_ours else (short, long)
                    rest = re.sub(rf"(^|\.){re.escape(old)}", rf"\g<1>{new}", rest)
            return beginning + rest
    return key


def model_config(config: Mapping[str, Any]) -> ModelConfig:
    """The model that a `config.json` of theirs describes.

    Raises:
        DfineError: not a D-FINE, or one that this library cannot build; the key is named.
    """
    if config.get("model_type") != "d_fine":
        raise DfineError(f"model_type is {config.get('model_type')!r}, not 'd_fine'")
    backbone = config["backbone_config"]
    shape = (backbone["stem_channels"], backbone["stage_out_channels"], backbone["stage_num_blocks"])
    names = [
        name for name, (stem, stages) in ARCHITECTURES.items()
        if shape == (list(stem), [stage.out_channels for stage in stages], [stage.num_blocks for stage in stages])
    ]  # fmt: skip
    if not names:
        raise DfineError(f"backbone_config describes no HGNetV2 that is known here: {shape}")
    for key, wanted in (("encoder_layers", 1), ("normalize_before", False), ("layer_scale", 1.0), ("eval_idx", -1)):
        if config.get(key, wanted) != wanted:
            raise DfineError(f"{key} is {config[key]!r}; only {wanted!r} is built here")
    points, strides = config["decoder_n_points"], config["feat_strides"]
    frozen = config["freeze_backbone_batch_norms"]
    return ModelConfig(
        backbone=names[0], use_lab=backbone["use_learnable_affine_block"], freeze_norm=frozen, freeze_stem=frozen,
        feat_strides=tuple(strides), num_classes=len(config["id2label"]),
        points_per_level=tuple(points) if isinstance(points, list) else (points,) * len(strides),
        reg_scale=float(config["reg_scale"]), up=float(config["up"]),
        **{ours: config[theirs] for ours, theirs in _FIELDS.items()},
    )  # fmt: skip


def read_huggingface(weights: Weights) -> Weights:
    """Weights read from a file of theirs, under our names; `config.json` next to the file says which model it is.

    Raises:
        WeightsError: an entry is missing, or a `config.json` that describes no model of this library.
    """
    file, model, names = weights.path.parent / "config.json", None, ()
    if file.is_file():
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
            model = model_config(config)
            labels = {int(i): str(name) for i, name in config["id2label"].items()}
            names = tuple(labels[i] for i in range(len(labels)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(f"{file}: not the configuration of a D-FINE ({error}).") from error
    try:
        state, ids = from_huggingface(weights.state_dict), PUBLISHED_IDS.get(names, ())
    except KeyError as error:
        raise WeightsError(f"{weights.path}: an entry of the model is missing ({error}). Fetch it again.") from error
    return replace(weights, state_dict=state, category_names=names, category_ids=ids, model=model)


def to_huggingface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Entries of our model under the names of their file."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        match = re.fullmatch(r"(.*self_attn)\.in_proj_(weight|bias)", key)
        if match:
            base = _renamed(f"{match[1]}.", to_ours=False)
            for name, part in zip(_PROJECTIONS, value.chunk(3), strict=True):
                found[f"{base}{name}.{match[2]}"] = part
        elif key not in ("decoder.decoder.up", "decoder.decoder.reg_scale"):  # the decoder's own, once more
            found[_renamed(key, to_ours=False)] = value
    heads = {key: value for key, value in found.items() if re.match(r"model\.decoder\.(class|bbox)_embed\.", key)}
    return found | {key.removeprefix("model.decoder."): value for key, value in heads.items()}


def only_ours(model: ModelConfig) -> str:
    """Settings, as `uniform_bins=True`, that neither the authors' code nor Hugging Face's port knows; "" for none."""
    published = {"uniform_bins": False, "quality_head": True, "direct_regression": False}
    values = {name: getattr(model, name) for name in published}
    return ", ".join(f"{name}={value}" for name, value in values.items() if value != published[name])


def huggingface_config(model: ModelConfig, names: Sequence[str]) -> dict[str, Any]:
    """Their `config.json` for a model; names of the classes in the order of their rows.

    Raises:
        DfineError: a model that their port cannot build.
    """
    if unknown := only_ours(model):
        raise DfineError(f"Hugging Face's port cannot build a model with {unknown}")
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
        "encoder_attention_heads": model.num_heads, "decoder_in_channels": dims,
        "decoder_n_points": list(model.points_per_level), "reg_scale": model.reg_scale, "up": model.up, "eval_idx": -1,
        "layer_scale": 1.0, "normalize_before": False, "id2label": labels,
        "label2id": {name: int(i) for i, name in labels.items()},
    } | {theirs: getattr(model, ours) for ours, theirs in _FIELDS.items()}  # fmt: skip


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
        DfineError: a model that their port cannot build; nothing is written.
    """
    folder, config = Path(folder), huggingface_config(model.config, names)
    folder.mkdir(parents=True, exist_ok=True)
    height, width = data.image_hw
    processor = {
        "image_processor_type": "RTDetrImageProcessor", "do_resize": True, "size": {"height": height, "width": width},
        "resample": 2, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": False, "do_pad": False,
    }  # fmt: skip
    state = {k: v.detach().cpu().contiguous().clone() for k, v in to_huggingface(model.state_dict()).items()}
    for name, content in (("config.json", config), ("preprocessor_config.json", processor)):
        write_atomically(folder / name, (json.dumps(content, indent=2) + "\n").encode())
    write_atomically(folder / "model.safetensors", save(state, {"format": "pt"}))
    return folder
