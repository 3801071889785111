"""Controls above a picture: what a frontend without a kernel gets, and what happens when a control moves."""

from __future__ import annotations

import base64

import pytest

from dfine_tools.figures.style import new_figure

pytest.importorskip("ipywidgets")
from workbook.widgets.explorer import Explorer, choice, slider


def draw(width: float, word: str):
    if word == "impossible":
        raise ValueError("nothing to draw for impossible")
    figure = new_figure(width, 1, f'{word} "{width}" < 9')
    figure.subplots().plot([0, width])
    return figure


@pytest.fixture
def explorer() -> Explorer:
    return Explorer(draw, width=slider(2.0, 1.0, 4.0, 0.5, "w"), word=choice(["wide", "impossible"], "word"))


def test_a_moved_control_changes_picture_and_alt_text(explorer):
    before = explorer.image.value
    explorer.controls["width"].value = 3.0
    assert explorer.image.value != before
    assert 'alt="wide &quot;3.0&quot; &lt; 9"' in explorer.image.value
    assert explorer.figure.get_figwidth() == 3.0


def test_without_a_kernel_it_is_its_last_picture_with_words(explorer):
    explorer.controls["width"].value = 1.5
    bundle = explorer._repr_mimebundle_()
    assert bundle["text/plain"] == 'wide "1.5" < 9'
    assert base64.b64decode(bundle["image/png"]) == explorer.figure.png()
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_what_cannot_be_drawn_is_told_and_the_last_picture_stays(explorer):
    before = explorer.image.value
    explorer.controls["word"].value = "impossible"
    assert explorer.image.value == before
    assert "nothing to draw" in explorer.message.value
    explorer.controls["word"].value = "wide"
    assert explorer.message.value == ""


def test_whole_numbers_get_a_slider_of_whole_numbers():
    assert type(slider(1, 1, 6, 1, "layer")).__name__ == "IntSlider"
    assert type(slider(1.0, 1, 6, 1, "width")).__name__ == "FloatSlider"
