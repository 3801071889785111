"""Every number a run depends on, as plain frozen dataclasses. Defaults are D-FINE-L on COCO."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from dfine_lib.errors import DfineError

_ABOVE_0, _BELOW_1, _FINITE = math.nextafter(0, 1), math.nextafter(1, 0), sys.float_info.max
_RANGES = (  # in words, lowest value, highest value, and the fields of the dataclasses below that have this range
    ("at least 1", 1, math.inf,
     "num_heads encoder_dim hidden_dim encoder_feedforward feedforward num_decoder_layers points_per_level num_classes "
     "num_queries base_size_repeat batch_size eval_batch_size epochs accumulate evaluate_every max_skipped_steps"),
    ("even and at least 4", 4, math.inf, "reg_max"),
    ("at least 0 and finite", 0, _FINITE,
     "num_denoising box_noise_scale vfl bbox giou fgl ddf vfl_alpha vfl_gamma cost_class cost_bbox cost_giou "
     "cost_gamma num_workers stop_epoch weight_decay warmup_iterations ema_ramp"),
    ("positive and finite", _ABOVE_0, _FINITE,
     "encoder_expansion encoder_depth_mult reg_scale up temperature lr backbone_lr"),
    ("positive", _ABOVE_0, math.inf, "clip_max_norm"),  # infinite: nothing is clipped
    ("between 0 and 1", 0, 1,
     "label_noise_ratio cost_alpha photometric zoom_out iou_crop flip flat_fraction final_lr_fraction"),
    ("at least 0 and below 1", 0, _BELOW_1, "betas ema_decay ema_restart_decay"),
    ("a fraction of the images, above 0 and at most 1", _ABOVE_0, 1, "repeat_threshold"),
)  # fmt: skip
_CHOICES = {"precision": ("fp32", "bf16", "fp16", None), "matmul_precision": ("highest", "high", "medium")}
_RANGE_OF = {name: (words, low, high) for words, low, high, names in _RANGES for name in names.split()}


def _check_fields(config: Any) -> None:
    """DfineError for the first field that is out of its range; of a tuple every entry is checked, None passes."""
    for name, value in vars(config).items():
        if name in _CHOICES and value not in _CHOICES[name]:
            *others, last = (choice for choice in _CHOICES[name] if choice)
            raise DfineError(f"{name} must be {', '.join(others)} or {last}, got {value!r}")
        if name in _RANGE_OF and value is not None:
            words, low, high = _RANGE_OF[name]
            entries = value if isinstance(value, tuple) else (value,)
            # The comparisons are false for NaN.
            if not all(isinstance(entry, Real) and low <= entry <= high for entry in entries):
                raise DfineError(f"{name} must be {words}, got {value!r}")


def parse_hw(value: int | str | Sequence[int]) -> tuple[int, int]:
    """Height and width of the network's input from a side (640, "640") or a pair ((384, 640), "384,640").

    Raises:
        DfineError: not one or two multiples of 32, at least 32.
    """
    sides = value.split(",") if isinstance(value, str) else [value] if isinstance(value, int) else list(value)
    try:
        hw = [int(side) for side in sides]
    except (TypeError, ValueError):
        hw = []
    if len(hw) not in (1, 2) or any(side < 32 or side % 32 for side in hw):
        raise DfineError(
            f"image_size must be a multiple of 32, at least 32, or two of them for height and width, such as 320 or "
            f"384,640, got {value}"
        )
    return hw[0], hw[-1]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of one D-FINE model. Defaults are D-FINE-L."""

    backbone: str = "B4"  # row of hgnetv2.ARCHITECTURES: pico, B0 to B6
    use_lab: bool = False  # learnable affine block after every backbone activation
    freeze_norm: bool = True  # backbone batch norms: statistics and affine are buffers
    freeze_stem: bool = True  # stem convolutions get no gradient
    feat_strides: tuple[int, ...] = (8, 16, 32)  # input pixels per cell, fine to coarse
    encoder_dim: int = 256
    encoder_feedforward: int = 1024
    encoder_expansion: float = 1.0
    encoder_depth_mult: float = 1.0
    hidden_dim: int = 256  # D
    feedforward: int = 1024
    num_decoder_layers: int = 6  # L
    points_per_level: tuple[int, ...] = (3, 6, 3)  # sampling points of one head on each level
    num_heads: int = 8
    num_classes: int = 80  # C
    num_queries: int = 300  # Q
    num_denoising: int = 100  # denoising positives per image, split into groups; 0 switches them off
    label_noise_ratio: float = 0.5
    box_noise_scale: float = 1.0
    reg_max: int = 32  # N
    reg_scale: float = 4.0  # 1 / c
    up: float = 0.5  # a
    uniform_bins: bool = False  # ablation: W(n) in equal steps instead of the curve, between the same ends
    quality_head: bool = True  # ablation: false leaves class logits as they are, whatever the distributions say
    # Baseline: each decoder layer predicts four numbers that move the box of the layer before, as in RT-DETR and DINO.
    # There are no distributions then, so no quality head, FGL or DDF either.
    direct_regression: bool = False
    published_positions: bool = False  # pair tokens with cells as the published code does on non-square maps

    @property
    def has_quality_head(self) -> bool:
        """Whether class logits are corrected by the location quality estimators."""
        return self.quality_head and not self.direct_regression

    def __post_init__(self) -> None:
        _check_fields(self)
        strides = self.feat_strides
        if not strides or strides != (8, 16, 32)[-len(strides) :]:
            raise DfineError(f"feat_strides must end at 32, as (8, 16, 32), (16, 32) or (32,), got {strides}")
        if len(self.points_per_level) != len(strides):
            raise DfineError(f"points_per_level needs one entry per stride {strides}, got {self.points_per_level}")
        for name in ("encoder_dim", "hidden_dim"):
            width = getattr(self, name)
            if width % self.num_heads or width % 4:
                raise DfineError(f"{name} must divide into {self.num_heads} heads and by 4, got {width}")
        if self.reg_max % 2:
            raise DfineError(f"reg_max must be even and at least 4, got {self.reg_max}")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the loss terms and of the matching cost, as published."""

    vfl: float = 1.0
    bbox: float = 5.0
    giou: float = 2.0
    fgl: float = 0.15
    ddf: float = 1.5
    vfl_alpha: float = 0.75  # weight of negatives in the varifocal loss
    vfl_gamma: float = 2.0
    temperature: float = 5.0  # T of DDF
    union_set: bool = True  # one set of pairs for L1, GIoU, FGL and DDF of every layer (GO)
    cost_class: float = 2.0
    cost_bbox: float = 5.0
    cost_giou: float = 2.0
    cost_alpha: float = 0.25  # weight of a class that is there; 1 - alpha of one that is not
    cost_gamma: float = 2.0

    def __post_init__(self) -> None:
        _check_fields(self)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What happens between a file on disk and a batch."""

    image_size: int | tuple[int, int] = 640  # side, or (height, width); multiples of 32
    base_size_repeat: int | None = 4  # how often the base size stands among the multi-scale sides; None: one size
    photometric: float = 0.5  # probability of each strong augmentation, first stage only
    zoom_out: float = 0.5
    iou_crop: float = 0.8
    flip: float = 0.5
    batch_size: int = 32  # images per optimizer step over all ranks and accumulation steps
    fit_batch_size: bool = True  # a small set lowers a published batch size; false once the user has chosen one
    eval_batch_size: int = 64
    num_workers: int | None = None  # DataLoader workers; None: `data.loader.num_workers_of`
    repeat_threshold: float | None = None  # images of classes in fewer images than this fraction: oversampled

    def __post_init__(self) -> None:
        parse_hw(self.image_size)
        _check_fields(self)

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width of every network input, in pixels."""
        return parse_hw(self.image_size)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Schedule, optimizer and EMA."""

    epochs: int = 80
    stop_epoch: int = 72  # first no-augmentation epoch (second stage): no strong augmentation, one size
    lr: float = 2.5e-4
    backbone_lr: float = 1.25e-5
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1.25e-4
    decay_backbone_norm: bool = True  # published runs decay backbone norms: their expression missed them
    decay_bias: bool = True  # published l and x decay biases outside the backbone; n, s, m do not
    clip_max_norm: float = 0.1
    warmup_iterations: int = 500
    flat_fraction: float = 1.0  # of the steps at the full learning rate; then a cosine to `final_lr_fraction`
    final_lr_fraction: float = 0.05
    ema_decay: float = 0.9999
    ema_ramp: int = 1000  # EMA warm-up: updates over which the decay rises; 0: none
    ema_restart_decay: float | None = 0.9999  # at the start of the second stage; None: no restart
    accumulate: int = 1  # micro-batches per optimizer step
    # Micro-batches have the normalizers of the whole step, for one forward pass more; false: each has its own.
    exact_accumulation: bool = True
    # fp32, bf16 or fp16 autocast; losses are always float32. None: fp32 on a CPU, as published (mixed) on a GPU, in
    # bf16, or in fp16 where the GPU has no bf16; a run that resumes keeps the precision it was started with.
    precision: str | None = None
    matmul_precision: str = "high"  # of float32 products on a GPU: highest (exact), high (TF32) or medium (bf16)
    cudnn_benchmark: bool = True  # try cuDNN's algorithms on every new input size, keep the fastest
    compile: bool = False  # torch.compile; a machine that cannot compile logs that and trains without
    checkpoint_activations: bool = False  # keep less for the backward pass, compute it again there: memory for time
    max_skipped_steps: int = 10  # consecutive non-finite steps before the run stops
    evaluate_every: int = 1  # epochs between evaluations; the last epoch is always evaluated
    adapt_to_length: bool = True  # short runs: warm-up and EMA window derived from the number of steps
    faithful: bool = False  # keep the published behaviours that we otherwise fix (docs/differences.md)

    def __post_init__(self) -> None:
        _check_fields(self)
        if self.compile and self.checkpoint_activations:
            raise DfineError(
                "compile and checkpoint_activations exclude each other: compiled code decides itself what it keeps for "
                "the backward pass; switch one of them off"
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One whole run: what is built, what it learns from, how."""

    name: str
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


_UNFROZEN = dict(use_lab=True, freeze_norm=False, freeze_stem=False)
SIZES: dict[str, ModelConfig] = {
    "pico": ModelConfig(
        backbone="pico", **_UNFROZEN,
        encoder_dim=96, encoder_feedforward=256, encoder_expansion=0.34, encoder_depth_mult=0.34,
        hidden_dim=96, feedforward=256, num_decoder_layers=3, num_queries=40, num_denoising=24,
    ),
    "n": ModelConfig(
        backbone="B0", **_UNFROZEN, feat_strides=(16, 32),
        encoder_dim=128, encoder_feedforward=512, encoder_expansion=0.34, encoder_depth_mult=0.5,
        hidden_dim=128, feedforward=512, num_decoder_layers=3, points_per_level=(6, 6),
    ),
    "s": ModelConfig(backbone="B0", **_UNFROZEN, encoder_expansion=0.5, encoder_depth_mult=0.34, num_decoder_layers=3),
    "m": ModelConfig(backbone="B2", **_UNFROZEN, encoder_depth_mult=0.67, num_decoder_layers=4),
    "l": ModelConfig(),
    "x": ModelConfig(backbone="B5", encoder_dim=384, encoder_feedforward=2048, reg_scale=8.0),
}  # fmt: skip
