"""One look for every figure: type, colours that survive grey print, casings that survive any photograph, alt text."""

from __future__ import annotations

import base64
import functools
import io
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

import matplotlib as mpl
import matplotlib.figure
import numpy as np
import seaborn as sns
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image, ImageShow

from dfine_lib.errors import DfineError

log = logging.getLogger(__name__)
P = ParamSpec("P")

INK = "#1f2933"
MUTED = "#7b8794"
GROUND_TRUTH = "#d1495b"  # in every figure; also dotted, for grey print
DOTTED = (0, (1, 1.2))
MAIN = "#22577a"
SECOND = "#e09f3e"
LOOKS = ((MAIN, "-"), (SECOND, "--"), (GROUND_TRUTH, DOTTED), (INK, "-."), (MUTED, "-"))  # of several lines
_RC = {
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "font.size": 11,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e4e7eb",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 2.0,
    "lines.markersize": 4.5,
}


class Figure(mpl.figure.Figure):
    """A figure with words for those who cannot see it. Belongs to no window and needs no pyplot.

    As the value of a notebook cell it shows as a PNG, with `alt_text` as its plain text.
    """

    alt_text: str = ""

    def png(self) -> bytes:
        """The figure as PNG bytes."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", metadata={"Software": None, "Description": self.alt_text})
        return buffer.getvalue()

    def show(self, warn: bool = True) -> None:
        """Show it in the notebook that runs, else in the desktop's viewer; where there is neither, a line says so.

        Args:
            warn: say that line.
        """
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        if getattr(shell, "kernel", None) is not None:
            from IPython.display import display

            display(self)
            return
        screen = sys.platform in ("win32", "darwin") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        shown = bool(screen) and ImageShow.show(Image.open(io.BytesIO(self.png())))
        if warn and not shown:
            log.warning("no notebook and no screen to show a figure on; write it to a file instead. %s", self.alt_text)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"image/png": base64.b64encode(self.png()).decode("ascii"), "text/plain": self.alt_text}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run a figure function under the house style, leaving matplotlib's own settings as they were."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context({**sns.axes_style("ticks"), **sns.plotting_context("notebook"), **_RC}):
            return draw(*args, **kwargs)

    return wrapper


def new_figure(width: float, height: float, alt_text: str) -> Figure:
    """An empty figure, width and height in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.alt_text = alt_text
    return figure


def layer_colours(count: int) -> list[tuple[float, float, float]]:
    """Light to dark, the last layer darkest, so that the order shows in grey too."""
    return list(sns.color_palette("crest", as_cmap=True)(np.linspace(0.05, 0.98, count))[:, :3].tolist())


def class_colour(label: int) -> tuple[float, float, float]:
    """Ten colours in turn; the name always stands beside."""
    palette = sns.color_palette("colorblind")
    return palette[label % len(palette)]


def as_rgb(image: Any) -> np.ndarray:
    """Any image to `[H, W, 3]` for drawing: tensor `[3, H, W]`, array `[H, W, 3]` or PIL, uint8 or 0..1.

    Raises:
        ValueError: another shape.
    """
    pixels = np.asarray(image.detach().cpu() if hasattr(image, "detach") else image)
    if pixels.ndim == 3 and pixels.shape[0] == 3 and pixels.shape[-1] != 3:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 2:
        pixels = np.stack([pixels] * 3, axis=-1)
    if pixels.ndim != 3 or pixels.shape[-1] != 3:
        raise DfineError(f"an image must be [3, H, W] or [H, W, 3], got {list(pixels.shape)}")
    return pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32).clip(0, 1)


def as_array(values: Any) -> np.ndarray:
    """Tensor or sequence to a float64 array."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=np.float64)


def show_image(axes: Axes, image: Any) -> None:
    """Put an image on axes without ticks; axis unit is then the pixel."""
    axes.imshow(as_rgb(image), interpolation="nearest" if max(as_rgb(image).shape[:2]) < 200 else "antialiased")
    axes.set_axis_off()


def draw_box(
    axes: Axes, box_xyxy: Any, colour: Any, *, dashes: Any = "-", width: float = 1.8, label: str = ""
) -> Rectangle:
    """A box with a casing, so that it shows on light and dark ground alike."""
    x1, y1, x2, y2 = as_array(box_xyxy)
    light = np.dot(mpl.colors.to_rgb(colour), (0.3, 0.59, 0.11)) > 0.5
    box = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=width, linestyle=dashes)
    casing = patheffects.Stroke(linewidth=width + 1.6, foreground="black" if light else "white", alpha=0.75)
    box.set_path_effects([casing, patheffects.Normal()])
    if label:
        box.set_label(label)
    return axes.add_patch(box)


def draw_ground_truth(axes: Axes, boxes_xyxy: Any, width: float = 2.2, label: str = "") -> None:
    """Ground-truth boxes `[4]` or `[G, 4]`, dotted; none where there are None."""
    for box in () if boxes_xyxy is None else as_array(boxes_xyxy).reshape(-1, 4):
        draw_box(axes, box, GROUND_TRUTH, dashes=DOTTED, width=width, label=label)


def draw_lines(
    axes: Axes, x: Any, values: Mapping[str, Any], looks: Sequence[tuple[str, Any]] = LOOKS, **more: Any
) -> None:
    """A line for each name; they differ by colour and by dashes; `more` goes to `Axes.plot`.

    Args:
        axes: to draw on.
        x: `[T]`; None counts steps from 1.
        values: `[T]` by name.
        looks: colour and dashes of each line.
        more: for every line alike.
    """
    for (name, y), (colour, dashes) in zip(values.items(), looks):
        at = np.arange(1, len(y) + 1) if x is None else x
        axes.plot(at, y, color=colour, linestyle=dashes, label=name, **more)


def name_bars(axes: Axes, names: Sequence[str], **text: Any) -> None:
    """Names of horizontal bars, the first on top, with the grid along the bars' length."""
    axes.set_yticks(range(len(names)), names, **text)
    axes.set_ylim(max(len(names), 1) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")


def without_lines(axes: Axes) -> None:
    """Leave out the frame, the grid and the ticks' marks."""
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
