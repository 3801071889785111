"""Controls above a figure that is drawn again whenever one of them changes."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets

from workbook.viz import Figure


class FigureBox(ipywidgets.VBox):
    """Controls above a figure, and a line for what could not be drawn.

    As a cell's value it is live controls where a kernel answers, and the last figure, with its alt text, everywhere
    else: the notebook file holds both.

    Args:
        controls: what stands above the figure.
    """

    figure: Figure

    def __init__(self, controls: Sequence[ipywidgets.Widget]) -> None:
        self.image, self.message = ipywidgets.HTML(), ipywidgets.HTML()  # not the Image widget: it has no alt text
        super().__init__([*controls, self.image, self.message])

    def show(self, draw: Callable[[], Figure]) -> None:
        """Draw; what cannot be drawn is reported below the figure that was there before."""
        try:
            self.figure = draw()
        except (OSError, ValueError, KeyError) as error:
            self.message.value = f"<em>{type(error).__name__}: {error}</em>"
            return
        self.image.value, self.message.value = as_html(self.figure), ""

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle = super()._repr_mimebundle_(**kwargs) or {}
        return bundle | self.figure._repr_mimebundle_()


class Explorer(FigureBox):
    """Controls over one pure figure function, drawn again whenever one of them changes.

    Args:
        draw: figure function; takes the controls' values by name.
        controls: ipywidgets with a `value`, by argument of `draw`.
    """

    def __init__(self, draw: Callable[..., Figure], **controls: ipywidgets.Widget) -> None:
        self.draw, self.controls = draw, controls
        super().__init__([ipywidgets.HBox(list(controls.values()), layout={"flex_flow": "row wrap"})])
        first = draw(**{name: control.value for name, control in controls.items()})  # an error here is the caller's
        self.show(lambda: first)
        for control in controls.values():
            control.observe(self.redraw, names="value")

    def redraw(self, change: object = None) -> None:
        self.show(lambda: self.draw(**{name: control.value for name, control in self.controls.items()}))


def as_html(figure: Figure) -> str:
    """A figure as an `img` element with its alt text; tests find it by its class."""
    data = base64.b64encode(figure.png()).decode("ascii")
    return f'<img class="dfine-figure" src="data:image/png;base64,{data}" alt="{html.escape(figure.alt_text)}">'


def slider(value: float, low: float, high: float, step: float, description: str) -> ipywidgets.FloatSlider:
    """A slider for a number, with space for its name."""
    kind = ipywidgets.IntSlider if all(isinstance(x, int) for x in (value, low, high, step)) else ipywidgets.FloatSlider
    return kind(
        value=value, min=low, max=high, step=step, description=description,
        style={"description_width": "initial"}, layout={"width": "340px"},
    )  # fmt: skip


def choice(options: Any, description: str, value: Any = None) -> ipywidgets.Dropdown:
    """One of several; `options` as a list or as pairs of words and values."""
    return ipywidgets.Dropdown(
        options=options, description=description, style={"description_width": "initial"},
        **({} if value is None else {"value": value}),
    )  # fmt: skip
