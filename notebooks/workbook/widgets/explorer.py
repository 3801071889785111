"""Controls above a figure that is drawn again whenever one of them changes."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable
from typing import Any

import ipywidgets

from workbook.viz import Figure


class Explorer(ipywidgets.VBox):
    """Controls over one pure figure function.

    As a cell's value it is live controls where a kernel answers, and the last figure, with its alt text, everywhere
    else: the notebook file holds both.

    Args:
        draw: figure function; takes the controls' values by name.
        controls: ipywidgets with a `value`, by argument of `draw`.
    """

    def __init__(self, draw: Callable[..., Figure], **controls: ipywidgets.Widget) -> None:
        self.draw, self.controls = draw, controls
        self.figure = draw(**{name: control.value for name, control in controls.items()})
        self.image = ipywidgets.HTML(as_html(self.figure))  # not the Image widget: it has no alt text
        self.message = ipywidgets.HTML()
        row = ipywidgets.HBox(list(controls.values()), layout={"flex_flow": "row wrap"})
        super().__init__([row, self.image, self.message])
        for control in controls.values():
            control.observe(self.redraw, names="value")

    def redraw(self, change: object = None) -> None:
        """Draw for the controls' present values; values that cannot be drawn are reported below the figure."""
        values = {name: control.value for name, control in self.controls.items()}
        try:
            self.figure = self.draw(**values)
        except ValueError as error:
            self.message.value = f"<em>{error}</em>"
            return
        self.image.value = as_html(self.figure)
        self.message.value = ""

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle = super()._repr_mimebundle_(**kwargs) or {}
        return bundle | self.figure._repr_mimebundle_()


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
