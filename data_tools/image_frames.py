"""In which frame the boxes of an image were drawn: the one decision of the converter and of the doctor.

An annotation says a width and a height, an image file has its own. They differ where the image was resized after
labelling, and where EXIF turns it: training reads images upright, and some tools draw on the image as it is stored.
Whether the boxes of turned images belong to the upright or to the stored image is decided once for a whole source,
by the evidence of all its images; without evidence there is no decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from dfine_lib.errors import DfineError

Frame = Literal["upright", "stored"]
Size = tuple[int, int]  # width, height in pixels
Edges = tuple[float, float, float, float]  # left, top, right, bottom in pixels
BEYOND = 0.02  # of the side; a box that sticks out by less is sloppy, not evidence


class Header(NamedTuple):
    """What the header of an image file says."""

    stored: Size
    orientation: int  # EXIF, 1 to 8

    @property
    def sides_swap(self) -> bool:
        """Whether turning the image upright exchanges width and height."""
        return self.orientation >= 5

    @property
    def upright(self) -> Size:
        """Width and height once upright, as training reads the image."""
        return self.stored[::-1] if self.sides_swap else self.stored


def fits(said: Size, true: Size) -> bool:
    """Whether an image of one size is the other one resized: the same aspect ratio, up to whole pixels."""
    return abs(true[0] * said[1] - true[1] * said[0]) <= max(sum(said), sum(true))


def needs_decision(said: Size | None, header: Header) -> bool:
    """Whether the frame of this image's boxes takes a decision about the whole source."""
    if said is None:
        return header.orientation != 1
    return header.orientation != 1 or (not fits(said, header.upright) and said == header.upright[::-1])


@dataclass(frozen=True, slots=True)
class Placement:
    """How the boxes of an image get into its upright frame: scaled, then turned as EXIF turns the image."""

    scale: tuple[float, float]
    header: Header
    turn: bool

    @property
    def is_identity(self) -> bool:
        """Whether boxes stay as they are."""
        return self.scale == (1.0, 1.0) and not self.turn

    def edges(self, edges: Edges) -> Edges:
        """Edges in the upright image, from edges as the annotation gives them."""
        x, y = self.scale
        scaled = edges[0] * x, edges[1] * y, edges[2] * x, edges[3] * y
        return turned(scaled, self.header) if self.turn else scaled


def turned(edges: Edges, header: Header) -> Edges:
    """Edges of the stored image in the upright one, as the EXIF orientation turns it."""
    left, top, right, bottom = edges
    width, height = header.stored
    if header.orientation in (2, 3, 7, 8):  # mirrored along x before the axes are exchanged
        left, right = width - right, width - left
    if header.orientation in (3, 4, 6, 7):
        top, bottom = height - bottom, height - top
    return (top, left, bottom, right) if header.sides_swap else (left, top, right, bottom)


class Evidence:
    """What the images of a source say about the frame of its boxes.

    Args:
        frame: decided by the user; None: by the evidence.
    """

    def __init__(self, frame: Frame | None = None) -> None:
        self.chosen = frame
        self.said_upright = self.said_stored = self.unsaid = 0  # images that EXIF turns by 90 degrees
        self.beyond_upright = self.beyond_stored = 0  # of them, those with a box beyond that frame
        self.swapped = self.beyond_said = self.beyond_swapped = 0  # images whose sides are swapped without EXIF
        self.turned = 0  # images that EXIF turns or mirrors in any way
        self.first = ""  # the first image that says the stored size

    def add(self, said: Size | None, header: Header, reach: Edges | None, name: str = "") -> None:
        """Take an image into account.

        Args:
            said: width and height that the annotation gives; None where it gives none.
            header: of the image file.
            reach: smallest left and top, largest right and bottom edge of all boxes, in the pixels of `said`; None
                where there is no box, or boxes are fractions.
            name: for messages.
        """
        self.turned += header.orientation != 1
        if not header.sides_swap:
            if said is not None and not fits(said, header.upright) and said == header.upright[::-1]:
                self.swapped += 1
                self.beyond_said += _beyond(reach, said)
                self.beyond_swapped += _beyond(reach, said[::-1])
            return
        upright = header.upright
        if said is None:
            self.unsaid += 1
        elif fits(said, upright):
            self.said_upright += not fits(said, upright[::-1])
            return
        elif fits(said, upright[::-1]):
            self.said_stored += 1
            self.first = self.first or name
            upright = said[::-1]
        else:
            return
        self.beyond_upright += _beyond(reach, upright)
        self.beyond_stored += _beyond(reach, upright[::-1])

    def frame(self) -> Frame | None:
        """The frame of all boxes on images that EXIF turns; None where the evidence decides nothing."""
        if self.chosen is not None:
            return self.chosen
        images = self.said_stored + self.unsaid
        if not self.said_upright and _decides(self.beyond_upright, self.beyond_stored, images):
            return "stored"
        if not self.said_stored or _decides(self.beyond_stored, self.beyond_upright, images):
            return "upright"
        return None

    def doubt(self) -> str:
        """Why there is no decision, for a message."""
        return (
            f"EXIF turns {self.said_stored:,} images whose annotations give the width and height of the image as "
            f"stored (first: {self.first}): it is not known whether their boxes were drawn on the upright or on the "
            f"stored image ({self.beyond_upright:,} images have boxes that fit only the stored one, "
            f"{self.beyond_stored:,} only the upright one)"
        )

    def sides_were_swapped(self) -> bool:
        """Whether width and height stand exchanged in the annotations while boxes are right (no EXIF is involved)."""
        return _decides(self.beyond_said, self.beyond_swapped, self.swapped)

    def placement(self, said: Size | None, header: Header) -> Placement | None:
        """How the boxes of one image get into its upright frame, after all images were added.

        Returns:
            None where the annotation is not of this image: the sizes do not belong together.

        Raises:
            ValueError: `frame()` is None, and this image's boxes depend on it.
        """
        frame = self.frame()
        if frame is None and header.sides_swap and said is not None and not fits(said, header.upright):
            raise DfineError(self.doubt())
        turn = frame == "stored" and header.orientation != 1
        true = header.stored if turn else header.upright
        if said is None or said == true:
            return Placement((1.0, 1.0), header, turn)
        if fits(said, true):
            return Placement((true[0] / said[0], true[1] / said[1]), header, turn)
        if header.sides_swap and not turn and fits(said[::-1], true):  # the size is the stored image's, boxes are not
            return Placement((true[0] / said[1], true[1] / said[0]), header, turn)
        if said == true[::-1] and not header.sides_swap and self.sides_were_swapped():
            return Placement((1.0, 1.0), header, turn)
        return None


def _decides(speaking_for: int, against: int, images: int) -> bool:
    """Whether evidence is more than sloppy boxes: of a twentieth of the images, and twenty times what contradicts."""
    return speaking_for > 0 and 20 * speaking_for >= images and speaking_for >= 20 * against


def _beyond(reach: Edges | None, size: Size) -> bool:
    if reach is None:
        return False
    width, height = size
    return (
        reach[0] < -BEYOND * width or reach[1] < -BEYOND * height or reach[2] > (1 + BEYOND) * width
        or reach[3] > (1 + BEYOND) * height
    )  # fmt: skip
