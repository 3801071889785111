"""What a JSON file is that is not the one asked for: the tool that wrote it, and the way out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# Keys that tell a kind, of the object or of the first element of the list; what it is; the way out.
_OBJECTS: tuple[tuple[set[str], str, str], ...] = (
    ({"shapes", "imagePath"}, "LabelMe", "Give the folder with --from labelme"),
    ({"_via_img_metadata"}, "a project of the VGG Image Annotator", "Export it there as COCO"),
    ({"items", "categories"}, "Datumaro's own format", "Export it as COCO"),
    ({"objects", "size"}, "Supervisely's own format", "Export it as COCO"),
    ({"asset", "regions"}, "VoTT's own format", "Export it as CSV or VOC, and say --from csv or --from voc"),
    ({"assets", "visitedAssets"}, "a project of VoTT", "Export it as CSV or VOC, and say --from csv or --from voc"),
    ({"images", "annotations", "categories"}, "COCO", "Say --from coco"),
    ({"type", "features"}, "GeoJSON, in coordinates of a map", "Export it as COCO, in pixels"),
    ({"ledger", "listed"}, "the report of a conversion", ""),
    ({"sources", "splits"}, "a report of `dfine data`", ""),
    ({"ID", "gtboxes"}, "CrowdHuman", "Say --from crowdhuman"),
)
_LISTS: tuple[tuple[set[str], str, str], ...] = (
    ({"image_id", "category_id", "score"}, "detections, not annotations", ""),
    ({"image", "annotations"}, "CreateML", "Say --from createml"),
    ({"imagefilename", "annotation"}, "CreateML", "Say --from createml"),
    ({"annotations", "data"}, "Label Studio's own format", "Export it there as COCO, YOLO or VOC"),
    ({"image", "label", "annotator"}, "Label Studio's short form", "Export it there as COCO, YOLO or VOC"),
    ({"data", "completions"}, "Label Studio's own format", "Export it there as COCO, YOLO or VOC"),
    ({"name", "labels"}, "BDD100K's own format", "Export it as COCO"),
    ({"data_row"}, "Labelbox's own format", "Export it as COCO"),
    ({"Labeled Data"}, "Labelbox's own format", "Export it as COCO"),
    ({"image_id", "bbox"}, "a list of annotations without images and categories", ""),
)


def kind_of_object(keys: Iterable[str], inside: Iterable[str] = ()) -> tuple[str, str] | None:
    """What a JSON object is, and the way out, which may be empty; None where it is not known.

    Args:
        keys: of the object.
        inside: keys of the first object in it.
    """
    found = set(keys)
    for marks, kind, way_out in _OBJECTS:
        if marks <= found:
            return kind, way_out
    if found and found <= {"train", "val", "test"}:
        return "a file that names the splits of a data set", "Give the annotation file that it names"
    if {"filename", "regions"} <= set(inside):
        return "the VGG Image Annotator's own format", "Export it there as COCO"
    return None


def kind_of_list(keys: Iterable[str] | None) -> tuple[str, str]:
    """The same for a list whose first element has these keys; None where it is no object."""
    return _known_list(keys or ()) or ("a list, not the object that a COCO file is", "")


def kind_of(content: Any) -> str:
    """What a JSON file holds, with the way out, in a few words; "" where it is not known."""
    found = None
    if isinstance(content, dict):
        inside = next((value for value in content.values() if isinstance(value, dict)), {})
        found = kind_of_object(content, inside)
    elif isinstance(content, list) and content and isinstance(content[0], dict):
        found = _known_list(content[0])
    if found is None:
        return ""
    kind, way_out = found
    return f"{kind} ({way_out[:1].lower()}{way_out[1:]})" if way_out else kind


def _known_list(keys: Iterable[str]) -> tuple[str, str] | None:
    found = set(keys)
    return next(((kind, way_out) for marks, kind, way_out in _LISTS if marks <= found), None)
