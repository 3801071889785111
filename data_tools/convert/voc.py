"""Pascal VOC XML, read and written.

VOC's own pixels are counted from 1 and `xmax` is the last pixel inside (`inclusive`: left = xmin − 1, width =
xmax − xmin + 1). LabelImg, CVAT, Roboflow and nearly all later tools write plain coordinates instead (`plain`:
left = xmin, width = xmax − xmin), and the COCO files made from VOC XML follow them. `plain` is the default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from xml.sax.saxutils import escape

from data_tools.convert.records import (
    Box,
    Category,
    ImageRecord,
    Source,
    corners,
    decoded,
    files_below,
    inside,
    number,
    readable,
    size_or_none,
    text,
)  # fmt: skip
from data_tools.convert.splits import split_name
from data_tools.convert.xml_stream import child_text, elements
from dfine_lib.data.images import DataError
from dfine_lib.data.ledger import Ledger

Corners = Literal["plain", "inclusive"]
LISTS = ("train", "val", "test")


def read_voc(
    source: Path, split: str, *, voc_corners: Corners = "plain", follow_links: bool = False, ledger: Ledger
) -> Source:
    """A VOCdevkit folder (Annotations, ImageSets/Main), folders train/ and valid/ of XML files, or XML files alone."""
    root = source if source.is_dir() else source.parent
    found: list[tuple[str, Path]] = []
    home = _with_sets(root) if source.is_dir() else None
    if home is not None:
        sets = home / "ImageSets" / "Main"
        taken: set[str] = set()
        for name in LISTS:
            file = sets / f"{name}.txt"
            if not file.is_file():
                continue
            for line, row in enumerate(decoded(readable(file, root, 256 << 20, follow_links), file).splitlines(), 1):
                if stem := row.strip():
                    stem = stem[:-4] if stem.lower().endswith(".xml") else stem
                    xml = home / "Annotations" / f"{stem}.xml"
                    if stem in taken:
                        raise DataError(f"{file}, line {line}: {stem[:80]!r} is listed a second time.")
                    taken.add(stem)
                    found.append((name, inside(xml, root, follow_links)))
                    if not xml.is_file():
                        found.pop()
                        ledger.skip("annotation files", "listed and not there", f"{file}, line {line}: {stem[:200]}")
        unlisted = [file for file in files_below(home / "Annotations", (".xml",))
                    if file.relative_to(home / "Annotations").with_suffix("").as_posix() not in taken]  # fmt: skip
        for file in unlisted:
            ledger.skip("annotation files", "in no list of ImageSets/Main", file)
    elif source.is_dir():
        for file in files_below(source, (".xml",)):
            top = file.relative_to(source).parts[0].lower()
            known = top in ("train", "val", "valid", "validation", "test") and file.parent != source
            found.append((split_name(top) if known else split, file))
    else:
        found.append((split, source))
    if not found:
        raise DataError(f"{source}: no VOC annotation files (.xml) here.")
    ledger.found("annotation files", len(found))
    ledger.taken("annotation files", len(found))
    pictures = (_picture(file, root, name, voc_corners, follow_links) for name, file in found)
    return Source(root, pictures, tuple(dict.fromkeys(name for name, _ in found)), _label_list(root, follow_links),
                  len(found))  # fmt: skip


def _with_sets(root: Path) -> Path | None:
    for home in (root, *sorted(root.glob("VOC*")), *sorted(root.glob("VOCdevkit/VOC*"))):
        sets = home / "ImageSets" / "Main"
        if (home / "Annotations").is_dir() and any((sets / f"{name}.txt").is_file() for name in LISTS):
            return home
    return None


def _label_list(root: Path, follow_links: bool) -> list[Category] | None:
    file = root / "labels.txt"
    if not file.is_file():
        return None
    rows = decoded(readable(file, root, 1 << 20, follow_links), file).splitlines()
    return [Category(row.strip()) for row in rows if row.strip()] or None


def _picture(file: Path, root: Path, split: str, voc_corners: Corners, follow_links: bool) -> ImageRecord:
    """One XML file. `filename` may be missing or name a file that is not there: then the XML's own name counts."""
    location = str(file)
    name, width, height, boxes, saw = "", None, None, [], False
    for element in elements(file, root, ("object", "size", "filename", "annotation"), follow_links):
        if element.tag == "object":
            boxes.append(_box(element, f"{location}, object {len(boxes) + 1}", voc_corners))
        elif element.tag == "size":
            width = size_or_none(child_text(element, "width"), location, "width")
            height = size_or_none(child_text(element, "height"), location, "height")
        elif element.tag == "filename":
            name = (element.text or "").strip()
        else:
            saw = True
    if not saw:
        raise DataError(f"{location}: no <annotation>; is it Pascal VOC? (CVAT: --from cvat)")
    own = file.stem + (Path(name).suffix or ".jpg")
    spare = (own,) if own != name else ()
    home = file.parent.parent
    return ImageRecord(split, name or own, width, height, boxes, location, folders=(home / "JPEGImages", file.parent),
                   spare_names=spare, may_be_path=True)  # fmt: skip


def _box(element, location: str, voc_corners: Corners) -> Box:
    edges = [number(child_text(element, f"bndbox/{key}"), location, key) for key in ("xmin", "ymin", "xmax", "ymax")]
    if voc_corners == "inclusive":
        edges[0] -= 1
        edges[1] -= 1
    flags = {key: (child_text(element, key) or "0").strip() not in ("0", "false", "False", "Unspecified")
             for key in ("difficult", "truncated", "iscrowd")}  # fmt: skip
    return corners(*edges, text(child_text(element, "name"), location, "<name>").strip(), location,
                   crowd=flags["iscrowd"], difficult=flags["difficult"], truncated=flags["truncated"])  # fmt: skip


class VocWriter:
    """Annotations/NAME.xml, JPEGImages/NAME.jpg, ImageSets/Main/SPLIT.txt, labels.txt."""

    def __init__(self, folder: Path, splits: tuple[str, ...], voc_corners: Corners = "plain"):
        self.folder, self.voc_corners = folder, voc_corners
        self.stems: dict[str, str] = {}
        (folder / "Annotations").mkdir(parents=True)
        sets = folder / "ImageSets" / "Main"
        sets.mkdir(parents=True)
        self.lists = {name: (sets / f"{name}.txt").open("w", encoding="utf-8") for name in splits}

    def image_path(self, picture: ImageRecord) -> Path:
        """Where the image belongs, relative to the folder."""
        return Path("JPEGImages") / picture.file_name

    def add(self, picture: ImageRecord, labels: list[int]) -> list[tuple[str, str]]:
        """Write one picture's XML. Returns what could not be kept: nothing."""
        stem = picture.file_name.rpartition(".")[0] or picture.file_name
        if self.stems.setdefault(stem, picture.location) != picture.location:
            raise DataError(
                f"{picture.location}: VOC has one folder for all splits, and {stem[:80]!r} is there already, from "
                f"{self.stems[stem]}. Rename one of the pictures, or convert the splits into folders of their own."
            )
        file = self.folder / "Annotations" / f"{stem}.xml"
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            "<annotation>",
            f"\t<filename>{_xml(picture.file_name, picture.location)}</filename>",
            f"\t<size><width>{picture.width}</width><height>{picture.height}</height><depth>3</depth></size>",
            "\t<segmented>0</segmented>",
        ]
        for box in picture.boxes:
            shift = 1 if self.voc_corners == "inclusive" else 0
            right, bottom = box.left + box.width, box.top + box.height
            edges = zip(("xmin", "ymin", "xmax", "ymax"), (box.left + shift, box.top + shift, right, bottom))
            crowd = "<iscrowd>1</iscrowd>" if box.crowd else ""
            rows += [
                f"\t<object><name>{_xml(box.name, box.location)}</name><pose>Unspecified</pose>"
                f"<truncated>{int(box.truncated)}</truncated><difficult>{int(box.difficult)}</difficult>{crowd}",
                "\t\t<bndbox>" + "".join(f"<{key}>{value:.12g}</{key}>" for key, value in edges) + "</bndbox></object>",
            ]
        file.write_text("\n".join([*rows, "</annotation>", ""]), encoding="utf-8")
        self.lists[picture.split].write(stem + "\n")
        return []

    def finish(self, categories: list[Category]) -> None:
        """The list of classes in order."""
        self.close()
        names = "".join(f"{category.name}\n" for category in categories)
        (self.folder / "labels.txt").write_text(names, encoding="utf-8")

    def close(self) -> None:
        for file in self.lists.values():
            file.close()


def _xml(value: str, location: str) -> str:
    if any(ord(c) < 32 and c not in "\t\n\r" for c in value):
        raise DataError(f"{location}: {value[:40]!r} holds characters that XML has no room for. Rename it.")
    return escape(value)
