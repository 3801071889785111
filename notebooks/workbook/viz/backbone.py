"""What a backbone sees: its maps, channel by channel, and how much of the image one cell depends on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

from dfine_tools.figures.style import MAIN, MUTED, SECOND, Figure, as_array, new_figure, show_image, styled


@styled
def strongest_channels(image: Any, maps: Mapping[str, Any], count: int = 5) -> Figure:
    """The image, and for each step a few channels of its map, those that vary most.

    Args:
        image: `[3, H, W]` or `[H, W, 3]`.
        maps: `[C, h, w]` by step, fine to coarse.
        count: channels shown of each map.

    Raises:
        ValueError: a map of another shape, or with fewer channels.
    """
    arrays = {name: as_array(one) for name, one in maps.items()}
    for name, one in arrays.items():
        if one.ndim != 3 or len(one) < count:
            raise ValueError(f"{name}: a map must be [C, h, w] with at least {count} channels, got {list(one.shape)}")
    words = "; ".join(
        f"{name}, {a.shape[0]} channels of {a.shape[2]} by {a.shape[1]} cells" for name, a in arrays.items()
    )
    figure = new_figure(
        1.75 * (count + 1), 1.85 * len(arrays), f"An image and the {count} channels that vary most of {words}."
    )
    grid = figure.subplots(len(arrays), count + 1, squeeze=False)
    show_image(grid[0, 0], image)
    for row, (name, one) in zip(grid, arrays.items()):
        row[0].set_axis_off()
        spread = one.reshape(len(one), -1).std(axis=1)
        for axes, channel in zip(row[1:], np.argsort(-spread)[:count]):
            axes.imshow(one[channel], cmap="gray", interpolation="nearest")
            axes.set_title(f"channel {channel}", fontsize=9, fontweight="normal", color=MUTED, pad=3)
            axes.set(xticks=[], yticks=[])
        row[1].set_ylabel(f"{name}\n{one.shape[2]} × {one.shape[1]}", fontsize=10)
    return figure


@styled
def receptive_fields(gradients: Mapping[str, Any], sides: Mapping[str, int], inner: Mapping[str, int]) -> Figure:
    """How strongly each pixel moves the centre cell, by step, with the square that can and the one that mostly does.

    Args:
        gradients: absolute gradient on the input `[H, W]`, by step.
        sides: side of the receptive field in pixels, by step.
        inner: side of the square around the strongest part, centred likewise, by step.

    Raises:
        ValueError: steps of the three differ.
    """
    if not set(gradients) == set(sides) == set(inner):
        raise ValueError(f"steps differ: {list(gradients)}, {list(sides)}, {list(inner)}")
    words = "; ".join(f"{name} {sides[name]} px, 90 % of the gradient in {inner[name]} px" for name in gradients)
    figure = new_figure(
        3.0 * len(gradients), 3.9, f"Gradient of the centre cell on the image. Receptive field: {words}."
    )
    for axes, (name, gradient) in zip(figure.subplots(1, len(gradients), squeeze=False)[0], gradients.items()):
        strength = as_array(gradient)
        height, width = strength.shape
        shown = np.log10(strength / strength.max() + 1e-6)
        axes.imshow(shown, cmap="gray_r", vmin=-5, vmax=0, interpolation="antialiased")
        for side, colour, dashes in ((sides[name], MAIN, "-"), (inner[name], SECOND, (0, (2, 1)))):
            corner = (width - side) / 2, (height - side) / 2
            axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=colour, linewidth=2, linestyle=dashes))
        axes.set(title=f"{name}: {sides[name]} px", xlim=(0, width), ylim=(height, 0), xlabel="x, px")
        axes.set_xticks([0, width // 2, width])
        axes.set_yticks([0, height // 2, height])
        axes.grid(visible=False)
    handles = [Rectangle((0, 0), 1, 1, fill=False, edgecolor=colour, linewidth=2, linestyle=dashes)
               for colour, dashes in ((MAIN, "-"), (SECOND, (0, (2, 1))))]  # fmt: skip
    figure.legend(handles, ["receptive field", "holds 90 % of the gradient"], loc="outside lower center", ncols=2)
    return figure
