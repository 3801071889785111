"""The rule for fractions, one record at a time, is the rule over whole arrays."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_tools.box_writing import fractions_in
from data_tools.convert.units import Units
from tests.data_tools.small_sets import converted, picture, voc, write

NUMBER = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 7.0, 40.0, -0.5])
BOXES = st.lists(st.tuples(NUMBER, NUMBER, NUMBER, NUMBER), max_size=4)
IMAGES = st.lists(st.tuples(BOXES, st.sampled_from([(64, 48), (8, 64), (500, 400)])), min_size=1, max_size=6)


@given(IMAGES)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_a_source_has_fractions_by_both_rules_or_by_none(images):
    units = Units()
    for number, (boxes, size) in enumerate(images):
        units.add(boxes, size, f"image {number}")
    rows = [(box, size, number) for number, (boxes, size) in enumerate(images) for box in boxes]
    if not rows:
        assert not units.all_fractions() and not units.some_fractions()
        return
    boxes, sizes, image_of = (np.array(column) for column in zip(*rows, strict=True))
    found = fractions_in(boxes.astype(float), sizes, image_of)
    assert (units.all_fractions() or units.some_fractions()) == bool(found.any())


def test_one_image_with_a_single_box_within_the_first_pixel_is_mentioned(tmp_path):
    boxes = {"a": (10, 10, 60, 60), "b": (20, 20, 70, 70), "c": (0.1, 0.2, 0.4, 0.8)}
    for name, edges in boxes.items():
        picture(tmp_path / "set" / f"{name}.jpg")
        write(tmp_path / "set" / f"{name}.xml", voc(f"{name}.jpg", ("x", *edges, "")))
    result, _, _ = converted(tmp_path / "set", tmp_path / "out", "voc")
    remark = next(text for text in result.remarks if "fractions?" in text)
    assert remark.startswith("1 boxes of train lie within 0..1") and remark.endswith("c.xml")
