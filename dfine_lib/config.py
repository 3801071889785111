"""Every number a run depends on, as plain frozen dataclasses. Defaults are D-FINE-L on COCO."""

from __future__ import annotations

from dataclasses import dataclass, field


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
    num_denoising: int = 100  # denoising positives per image, shared out over groups; 0 switches them off
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
            raise ValueError(f"feat_strides must end at 32, as (8, 16, 32), (16, 32) or (32,), got {strides}")
        if len(self.points_per_level) != len(strides):
            raise ValueError(f"points_per_level needs one entry per stride {strides}, got {self.points_per_level}")
        for name in ("encoder_dim", "hidden_dim"):
            width = getattr(self, name)
            if width % self.num_heads or width % 4:
                raise ValueError(f"{name} must divide into {self.num_heads} heads and by 4, got {width}")
        for name in ("num_classes", "num_queries", "num_decoder_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_denoising < 0:
            raise ValueError(f"num_denoising must not be negative, got {self.num_denoising}")

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
    cost_alpha: float = 0.25
    cost_gamma: float = 2.0


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
    num_workers: int | None = None  # processes that read; None: 4, fewer where a process has fewer cores
    repeat_threshold: float | None = None  # images of classes in a smaller share of the images than this: drawn oftener

    def __post_init__(self) -> None:
        if any(side < 32 or side % 32 for side in self.image_hw):
            raise ValueError(f"image_size must be a multiple of 32, at least 32, got {self.image_size}")
        if self.batch_size < 1 or self.eval_batch_size < 1:
            raise ValueError(f"batch sizes must be at least 1, got {self.batch_size} and {self.eval_batch_size}")
        if self.num_workers is not None and self.num_workers < 0:
            raise ValueError(f"num_workers must not be negative, got {self.num_workers}")
        if self.repeat_threshold is not None and not 0 < self.repeat_threshold <= 1:
            raise ValueError(f"repeat_threshold is a share of the images, 0 < t <= 1, got {self.repeat_threshold}")
        for name in ("photometric", "zoom_out", "iou_crop", "flip"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, 0 to 1, got {getattr(self, name)}")

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width of every network input, in pixels."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else tuple(self.image_size)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Schedule, optimizer and averaging."""

    epochs: int = 80
    stop_epoch: int = 72  # first epoch of stage 2: no strong augmentation, no multi-scale
    lr: float = 2.5e-4
    backbone_lr: float = 1.25e-5
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1.25e-4
    decay_backbone_norm: bool = True  # published runs decay backbone norms: their expression missed them
    decay_bias: bool = True  # published l and x decay biases outside the backbone; n, s, m do not
    clip_max_norm: float = 0.1
    warmup_iterations: int = 500
    flat_fraction: float = 1.0  # share of the steps at full rate; a cosine to `final_lr_fraction` fills the rest
    final_lr_fraction: float = 0.05
    ema_decay: float = 0.9999
    ema_ramp: int = 1000  # updates over which the decay rises; 0: none
    ema_restart_decay: float | None = 0.9999  # at the start of stage 2; None: no restart
    accumulate: int = 1  # forward passes per optimizer step
    exact_accumulation: bool = True  # passes share their normalisers, for a forward pass more; false: each has its own
    precision: str = "fp32"  # fp32, bf16 or fp16 autocast; losses are always float32
    matmul_precision: str = "high"  # of float32 products on a GPU: highest (exact), high (TF32) or medium (bf16)
    cudnn_benchmark: bool = True  # try cuDNN's algorithms on every new input size, keep the fastest
    compile: bool = False  # torch.compile; a machine that cannot compile says so and trains without
    checkpoint_activations: bool = False  # keep less for the backward pass, compute it again there: memory for time
    max_skipped_steps: int = 10  # non-finite steps in a row before the run stops
    evaluate_every: int = 1  # epochs between evaluations; the last epoch is always evaluated
    adapt_to_length: bool = True  # short runs: warm-up and EMA window derived from the number of steps
    faithful: bool = False  # keep the published behaviours that we otherwise mend (README, table of differences)

    def __post_init__(self) -> None:
        for name in ("epochs", "accumulate", "evaluate_every", "max_skipped_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "backbone_lr", "clip_max_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.precision not in ("fp32", "bf16", "fp16"):
            raise ValueError(f"precision must be fp32, bf16 or fp16, got {self.precision!r}")
        if self.matmul_precision not in ("highest", "high", "medium"):
            raise ValueError(f"matmul_precision must be highest, high or medium, got {self.matmul_precision!r}")
        if self.compile and self.checkpoint_activations:
            raise ValueError(
                "compile and checkpoint_activations exclude each other: compiled code decides itself what it keeps for "
                "the backward pass; switch one of them off"
            )
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")


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
