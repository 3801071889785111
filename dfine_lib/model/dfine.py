"""The whole detector: backbone, hybrid encoder, refinement decoder."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dfine_lib.config import ModelConfig, Recipe
from dfine_lib.data.targets import TargetsLike
from dfine_lib.model.decoder import DFINEDecoder
from dfine_lib.model.hgnetv2 import HGNetV2
from dfine_lib.model.hybrid_encoder import HybridEncoder
from dfine_lib.model.outputs import DFINEOutput
from dfine_lib.model.weights import Weights, load_weights, read_weights
from dfine_lib.recipes import get_recipe


class DFINE(nn.Module):
    """D-FINE. `state_dict()` has the published keys, so published weights load directly.

    Source: D-FINE (arXiv 2410.13842).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = HGNetV2(
            config.backbone, len(config.feat_strides), config.use_lab, config.freeze_norm, config.freeze_stem
        )
        self.encoder = HybridEncoder(config, self.backbone.out_channels)
        self.decoder = DFINEDecoder(config)

    @classmethod
    def from_recipe(cls, recipe: str | Recipe, **model_overrides: Any) -> DFINE:
        """A model with fresh weights.

        Args:
            recipe: a name such as `"n_coco"`, or a recipe.
            model_overrides: fields of `ModelConfig` to replace, such as `num_classes=3`.

        Raises:
            ValueError: unknown recipe or field, or a value that does not fit.
        """
        return cls(get_recipe(recipe, **model_overrides).model)

    @classmethod
    def from_pretrained(cls, path: str | Path, *, sha256: str | None = None) -> DFINE:
        """The model of a weights file, in eval mode: `open_model`, from any source.

        Args:
            path: of a file of ours or of the authors', or of a Hugging Face folder, or a published name such as
                `dfine_l_coco`, which is downloaded once.
            sha256: refuse a file with another checksum.

        Raises:
            WeightsError: as in `open_model`, or there is no such source.
            DownloadError: a published file that cannot be downloaded.
        """
        # A package above the core knows names, folders and the models of the authors' files; loaded when asked for.
        weights = importlib.import_module("dfine_tools.weights.sources").read(path, sha256=sha256)
        return open_model(weights)[0]

    def forward(self, images: Tensor, targets: TargetsLike | None = None, keep_layers: bool = False) -> DFINEOutput:
        """Detect.

        Args:
            images: RGB float `[B, 3, H, W]` in 0..1, H and W multiples of 32.
            targets: in training, `Targets`, or for each image `labels` int64 `[G]` and `boxes` cxcywh `[G, 4]` in 0..1.
            keep_layers: keep every decoder layer's output in eval mode too.

        Raises:
            ValueError: images of another shape, or targets of another number of images.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % 32 or images.shape[3] % 32:
            raise ValueError(f"images must be [B, 3, H, W] with H and W multiples of 32, got {tuple(images.shape)}")
        if targets is not None and len(targets) != len(images):
            raise ValueError(f"targets must be one for each of the {len(images)} images, got {len(targets)}")
        return self.decoder(self.encoder(self.backbone(images)), targets, keep_layers)


def open_model(source: str | Path | Weights, recipe: str | Recipe | None = None) -> tuple[DFINE, Weights]:
    """The model that a weights source holds, filled and in eval mode, and what the source says about it.

    Args:
        source: anything that `read_weights` reads, or what it returned.
        recipe: shape of the model, where the source does not say it; the number of classes is the source's.

    Raises:
        WeightsError: no such file, damaged, of another model than the recipe's, or of a shape that is none of the
            published sizes and neither described in the file nor by a recipe.
    """
    weights = source if isinstance(source, Weights) else read_weights(source)
    model = DFINE(weights.model_config(None if recipe is None else get_recipe(recipe).model))
    load_weights(model, weights)
    return model.eval(), weights
