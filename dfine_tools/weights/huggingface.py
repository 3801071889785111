"""Our weights written as Hugging Face's port keeps them: a folder that `transformers` opens."""

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
from dfine_lib.errors import DfineError
from dfine_lib.files import write_atomically
from dfine_lib.model.hgnetv2 import ARCHITECTURES
from dfine_lib.model.huggingface import FIELDS, PROJECTIONS, renamed


def to_huggingface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Entries of our model under the names of their file."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        match = re.fullmatch(r"(.*self_attn)\.in_proj_(weight|bias)", key)
        if match:
            base = renamed(f"{match[1]}.", to_ours=False)
            for name, part in zip(PROJECTIONS, value.chunk(3), strict=True):
                found[f"{base}{name}.{match[2]}"] = part
        elif key not in ("decoder.decoder.up", "decoder.decoder.reg_scale"):  # the decoder's own, once more
            found[renamed(key, to_ours=False)] = value
    heads = {key: value for key, value in found.items() if re.match(r"model\.decoder\.(class|bbox)_embed\.", key)}
    return found | {key.removeprefix("model.decoder."): value for key, value in heads.items()}


def only_ours(model: ModelConfig) -> str:
    """Settings, as `uniform_bins=True`, that neither the authors' code nor Hugging Face's port knows; "" for none."""
    published = {"uniform_bins": False, "quality_head": True}
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
    } | {theirs: getattr(model, ours) for ours, theirs in FIELDS.items()}  # fmt: skip


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
