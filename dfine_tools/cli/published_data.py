"""`dfine data download`, `dfine data objects365`: the published sets at full size, as the published runs need them."""

from __future__ import annotations

import argparse
from pathlib import Path

from dfine_lib.errors import DfineError
from dfine_tools.cli.options import add_follow_links, add_image_files, add_places, names, parameters


def add_kinds(kinds: argparse._SubParsersAction) -> None:
    """Add what prepares published data sets to `dfine data`."""
    _add_download(kinds)
    objects365 = kinds.add_parser(
        "objects365",
        help="Objects365 v2 as D-FINE is pretrained on it: remap, then resize",
        description="The published preparation in two steps. SOURCE is never changed; a step that was stopped or "
        "killed goes on with the same command.",
        epilog="example: dfine data objects365 remap Objects365 O365 && dfine data objects365 resize O365 O365_640 && "
        "dfine train --recipe l_obj365 --data O365_640/objects365.json",
    )
    steps = objects365.add_subparsers(dest="step", metavar="STEP", required=True)
    _add_remap(steps)
    _add_resize(steps)


def _add_download(kinds: argparse._SubParsersAction) -> None:
    download = kinds.add_parser(
        "download",
        help="fetch COCO, Objects365 or CrowdHuman from where their authors put them",
        description="Says how large the set is and what its authors ask, then fetches, checks and unpacks it. Stopped "
        "or cut, the same command goes on. With --from nothing is downloaded.",
        epilog="example: dfine data download coco COCO2017 --splits val",
    )
    download.add_argument("set", metavar="SET", help="coco, objects365 or crowdhuman")
    download.add_argument("out", type=Path, metavar="OUT", help="folder to make, or to go on with")
    download.add_argument("--splits", type=names, default="train,val", metavar="A,B", help="which (default: train,val)")
    download.add_argument(
        "--from", dest="archives", type=Path, metavar="FOLDER", help="folder of files fetched already"
    )
    download.add_argument("--list", action="store_true", help="name the files and their addresses; fetch nothing")
    download.add_argument("--parallel", type=int, default=4, metavar="N", help="files at a time (default: 4)")
    download.add_argument("--keep-archives", action="store_true", help="leave what was downloaded in OUT/.download")
    download.add_argument("--addresses", type=Path, metavar="FILE", help="other addresses, in the form of "
                          "data_tools/download/addresses.json")  # fmt: skip
    download.set_defaults(call=_download, after_interrupt=" The same command goes on.")


def _download(arguments: argparse.Namespace) -> None:
    from data_tools.download import fetch_data_set, known_sets

    sets = known_sets(arguments.addresses) if arguments.addresses else known_sets()
    if arguments.set not in sets:
        raise DfineError(f"unknown data set {arguments.set!r}; there are {', '.join(sets)}")
    data_set = sets[arguments.set]
    files = data_set.of_splits(arguments.splits)
    print(data_set.summary(files), flush=True)
    if arguments.list:
        print("\n".join(f"{file.key}  {file.address}" + f"  ({file.page})" * bool(file.page) for file in files))
        return
    print(fetch_data_set(data_set, **parameters(arguments, "set", "list", "addresses")))


def _add_remap(steps: argparse._SubParsersAction) -> None:
    remap = steps.add_parser(
        "remap",
        help="keep the first 5,000 validation images, move the rest to training",
        description="SOURCE/{train,val}/zhiyuan_objv2_{train,val}.json become OUT/{train,val}/new_zhiyuan_objv2_"
        "{train,val}.json, moved images under images_from_val/. OUT/objects365.json names both for `dfine train`. "
        "Images of which the image is missing stay in the lists (as published); `resize` leaves them out.",
        epilog="example: dfine data objects365 remap Objects365 O365",
    )
    _add_steps_places(remap, "folder with train/ and val/ of Objects365 v2")
    remap.add_argument(
        "--keep", type=int, default=5000, metavar="N", help="validation images that stay (default: 5000)"
    )
    add_image_files(remap)
    remap.set_defaults(call=_remap, after_interrupt=" The same command goes on.")


def _remap(arguments: argparse.Namespace) -> None:
    from data_tools.objects365 import remap

    print(remap(**parameters(arguments)))


def _add_resize(steps: argparse._SubParsersAction) -> None:
    resize = steps.add_parser(
        "resize",
        help="shrink images whose longer side exceeds 640 pixels, with their boxes",
        description="Writes OUT/SPLIT/…_resized.json, shrunk images with _resized in their name, links to the "
        "others, and OUT/objects365.json for `dfine train`. Images that are missing, unreadable or of another size "
        "than the list says are counted, and listed in OUT/objects365_report.json.",
        epilog="example: dfine data objects365 resize O365 O365_640",
    )
    _add_steps_places(resize, "what `remap` made, or Objects365 v2 as published")
    resize.add_argument("--size", type=int, default=640, metavar="S", help="longest side in pixels (default: 640)")
    resize.add_argument("--splits", type=names, default="train,val", metavar="A,B", help="which (default: train,val)")
    resize.add_argument("--workers", type=int, metavar="N", help="threads (default: one a core)")
    resize.set_defaults(call=_resize, after_interrupt=" The same command goes on.")


def _resize(arguments: argparse.Namespace) -> None:
    from data_tools.objects365 import resize

    print(resize(**parameters(arguments)))


def _add_steps_places(parser: argparse.ArgumentParser, what: str) -> None:
    add_places(parser, what, out="folder to make, outside of SOURCE, or to go on with")
    add_follow_links(parser, "take images that are links out of SOURCE")
