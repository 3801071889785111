"""The diagnosis as one page to look at: every finding with images of its first examples."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from data_tools.doctor.diagnosis import Diagnosis
from data_tools.doctor.finding import LEVELS, Example, Finding
from data_tools.doctor.pixels import ImageFile, look_at
from dfine_lib.data.images import upright_rgb, upright_size
from dfine_tools.pages.report import write_report

SIDE_PX, ACROSS, GAP_PX = 224, 4, 8
MOST_IMAGES = 4
_RED = (220, 30, 30)


@dataclass(frozen=True)
class ContactSheet:
    """A few images side by side, as a PNG."""

    content: bytes
    alt_text: str

    def png(self) -> bytes:
        """The file."""
        return self.content


def write_page(diagnosis: Diagnosis, path: Path | str) -> Path:
    """Write the page; it needs no other file.

    Raises:
        OSError: it cannot be written.
    """
    known = {file.path: file for split in diagnosis.splits for file in split.files if file is not None}
    sections = [("", diagnosis.text(examples=0, notes=False).split("\n")[-1])]
    rows = [
        {"level": one.level, "check": one.name, "split": one.split or "both", "count": one.count, "what": one.title}
        for level in LEVELS
        for one in diagnosis.of(level)
    ]
    if rows:
        sections.append(("Summary", rows))
    for one in diagnosis.findings:
        where = f" ({one.split})" if one.split else ""
        words = f"{one.why}\n\nWhat to do: {one.what_to_do}"
        words += f"\n\n--fix {one.repair}." if one.repair else ""
        places = {str(number): example.text for number, example in enumerate(one.examples, 1)}
        sheet = contact_sheet(one, known)
        heading = f"{one.level}: {one.title}{where}, {one.count:,}"
        sections.append((heading, [words, places, *([sheet] if sheet else [])]))
    return write_report(path, f"{os.path.basename(diagnosis.data.resolve())}: is the data set sound?", sections)


def contact_sheet(finding: Finding, known: dict[Path, ImageFile]) -> ContactSheet | None:
    """The first images of a finding with their boxes; None where it has none that can be drawn."""
    drawn, texts = [], []
    for example in finding.examples:
        if len(drawn) == MOST_IMAGES:
            break
        file = known.get(example.file)
        if example.file is not None and (file.decodable if file else _is_orphan(example, finding)):
            thumbnail = _thumbnail(example)
            if thumbnail is not None:
                drawn.append(thumbnail)
                texts.append(example.text)
    if not drawn:
        return None
    wide = len(drawn) * (SIDE_PX + GAP_PX) - GAP_PX
    sheet = Image.new("RGB", (wide, max(thumbnail.height for thumbnail in drawn)), "white")
    for number, thumbnail in enumerate(drawn):
        sheet.paste(thumbnail, (number * (SIDE_PX + GAP_PX), 0))
    stream = io.BytesIO()
    sheet.quantize(128).save(stream, "PNG")
    return ContactSheet(stream.getvalue(), "; ".join(texts))


def _is_orphan(example: Example, finding: Finding) -> bool:
    return finding.name == "image_orphan" and look_at([example.file], example.file.parent)[0].decodable


def _thumbnail(example: Example) -> Image.Image | None:
    try:
        with Image.open(example.file) as image:
            whole = upright_size(image)
            if image.mode in ("RGB", "L"):
                image.draft(image.mode, (SIDE_PX, SIDE_PX))  # a JPEG is decoded no larger than needed
            turned = upright_rgb(image)
    except Exception:  # changed or gone since it was looked at
        return None
    factor = SIDE_PX / max(whole)
    small = turned.resize([max(1, round(side * factor)) for side in whole], Image.Resampling.BOX)
    draw = ImageDraw.Draw(small)
    for box in _inside(example.boxes_xyxy, factor, small.size):
        draw.rectangle(box, outline=_RED, width=2)
    return small


def _inside(
    boxes_xyxy: Sequence[Sequence[float]], factor: float, size_wh: tuple[int, int]
) -> list[tuple[float, float, float, float]]:
    """Boxes in pixels of the thumbnail, cut to a little beyond its edges, corners in order."""
    found = []
    for left, top, right, bottom in boxes_xyxy:
        xs = sorted(min(max(value * factor, -9), size_wh[0] + 9) for value in (left, right))
        ys = sorted(min(max(value * factor, -9), size_wh[1] + 9) for value in (top, bottom))
        found.append((xs[0], ys[0], max(xs[1], xs[0] + 1), max(ys[1], ys[0] + 1)))
    return found
