from __future__ import annotations

import pytest
from workbook import viz

COUNTS = {
    "small": {"backbone": 1e6, "encoder": 2e6, "decoder": 1e6},
    "large": {"backbone": 6e6, "encoder": 3e6, "decoder": 1e6},
}


def test_bars_are_stacked_to_the_total_and_the_published_numbers_are_marked():
    flops = {size: {part: 2000 * n for part, n in one.items()} for size, one in COUNTS.items()}
    figure = viz.cost_by_part(COUNTS, flops, {"small": (4, 8), "large": (10, 20)})
    assert "large 10.0 million parameters, 20.0 GFLOPs (published 10 and 20)" in figure.alt_text
    assert "small backbone 25, encoder 50, decoder 25" in figure.alt_text
    upper = figure.axes[0]
    tops = [bar.get_y() + bar.get_height() for bar in upper.containers[-1]]
    assert tops == pytest.approx([4, 10])
    assert upper.collections[0].get_offsets()[:, 1].tolist() == [4, 10]
    shares = [bar.get_height() for bar in figure.axes[2].containers[0]]
    assert shares == pytest.approx([25, 60])


def test_sizes_must_be_the_same():
    with pytest.raises(ValueError, match="sizes differ"):
        viz.cost_by_part(COUNTS, COUNTS, {"small": (4, 8)})


def test_shares_add_up_to_a_hundred():
    figure = viz.cost_by_step({"stem": 1, "stage": 3}, {"stem": 30, "stage": 10})
    assert "stem 25.0 and 75.0; stage 75.0 and 25.0" in figure.alt_text
    for bars in figure.axes[0].containers:
        assert sum(bar.get_width() for bar in bars) == pytest.approx(100)
    with pytest.raises(ValueError, match="steps differ"):
        viz.cost_by_step({"stem": 1}, {"head": 1})
