"""From a data folder to everything that is wrong with it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.doctor import boxes, categories, duplicates, fit, frames, image_search, images, structure
from data_tools.doctor.finding import ERROR, LEVELS, NOTE, WARNING, Check, Examination, Finding
from data_tools.doctor.reading import Split, locate, read_split
from data_tools.image_frames import Frame
from data_tools.parts import no_shards
from dfine_lib.config import Recipe, parse_hw
from dfine_lib.data.images import DataError
from dfine_lib.recipes import changed, get_recipe

TOPICS = (structure, images, boxes, categories, duplicates, fit)
CHECKS: tuple[Check, ...] = tuple(check for topic in TOPICS for check in topic.CHECKS)


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What the doctor has found, worst first."""

    data: Path
    findings: tuple[Finding, ...]
    splits: tuple[Split, ...]
    looked_at_images: bool
    doubt: str = ""  # why it cannot be decided which frame the boxes of images that EXIF turns belong to

    def of(self, level: str) -> list[Finding]:
        """Findings of one level: `error`, `warning` or `note`."""
        return [one for one in self.findings if one.level == level]

    @property
    def names(self) -> set[str]:
        """Names of the checks that found something."""
        return {one.name for one in self.findings}

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "data": str(self.data),
            "looked_at_images": self.looked_at_images,
            "splits": {
                one.name: {
                    "annotation_file": str(one.annotation_file),
                    "images": len(one.images),
                    "annotations": len(one.annotations),
                    "categories": len(one.categories),
                }
                for one in self.splits
            },
            "counts": {level: len(self.of(level)) for level in LEVELS},
            "findings": [one.to_dict() for one in self.findings],
        }

    def text(self, examples: int = 3, notes: bool = True) -> str:
        """For a terminal: every finding with the first places, why it matters, and what to do."""
        lines = [
            f"{one.name}: {len(one.images):,} images, {len(one.annotations):,} annotations, "
            f"{len(one.categories):,} categories ({one.annotation_file})"
            for one in self.splits
        ]
        for level in LEVELS:
            for one in self.of(level):
                if level == NOTE and not notes:
                    continue
                where = f" [{one.split}]" if one.split else ""
                lines += ["", f"{level.upper()} {one.name}{where}: {one.title} ({one.count:,})"]
                shown = one.examples if level == NOTE and not one.table else one.examples[:examples]
                lines += [f"    {example.text}" for example in shown]
                if one.count > len(shown):
                    lines.append(f"    … and {one.count - len(shown):,} more")
                if level != NOTE:
                    lines += [f"  why: {one.why}", f"  do:  {one.what_to_do}"]
                    lines += [f"  --fix {one.repair}"] if one.repair else []
        counts = Counter(one.level for one in self.findings)
        total = ", ".join(f"{counts[level]} {level}{'s' * (counts[level] != 1)}" for level in LEVELS)
        skipped = "" if self.looked_at_images else "; the images were not looked at"
        nothing_found = "" if counts[ERROR] or counts[WARNING] else " Nothing to worry about."
        return "\n".join([*lines, "", f"{len(CHECKS)} checks: {total}{skipped}.{nothing_found}"])


def examine(
    data: Path | str,
    *,
    recipe: Recipe | str = "n_custom",
    image_size: int | str | None = None,
    look_at_images: bool = True,
    exif: Frame | None = None,
) -> Diagnosis:
    """Find what is wrong with a data set; nothing about its content raises.

    Args:
        data: what `find_split` understands.
        recipe: what is to be trained on it, for queries, denoising, batch and input size.
        image_size: side of the input, or "HEIGHT,WIDTH", in place of the recipe's.
        look_at_images: open and decode every image. Otherwise no file but the annotations is touched.
        exif: whether boxes of images that EXIF turns belong to the upright image or to the image as stored; None: by
            the evidence of all images.

    Raises:
        DataError: there is nothing at `data`, or its images lie in shards.
        ValueError: an unknown recipe or an impossible size.
    """
    data, recipe = Path(data), get_recipe(recipe)
    if image_size is not None:
        recipe = changed(recipe, {"data.image_size": parse_hw(image_size)})
    splits, lost = [], []
    for name in ("train", "val"):
        file, folder, message = locate(data, name)
        if file is None:
            lost.append(("split_missing", name, message))
            continue
        if folder is not None and look_at_images:
            no_shards(folder)
        if folder is None and look_at_images:
            lost.append(("image_folder_missing", name, message))
        try:
            splits.append(read_split(name, file, folder))
        except DataError as error:
            lost.append(("json_unreadable", name, str(error)))
    case = Examination(CHECKS, splits, recipe)
    for check, name, message in lost:
        case.report(check, name, [message])
    structure.examine(case)
    doubt = ""
    if look_at_images:
        image_search.find_and_look(case, data)
        images.examine(case)
        doubt = frames.decide(case, exif)
    images.shapes(case)
    boxes.examine(case)
    categories.examine(case)
    duplicates.examine(case)
    fit.examine(case)
    order = {level: i for i, level in enumerate(LEVELS)}
    findings = tuple(sorted(case.findings, key=lambda one: order[one.level]))
    return Diagnosis(data, findings, tuple(case.splits), look_at_images, doubt)
