"""Where a weights file is; the authors' published files: which there are, which model one holds, how to get it here."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from dfine_lib.config import SIZES, ModelConfig
from dfine_lib.download import DownloadError, download, wrong_checksum
from dfine_lib.model.class_rows import WeightsError
from dfine_lib.model.hgnetv2 import ARCHITECTURES

__all__ = ["PUBLISHED", "DownloadError", "described", "fetch", "home", "locate_weights"]

ADDRESS = "https://github.com/Peterande/storage/releases/download/dfinev1.0"
_WHOLE = {"coco": "nsmlx", "obj365": "smlx", "obj2coco": "smlx"}
PUBLISHED: dict[str, str] = {
    f"dfine_{size}_{schedule}": f"dfine_{size}_{schedule}.pth" for schedule, sizes in _WHOLE.items() for size in sizes
} | {
    "dfine_l_obj2coco": "dfine_l_obj2coco_e25.pth",
    "dfine_l_obj365_e25": "dfine_l_obj365_e25.pth",
    **{f"hgnetv2_b{i}": f"PPHGNetV2_B{i}_stage1.pth" for i in range(7)},
}


COCO_FILES = {Path(file).stem for name, file in PUBLISHED.items() if name.endswith(("_coco", "_obj2coco"))}
OBJECTS365_FILES = {Path(file).stem for name, file in PUBLISHED.items() if "_obj365" in name}


def home() -> Path:
    """Where published files are kept: `DFINE_HOME`, else `~/.cache/dfine`."""
    return Path(os.environ.get("DFINE_HOME") or Path.home() / ".cache" / "dfine")


def fetch(name: str, *, address: str | None = None, sha256: str | None = None, progress: bool = True) -> Path:
    """A published file by name, from the folder of `home()`, downloaded into it where it is missing.

    A download that was cut goes on where it stopped; the file appears when it is whole. Processes that ask for the same
    file at once wait for the first.

    Args:
        name: one of `PUBLISHED`.
        address: where the files lie; default: `DFINE_MIRROR`, else the authors' release.
        sha256: refuse a file with another checksum.
        progress: show a bar.

    Raises:
        DownloadError: no network, no such file there, a cut that did not mend, a wrong size or checksum.
        ValueError: unknown name.
    """
    if name not in PUBLISHED:
        raise ValueError(f"unknown published weights {name!r}; known are {', '.join(PUBLISHED)}")
    file = home() / PUBLISHED[name]
    source = f"{(address or os.environ.get('DFINE_MIRROR') or ADDRESS).rstrip('/')}/{PUBLISHED[name]}"
    return download(
        source, file, checksum=sha256 and f"sha256:{sha256}", progress=progress,
        hint=f"Without a network: fetch that address elsewhere and put the file into {file.parent}, or name another "
        "folder by DFINE_HOME.",
    )  # fmt: skip


def locate_weights(path: str | Path, sha256: str | None = None) -> Path:
    """The file that a path, a Hugging Face folder or the name of a published file means; the last is fetched.

    Raises:
        WeightsError: there is none, or one of another checksum than asked for.
        DownloadError: a published file that could not be had.
    """
    if str(path) in PUBLISHED and not Path(path).exists():
        path = fetch(str(path), sha256=sha256)
    given = path = Path(path)
    if path.is_dir():
        path = path / "model.safetensors"
    if given.is_dir() and not path.is_file():
        inside = sorted(str(one) for end in (".safetensors", ".pth", ".pt") for one in given.glob(f"*{end}"))[:5]
        raise WeightsError(
            f"{given}: a folder without model.safetensors. "
            + (
                f"It holds {', '.join(inside)}: give one of them."
                if inside
                else "Give a weights file, or a run's folder."
            )
        )
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such weights file. Give a .safetensors or .pth file that exists, a folder of Hugging Face's, "
            f"or {_published_near(str(given))}."
        )
    if (reason := wrong_checksum(path, sha256 and f"sha256:{sha256}")) is not None:
        raise WeightsError(f"{path}: {reason}. Fetch it again, or ask for the checksum that belongs to this file.")
    with open(path, "rb"):  # a file that may not be read is reported as that
        return path


def _published_near(name: str) -> str:
    near = difflib.get_close_matches(name, PUBLISHED, n=3, cutoff=0.7) or list(PUBLISHED)[:3]
    return f"a published name such as {', '.join(near)}"


def described(state: Mapping[str, Tensor]) -> ModelConfig | None:
    """The model that these entries are of, told from their names and shapes; None where it is none of the sizes.

    What shapes do not tell (number of queries and of denoising groups) is as published.
    """
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    for config in SIZES.values():
        stem, stages = ARCHITECTURES[config.backbone]
        strides = len(config.feat_strides)
        expected = {
            "backbone.stem.stem1.conv.weight": (stem[1], 3, 3, 3),
            "encoder.input_proj.0.conv.weight": (config.encoder_dim, stages[4 - strides].out_channels, 1, 1),
            "encoder.fpn_blocks.0.cv2.0.conv1.conv.weight": (
                round(config.encoder_expansion * config.encoder_dim // 2), config.encoder_dim, 1, 1,
            ),
            f"decoder.dec_score_head.{config.num_decoder_layers - 1}.bias": shapes.get("decoder.enc_score_head.bias"),
            "decoder.enc_output.proj.weight": (config.hidden_dim, config.hidden_dim),
        }  # fmt: skip
        beyond = f"decoder.dec_score_head.{config.num_decoder_layers}.bias", f"encoder.input_proj.{strides}.conv.weight"
        if all(shapes.get(key, 0) == shape for key, shape in expected.items()) and not shapes.keys() & set(beyond):
            trained_norms = "backbone.stem.stem1.bn.num_batches_tracked" in shapes
            return replace(
                config,
                num_classes=shapes["decoder.enc_score_head.bias"][0],
                use_lab="backbone.stem.stem1.lab.scale" in shapes,
                freeze_norm=not trained_norms,
                freeze_stem=not trained_norms,
                up=float(state.get("decoder.up", config.up)),
                reg_scale=float(state.get("decoder.reg_scale", config.reg_scale)),
            )
    return None
