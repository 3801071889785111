"""The one decision about the frame of boxes: EXIF turns, resized images, swapped sides, and when there is none."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from data_tools.image_frames import Evidence, Header, Placement, fits, needs_decision, turned

WIDE = (60, 40)  # stored
UPRIGHT_BOX, STORED_BOX = (5, 45, 30, 55), (45, 5, 55, 30)  # in 40 x 60 and in 60 x 40: each leaves the other frame


def drawn(orientation: int) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """An image of 60 × 40 with a rectangle, as EXIF turns it, and the rectangle's edges in it as stored."""
    image = Image.new("L", WIDE)
    image.paste(255, (20, 5, 50, 12))
    image.getexif()[0x0112] = orientation
    return ImageOps.exif_transpose(image), (20, 5, 50, 12)


def bounds(image: Image.Image) -> tuple[int, ...]:
    grey = np.asarray(image) > 128
    ys, xs = np.flatnonzero(grey.any(1)), np.flatnonzero(grey.any(0))
    return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_edges_turn_with_the_image_as_exif_says(orientation):
    upright, edges = drawn(orientation)
    header = Header(WIDE, orientation)
    assert header.upright == upright.size
    assert turned(edges, header) == bounds(upright)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_stored_frame_of_another_scale_is_scaled_before_it_is_turned(orientation):
    upright, edges = drawn(orientation)
    placement = Evidence("stored").placement((120, 80), Header(WIDE, orientation))
    assert placement is not None and placement.scale == (0.5, 0.5)
    assert placement.edges(tuple(2.0 * edge for edge in edges)) == bounds(upright)
    assert placement.turn == (orientation != 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_of_the_upright_image_stay_as_they_are(orientation):
    header = Header(WIDE, orientation)
    for said in (None, header.upright):
        placement = Evidence("upright").placement(said, header)
        assert placement is not None and placement.is_identity


@pytest.mark.parametrize(
    ("said", "true", "same"),
    [
        ((64, 48), (64, 48), True), ((128, 96), (64, 48), True), ((64, 48), (128, 96), True),
        ((1000, 667), (500, 333), True), ((500, 333), (1000, 667), True), ((133, 100), (4000, 3000), True),
        ((4000, 3000), (133, 100), True), ((64, 48), (48, 64), False), ((64, 64), (64, 48), False),
        ((640, 480), (640, 360), False), ((1920, 1080), (1280, 960), False), ((500, 375), (500, 400), False),
    ],
)  # fmt: skip
def test_an_image_is_another_one_resized_where_the_aspect_ratio_is_the_same_to_a_pixel(said, true, same):
    assert fits(said, true) is same
    assert fits(said[::-1], true[::-1]) is same


def test_a_resized_image_scales_its_boxes_and_one_of_another_aspect_ratio_is_not_the_image():
    header = Header((64, 48), 1)
    placement = Evidence().placement((128, 96), header)
    assert placement == Placement((0.5, 0.5), header, False)
    assert placement.edges((20, 10, 60, 50)) == (10, 5, 30, 25)
    assert Evidence().placement((128, 128), header) is None


def test_which_images_wait_for_the_decision():
    assert not needs_decision((64, 48), Header((64, 48), 1))
    assert not needs_decision((64, 64), Header((64, 48), 1))  # another image, whatever is decided
    assert not needs_decision(None, Header((64, 48), 1))
    assert needs_decision((48, 64), Header((64, 48), 1))  # swapped
    assert needs_decision((40, 60), Header(WIDE, 6)) and needs_decision(None, Header(WIDE, 3))


def evidence(*images, frame=None) -> Evidence:
    """Of images given as size that the annotation says, orientation, and the reach of the boxes."""
    found = Evidence(frame)
    for number, (said, orientation, reach) in enumerate(images):
        found.add(said, Header(WIDE, orientation), reach, f"{number}.jpg")
    return found


@pytest.mark.parametrize(
    ("images", "frame"),
    [
        ([], "upright"),
        ([((60, 40), 1, STORED_BOX)], "upright"),  # nothing is turned
        ([((40, 60), 6, UPRIGHT_BOX)], "upright"),  # the annotation gives the upright size
        ([((40, 60), 6, None)], "upright"),
        ([((60, 40), 6, STORED_BOX)], "stored"),  # the stored size, and boxes that fit it alone
        ([((60, 40), 6, UPRIGHT_BOX)], "upright"),  # the stored size, and boxes that fit the upright image alone
        ([((60, 40), 6, (5, 5, 30, 30))], None),  # they fit both
        ([((60, 40), 6, None)], None),
        ([((60, 40), 6, (-10, -10, 70, 70))], None),  # they fit neither
        ([(None, 6, STORED_BOX)], "stored"),
        ([(None, 6, (5, 5, 30, 30))], "upright"),  # no size is said, and nothing speaks against what training does
        ([((60, 40), 6, STORED_BOX), ((40, 60), 6, UPRIGHT_BOX)], None),  # two tools were at work
        ([((60, 40), 6, UPRIGHT_BOX), ((40, 60), 6, UPRIGHT_BOX)], "upright"),
        ([((60, 40), 6, STORED_BOX), ((60, 40), 6, UPRIGHT_BOX)], None),
        ([((120, 80), 8, tuple(2 * edge for edge in STORED_BOX))], "stored"),  # resized too
        ([((60, 40), 3, STORED_BOX)], "upright"),  # turned by 180 degrees: no size tells
    ],
)  # fmt: skip
def test_the_frame_is_decided_by_all_images_together_or_not_at_all(images, frame):
    assert evidence(*images).frame() == frame


def test_a_few_sloppy_boxes_are_no_evidence():
    neither = ((60, 40), 6, (5, 5, 30, 30))
    speaking = ((60, 40), 6, STORED_BOX)
    assert evidence(*[neither] * 19, speaking).frame() == "stored"  # a twentieth of the images
    assert evidence(*[neither] * 20, speaking).frame() is None
    against = ((60, 40), 6, UPRIGHT_BOX)
    assert evidence(*[speaking] * 20, against).frame() == "stored"  # twenty times what contradicts
    assert evidence(*[speaking] * 19, against).frame() is None
    assert evidence(((60, 40), 6, (5, 5, 40.7, 30))).frame() is None  # by less than 2 % of the side


def test_the_order_of_the_images_does_not_matter():
    images = [((60, 40), 6, STORED_BOX), ((60, 40), 8, (5, 5, 30, 30)), (None, 6, None), ((60, 40), 1, None)] * 3
    assert evidence(*images).frame() == evidence(*images[::-1]).frame() == "stored"


def test_without_a_decision_only_images_that_depend_on_it_are_refused():
    found = evidence(((60, 40), 6, (5, 5, 30, 30)))
    with pytest.raises(ValueError, match=r"EXIF turns 1 images .*first: 0\.jpg.*it is not known"):
        found.placement((60, 40), Header(WIDE, 6))
    for said, orientation in (((60, 40), 1), ((40, 60), 6), ((30, 20), 1)):
        assert found.placement(said, Header(WIDE, orientation)) is not None


@pytest.mark.parametrize("frame", ["upright", "stored"])
def test_what_the_user_says_decides(frame):
    found = evidence(((60, 40), 6, STORED_BOX), ((60, 40), 6, UPRIGHT_BOX), frame=frame)
    assert found.frame() == frame
    placement = found.placement((60, 40), Header(WIDE, 6))
    assert placement is not None and placement.turn == (frame == "stored")
    assert placement.is_identity == (frame == "upright")  # the size alone was that of the image as stored


def test_swapped_sides_without_exif_are_believed_where_the_boxes_fit_the_image_alone():
    said, image = (40, 60), Header(WIDE, 1)
    found = Evidence()
    found.add(said, image, STORED_BOX)
    placement = found.placement(said, image)
    assert placement is not None and placement.is_identity
    for reach in (None, (5, 5, 30, 30), UPRIGHT_BOX):
        found = Evidence()
        found.add(said, image, reach)
        assert found.placement(said, image) is None
