"""Conditions of a sweep: every mean is where it was, and what was not measured is told."""

from __future__ import annotations

import pytest
from workbook import viz

NAMES = ("condition", "seeds", "AP", "low", "high", "difference", "difference low", "difference high")


def row(*values) -> dict:
    return dict(zip(NAMES, values, strict=True))


def test_means_stand_at_their_place_and_a_condition_without_a_number_has_its_name_alone():
    rows = [
        row("full", 2, 0.6, 0.5, 0.7, None, None, None),
        row("no_fgl", 1, 0.4, None, None, -0.2, None, None),
        row("no_ddf", 0, None, None, None, None, None, None),
    ]
    figure = viz.ablation(rows)
    ap, difference = figure.axes
    assert [container[0].get_xdata()[0] for container in ap.containers] == [0.6, 0.4]
    assert [container[0].get_xdata()[0] for container in difference.containers] == [-0.2]
    assert [tick.get_text() for tick in ap.get_yticklabels()] == ["full (2)", "no_fgl (1)", "no_ddf (0)"]
    assert "full 0.600 (2 seeds), no_fgl 0.400 (1 seeds), no_ddf not measured" in figure.alt_text and figure.png()
    with pytest.raises(ValueError, match="no condition"):
        viz.ablation([])
