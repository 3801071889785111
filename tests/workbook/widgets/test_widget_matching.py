"""The slider over the layers' matchings."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("ipywidgets")
from workbook import widgets


def test_the_slider_goes_from_guess_to_guess():
    truths = np.array([[2, 2, 8, 8]])
    explorer = widgets.matching(
        np.zeros((16, 16, 3)), truths, ["disc"], np.stack([truths, truths + 2]), [[3], [4]], ["encoder", "layer 1"]
    )
    assert "(encoder is drawn)" in explorer.figure.alt_text
    explorer.controls["layer"].value = 1
    assert "(layer 1 is drawn)" in explorer.figure.alt_text
