"""`convert`: a reader, the checks that are the same for all formats, and a writer, into a folder that appears whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_tools.convert.coco import read_coco_files, read_objects365
from data_tools.convert.createml import read_createml
from data_tools.convert.crowdhuman import read_crowdhuman
from data_tools.convert.csv_rows import read_csv_rows
from data_tools.convert.cvat import read_cvat
from data_tools.convert.labelme import read_labelme
from data_tools.convert.new_folder import check_out, new_folder
from data_tools.convert.openimages import read_openimages
from data_tools.convert.records import Category, Source
from data_tools.convert.report import Options, Report, Result
from data_tools.convert.source_folder import SourceFolder
from data_tools.convert.splits import split_name
from data_tools.convert.tables import read_categories
from data_tools.convert.voc import read_voc
from data_tools.convert.writing import WRITERS, Conversion
from data_tools.convert.yolo import read_yolo
from dfine_lib.data.images import DataError

READERS: dict[str, Callable[..., Source]] = {
    "voc": read_voc, "yolo": read_yolo, "crowdhuman": read_crowdhuman, "objects365": read_objects365,
    "labelme": read_labelme, "cvat": read_cvat, "openimages": read_openimages, "createml": read_createml,
    "csv": read_csv_rows, "coco": read_coco_files,
}  # fmt: skip


def convert(
    source: Path | str, out: Path | str, *, read: str, write: str = "coco", options: Options | None = None
) -> Result:
    """Convert a data set; what was found there adds up to what was taken and what was left out.

    A record whose image is missing, unreadable or of another size, and a box without area or wholly outside of its
    image, is left out, counted, and listed in `OUT/conversion_report.json`; a box that sticks out is cut at the edge
    (`keep_outside`: kept as it is). Sizes are those of the upright images where there are images. What cannot be
    understood is refused.

    Args:
        source: folder or file; never changed.
        out: folder to make; it must be empty or not be there, and lie outside of `source`.
        read: format of `source`, a key of `READERS`.
        write: one of `WRITERS`.
        options: the rest.

    Returns:
        Counts.

    Raises:
        NothingLeft: no image or no box is left; says which reason took most.
        DataError: the source is not what it should be (file, line or record, and the way out), or `out` is in use.
        OSError: `out` cannot be written.
    """
    source, out, options = Path(source), Path(out), options or Options()
    if read not in READERS or write not in WRITERS:
        raise DataError(f"no way from {read!r} to {write!r}; from {', '.join(READERS)} to {', '.join(WRITERS)}.")
    if not source.exists():
        raise DataError(f"{source}: no such file or folder.")
    check_out(out, source)
    split = split_name(options.split)
    given = None if options.categories is None else read_categories(options.categories)
    with new_folder(out, source) as unfinished, Report(unfinished, source, read, write, options) as report:
        folder = SourceFolder(source, split, report.ledger, report.remark, options.follow_links)
        found = READERS[read](folder, **_own_options(read, options, given))
        result = Conversion(found, unfinished, given, report).run()
    result.out = out
    return result


def _own_options(read: str, options: Options, given: list[Category] | None) -> dict[str, Any]:
    """What the reader of one format takes beyond its source."""
    if read == "voc":
        return {"voc_corners": options.voc_corners}
    if read in ("coco", "objects365"):
        return {"progress": options.progress}
    if read == "crowdhuman":
        return {"person_box": options.person_box}
    if read == "labelme":
        return {"join_groups": not options.keep_groups}
    if read == "yolo":
        return {"images": options.images, "spare_names": None if given is None else [found.name for found in given]}
    if read == "csv" and given is not None and len(given) == 1:
        return {"only_class": given[0].name}
    return {}
