"""`dfine data`: other tools' annotations to COCO format, and back; COCO folders split, shrunk, merged."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path

from dfine_tools.cli import published_data
from dfine_tools.cli.doctor import add_stats
from dfine_tools.cli.options import add_follow_links, add_image_files, add_places, names, parameters

NOTHING_LEFT = 1  # exit code
FROM = ("voc", "yolo", "crowdhuman", "objects365", "labelme", "cvat", "openimages", "createml", "csv", "coco")


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add what makes a data folder of another one."""
    data = commands.add_parser(
        "data",
        help="convert data sets (VOC, YOLO, CrowdHuman, Objects365, LabelMe, …), split, shrink, filter, merge them",
        description="Make a data folder of another one. The source is never changed; what is made appears whole.",
        epilog="example: dfine data convert VOCdevkit my_set --from voc",
    )
    kinds = data.add_subparsers(dest="kind", metavar="WHAT", required=True)
    _add_convert(kinds)
    _add_split(kinds)
    _add_subset(kinds)
    _add_filter(kinds)
    _add_merge(kinds)
    published_data.add_kinds(kinds)
    _add_shard(kinds)
    _add_pack(kinds)
    _add_view(kinds)
    add_stats(kinds, "dfine data stats")


def _add_convert(kinds: argparse._SubParsersAction) -> None:
    convert = kinds.add_parser(
        "convert",
        help="from one annotation format to another",
        description="SOURCE is a folder or a file. OUT is made whole or not at all: with --to coco, "
        "annotations/instances_SPLIT.json and images/SPLIT/, as `dfine train --data OUT` takes it. What is left out or "
        "changed is counted, and listed in OUT/conversion_report.json. Exit code 1 where no image or no box is left.",
        epilog="example: dfine data convert VOCdevkit/VOC2012 my_set --from voc",
    )
    add = convert.add_argument
    add_places(convert, None)
    add("--from", dest="read", required=True, choices=FROM, help="format of SOURCE")
    add("--to", dest="write", default="coco", choices=("coco", "yolo", "voc"), help="format of OUT (default: coco)")
    add("--images", type=Path, metavar="DIR", help="folder of the images, where they are not in SOURCE")
    add(
        "--categories", metavar="LIST",
        help="classes to keep, in order: person,car, or a .txt file with a name a line, or a .json file (COCO format, "
        "ids kept), or a data.yaml with names. Default: those of SOURCE with their ids, else ids from 1; names from "
        "boxes alone are sorted",
    )  # fmt: skip
    add("--split", default="train", metavar="NAME", help="name of the only split, where SOURCE has none (train)")
    add_image_files(convert)
    add("--sizes", type=Path, metavar="FILE", help="sizes of images that are not at hand: COCO JSON, or CSV with "
        "file_name,width,height")  # fmt: skip
    add(
        "--exif", choices=("upright", "stored"),
        help="where EXIF turns images: boxes were drawn on the upright image, or on the image as it is stored. "
        "Default: by the evidence of all images; upright where there is none; refused where the sizes are those "
        "of the stored image and no box decides",
    )  # fmt: skip
    add("--fractions", action="store_true", help="boxes are fractions of the image where the format says pixels")
    add("--keep-groups", action="store_true", help="LabelMe: shapes of one group_id stay boxes of their own")
    add("--keep-outside", action="store_true", help="do not cut boxes at the edge of their image")
    add_follow_links(convert, "read files that links in SOURCE lead to, outside of it")
    add(
        "--voc-corners", default="plain", choices=("plain", "inclusive"),
        help="VOC's corners: plain coordinates, as nearly all tools write them (default), or pixels counted from 1, "
        "the last one inside, as in the original VOC (left = xmin - 1)",
    )  # fmt: skip
    add("--person-box", default="full", choices=("full", "visible", "head"), help="which box of CrowdHuman (full)")
    convert.set_defaults(call=_convert, after_interrupt=" Nothing was left behind; the same command starts again.")


def _or_nothing(call: Callable[[argparse.Namespace], int | None]) -> Callable[[argparse.Namespace], int | None]:
    """The command, with exit code 1 where nothing is left."""

    @functools.wraps(call)
    def guarded(arguments: argparse.Namespace) -> int | None:
        from data_tools.convert.records import NothingLeft

        try:
            return call(arguments)
        except NothingLeft as error:
            print(f"dfine data {arguments.kind}: {error}", file=sys.stderr)
            return NOTHING_LEFT

    return guarded


@_or_nothing
def _convert(arguments: argparse.Namespace) -> None:
    from data_tools.convert.conversion import convert
    from data_tools.convert.report import Options, summary

    settings = parameters(arguments)
    about = {name: settings.pop(name) for name in ("source", "out", "read", "write")}
    print(summary(convert(**about, options=Options(**settings)), arguments.read, arguments.write))


def _add_split(kinds: argparse._SubParsersAction) -> None:
    split = kinds.add_parser(
        "split",
        help="divide one set of images into train, val and test",
        description="Every class is spread over the parts as evenly as whole images allow, rare classes first.",
        epilog="example: dfine data split labels.json my_set --images photos --val 0.2 --group-by-name '^([^_]+)_'",
    )
    _add_source(split)
    split.add_argument("--val", type=float, default=0.2, metavar="F", help="share of the images (default: 0.2)")
    split.add_argument("--test", type=float, default=0.0, metavar="F", help="likewise (default: none)")
    _add_chance(split)
    split.set_defaults(call=_make, after_interrupt="")


def _add_subset(kinds: argparse._SubParsersAction) -> None:
    subset = kinds.add_parser(
        "subset",
        help="keep a part of the images",
        description="Classes keep their shares as evenly as whole images allow. Splits not named stay whole.",
        epilog="example: dfine data subset COCO2017 coco_tenth --fraction 0.1",
    )
    _add_source(subset)
    subset.add_argument("--fraction", type=float, metavar="F", help="share of the images to keep")
    subset.add_argument("--count", type=int, metavar="N", help="or their number")
    subset.add_argument(
        "--of", type=names, default="train", metavar="A,B", help="splits to make smaller (default: train)"
    )
    _add_chance(subset)
    subset.set_defaults(call=_make, after_interrupt="")


def _add_filter(kinds: argparse._SubParsersAction) -> None:
    only = kinds.add_parser(
        "filter",
        help="keep some classes, boxes of some size, images with boxes",
        description="Ids stay as they are.",
        epilog="example: dfine data filter COCO2017 people --categories person --min-boxes 1",
    )
    _add_source(only)
    only.add_argument("--categories", type=names, metavar="A,B", help="names of the classes to keep (default: all)")
    only.add_argument("--min-side", type=float, default=0.0, metavar="PX", help="leave out boxes with a shorter side")
    only.add_argument("--min-boxes", type=int, default=0, metavar="N", help="leave out images with fewer boxes")
    only.set_defaults(call=_make, after_interrupt="")


def _add_merge(kinds: argparse._SubParsersAction) -> None:
    merge = kinds.add_parser(
        "merge",
        help="put data folders together",
        description="Split by split; classes meet by name. Images of the first folder go to images/SPLIT/1/, …",
        epilog="example: dfine data merge day night all_day",
    )
    merge.add_argument("sources", type=Path, nargs="+", metavar="SOURCE")
    merge.add_argument("out", type=Path, metavar="OUT")
    _add_images(merge)
    merge.set_defaults(call=_make, after_interrupt="")


def _add_shard(kinds: argparse._SubParsersAction) -> None:
    shard = kinds.add_parser(
        "shard",
        help="images into tars, for object storage and network disks",
        description="OUT is a data folder whose images/SPLIT/ holds tars in the form of webdataset, image files "
        "unchanged, and shards.json; `dfine train --data OUT` reads them from end to end. If the tars lie elsewhere, "
        "DFINE_SHARDS_FROM says where: https://host/set, gs://bucket/set, or 'pipe:aws s3 cp s3://bucket/set/{} -'.",
        epilog="example: dfine data shard COCO2017 coco_shards --images-per-shard 1000",
    )
    add_places(shard, "data folder", source="DATA")
    shard.add_argument("--images-per-shard", type=int, default=1000, metavar="N", help="default: 1000")
    shard.add_argument("--seed", type=int, default=0, metavar="S", help="of the order of training images (default: 0)")
    add_follow_links(shard)
    shard.set_defaults(call=_shard, after_interrupt=" Nothing was left behind; the same command starts again.")


def _add_pack(kinds: argparse._SubParsersAction) -> None:
    pack = kinds.add_parser(
        "pack",
        help="annotations of millions of images into one file that opens at once",
        description="OUT holds train.packed, whose arrays are mapped into memory and shared by all workers, and "
        "data.json, which is given as --data in place of DATA. Images and the val split stay where they are.",
        epilog="example: dfine data pack objects365 o365_packed && dfine train --data o365_packed/data.json …",
    )
    add_places(pack, "data folder", source="DATA")
    pack.set_defaults(call=_pack, after_interrupt="")


def _add_view(kinds: argparse._SubParsersAction) -> None:
    view = kinds.add_parser(
        "view",
        help="images, boxes and predictions in the FiftyOne app",
        description="Opens one split in the browser, on this machine only, until Ctrl-C or the page is closed. Needs "
        "the extra fiftyone and its database; `dfine stats DATA --html page.html` needs neither.",
        epilog="example: dfine data view my_set --predictions found.json",
    )
    view.add_argument("data", type=Path, metavar="DATA", help="data folder")
    view.add_argument("--split", default="val", choices=("train", "val"), help="default: val")
    view.add_argument("--predictions", type=Path, metavar="FILE", help="of `dfine predict --json`, or COCO's results")
    view.add_argument("--port", type=int, default=5151, metavar="N", help="default: 5151")
    view.set_defaults(call=_view, after_interrupt="")


def _add_source(parser: argparse.ArgumentParser) -> None:
    add_places(parser, "data folder, or one COCO file with --images")
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the images, where SOURCE is a file")
    _add_images(parser)


def _add_images(parser: argparse.ArgumentParser) -> None:
    add_image_files(parser)
    add_follow_links(parser)


def _add_chance(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--seed", type=int, default=0, metavar="S", help="equal seeds give equal parts (default: 0)")
    add("--group-by", dest="group_key", metavar="KEY", help="images with the same KEY in their records stay together")
    add("--group-by-name", dest="group_pattern", metavar="REGEX", help="likewise, by what REGEX finds in the file name")


@_or_nothing
def _make(arguments: argparse.Namespace) -> None:
    """Split, shrink, filter or merge."""
    from data_tools.subset import filter_data, merge_data, split_data, subset_data

    made = {"split": split_data, "subset": subset_data, "filter": filter_data, "merge": merge_data}
    print(made[arguments.kind](**parameters(arguments)))


def _shard(arguments: argparse.Namespace) -> None:
    from data_tools.large.shard import shard_data

    print(shard_data(**parameters(arguments)))


def _pack(arguments: argparse.Namespace) -> None:
    from data_tools.large.shard import pack_data

    print(pack_data(**parameters(arguments)))


def _view(arguments: argparse.Namespace) -> None:
    from data_tools.view import view

    print(view(**parameters(arguments)))
