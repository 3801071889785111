"""Every number a run depends on, as plain frozen dataclasses. Defaults are D-FINE-L on COCO."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dfine_lib.errors import DfineError


def _check(config: Any, wanted: str, good: Callable[[Any], bool], *names: str) -> None:
    """ValueError for the first of these fields that is not as wanted; of a tuple every entry is asked, None passes."""
    for name in names:
        value = getattr(config, name)
        if not all(map(good, value if isinstance(value, tuple) else (value,) if value is not None else ())):
            raise DfineError(f"{name} must be {wanted}, got {value}")


# Comparisons that NaN fails.
_POSITIVE = ("positive and finite", lambda value: 0 < value < math.inf)
_NOT_NEGATIVE = ("at least 0 and finite", lambda value: 0 <= value < math.inf)
_FRACTION = ("between 0 and 1", lambda value: 0 <= value <= 1)
_DECAY = ("at least 0 and below 1", lambda value: 0 <= value < 1)
_COUNT = ("at least 1", lambda value: value >= 1)


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
    published_positions: bool = False  # pair tokens with cells as the published code does on non-square maps

    def __post_init__(self) -> None:
        strides = self.feat_strides
        if not strides or strides != (8, 16, 32)[-len(strides) :]:
            raise DfineError(f"feat_strides must end at 32, as (8, 16, 32), (16, 32) or (32,), got {strides}")
        if len(self.points_per_level) != len(strides):
            raise DfineError(f"points_per_level needs one entry per stride {strides}, got {self.points_per_level}")
        _check(
            self, *_COUNT, "num_heads", "encoder_dim", "hidden_dim", "encoder_feedforward", "feedforward",
            "num_decoder_layers", "points_per_level", "num_classes", "num_queries",
        )  # fmt: skip
        for name in ("encoder_dim", "hidden_dim"):
            width = getattr(self, name)
            if width % self.num_heads or width % 4:
                raise DfineError(f"{name} must divide into {self.num_heads} heads and by 4, got {width}")
        _check(self, *_POSITIVE, "encoder_expansion", "encoder_depth_mult", "reg_scale", "up")
        _check(self, *_NOT_NEGATIVE, "num_denoising", "box_noise_scale")
        _check(self, *_FRACTION, "label_noise_ratio")
        _check(self, "even and at least 4", lambda value: value >= 4 and value % 2 == 0, "reg_max")

    @property
    def only_ours(self) -> list[str]:
        """Settings, as `uniform_bins=True`, that neither the authors' code nor Hugging Face's port knows."""
        published = {"uniform_bins": False, "quality_head": True}
        return [f"{name}={getattr(self, name)}" for name, value in published.items() if getattr(self, name) != value]


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
        weights = ("vfl", "bbox", "giou", "fgl", "ddf", "cost_class", "cost_bbox", "cost_giou")
        _check(self, *_NOT_NEGATIVE, *weights, "vfl_alpha", "vfl_gamma", "cost_gamma")
        _check(self, *_FRACTION, "cost_alpha")
        _check(self, *_POSITIVE, "temperature")


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
    num_workers: int | None = None  # DataLoader workers; None: 4, fewer where a process has fewer cores
    repeat_threshold: float | None = None  # images of classes in fewer images than this fraction: oversampled

    def __post_init__(self) -> None:
        parse_hw(self.image_size)
        _check(self, *_COUNT, "base_size_repeat", "batch_size", "eval_batch_size")
        _check(self, *_NOT_NEGATIVE, "num_workers")
        _check(self, *_FRACTION, "photometric", "zoom_out", "iou_crop", "flip")  # probabilities
        _check(self, "a fraction of the images, above 0 and at most 1", lambda t: 0 < t <= 1, "repeat_threshold")

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
    precision: str = "fp32"  # fp32, bf16 or fp16 autocast; losses are always float32
    matmul_precision: str = "high"  # of float32 products on a GPU: highest (exact), high (TF32) or medium (bf16)
    cudnn_benchmark: bool = True  # try cuDNN's algorithms on every new input size, keep the fastest
    compile: bool = False  # torch.compile; a machine that cannot compile logs that and trains without
    checkpoint_activations: bool = False  # keep less for the backward pass, compute it again there: memory for time
    max_skipped_steps: int = 10  # non-finite steps in a row before the run stops
    evaluate_every: int = 1  # epochs between evaluations; the last epoch is always evaluated
    adapt_to_length: bool = True  # short runs: warm-up and EMA window derived from the number of steps
    faithful: bool = False  # keep the published behaviours that we otherwise fix (docs/differences.md)

    def __post_init__(self) -> None:
        _check(self, *_COUNT, "epochs", "accumulate", "evaluate_every", "max_skipped_steps")
        _check(self, *_POSITIVE, "lr", "backbone_lr")
        _check(self, "positive", lambda value: value > 0, "clip_max_norm")  # infinite: nothing is clipped
        _check(self, *_NOT_NEGATIVE, "stop_epoch", "weight_decay", "warmup_iterations", "ema_ramp")
        _check(self, *_FRACTION, "flat_fraction", "final_lr_fraction")
        _check(self, *_DECAY, "betas", "ema_decay", "ema_restart_decay")
        if self.precision not in ("fp32", "bf16", "fp16"):
            raise DfineError(f"precision must be fp32, bf16 or fp16, got {self.precision!r}")
        if self.matmul_precision not in ("highest", "high", "medium"):
            raise DfineError(f"matmul_precision must be highest, high or medium, got {self.matmul_precision!r}")
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
        backbone="pico",
        **_UNFROZEN,
        encoder_dim=96,
        encoder_feedforward=256,
        encoder_expansion=0.34,
        encoder_depth_mult=0.34,
        hidden_dim=96,
        feedforward=256,
        num_decoder_layers=3,
        num_queries=40,
        num_denoising=24,
    ),
    "n": ModelConfig(
        backbone="B0",
        **_UNFROZEN,
        feat_strides=(16, 32),
        encoder_dim=128,
        encoder_feedforward=512,
        encoder_expansion=0.34,
        encoder_depth_mult=0.5,
        hidden_dim=128,
        feedforward=512,
        num_decoder_layers=3,
        points_per_level=(6, 6),
    ),
    "s": ModelConfig(backbone="B0", **_UNFROZEN, encoder_expansion=0.5, encoder_depth_mult=0.34, num_decoder_layers=3),
    "m": ModelConfig(backbone="B2", **_UNFROZEN, encoder_depth_mult=0.67, num_decoder_layers=4),
    "l": ModelConfig(),
    "x": ModelConfig(backbone="B5", encoder_dim=384, encoder_feedforward=2048, reg_scale=8.0),
}
