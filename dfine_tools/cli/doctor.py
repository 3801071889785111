"""`dfine doctor`, `dfine stats`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dfine_tools.cli.options import old_name

FOUND_ERRORS = 1


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add what looks at a data set before a run."""
    add_stats(commands, "dfine stats")
    doctor = commands.add_parser(
        "doctor",
        help="find what would ruin a run on a data set, and repair a copy of it",
        description="Examines annotations and images with over a hundred checks and lists everything, worst first. "
        "Exit code 1 where an error was found, 0 otherwise, 2 where the examination could not be made.",
        epilog="example: dfine doctor my_set --fix my_set_repaired --html doctor.html",
    )
    doctor.add_argument("data", type=Path, metavar="DATA", help="folder with a train and a val split, or a JSON file "
                        "that names the paths of both")  # fmt: skip
    doctor.add_argument(
        "--recipe", default="n_custom", metavar="NAME", help="what is to be trained (default: n_custom)"
    )
    doctor.add_argument("--image-size", metavar="S", help="side of the input, in place of the recipe's")
    doctor.add_argument("--no-images", dest="images", action="store_false", help="read the annotation files alone")
    doctor.add_argument(
        "--exif", choices=("upright", "stored"),
        help="where EXIF turns images: boxes were drawn on the upright image, or on the image as it is stored. "
        "Default: by the evidence of all images",
    )  # fmt: skip
    doctor.add_argument("--fix", type=Path, metavar="OUT", help="write a repaired copy; the images are links")
    doctor.add_argument("--json", type=Path, metavar="FILE", help="write the findings as JSON")
    doctor.add_argument("--html", type=Path, metavar="FILE", help="write them as a page with images")
    doctor.add_argument("--checks", action="store_true", help="list all checks too")
    doctor.set_defaults(call=_doctor, after_interrupt="")


def add_stats(commands: argparse._SubParsersAction, name: str) -> None:
    """Add what counts; it is `dfine stats` and `dfine data stats`."""
    stats = commands.add_parser(
        "stats",
        help="what a data set holds: classes, sizes of objects, where they lie, a page of images",
        epilog=f"example: {name} my_set --image-size 320 --html stats.html",
    )
    stats.add_argument("data", type=Path, metavar="DATA", help="folder, or a JSON file that names the paths")
    stats.add_argument("--image-size", type=int, default=640, metavar="S", help="side of the input (default: 640)")
    stats.add_argument("--recipe", default="n_custom", metavar="NAME", help="whose anchors are counted (n_custom)")
    stats.add_argument("--json", type=Path, metavar="FILE", help="write the numbers as JSON")
    stats.add_argument("--html", type=Path, metavar="FILE", help="write them as a page with figures")
    images = stats.add_argument(
        "--images", type=int, default=9, metavar="N", help="on the page, at random (default: 9)"
    )
    old_name(stats, "--pictures", images)
    stats.add_argument("--seed", type=int, default=0, metavar="N", help="which images (default: 0)")
    stats.add_argument(
        "--repeat-threshold", type=float, metavar="T",
        help="also tell what `dfine train --repeat-threshold T` would draw: the length of an epoch, factors by class",
    )  # fmt: skip
    stats.set_defaults(call=_stats, after_interrupt="")


def _doctor(arguments: argparse.Namespace) -> int:
    from data_tools.doctor import CHECKS, examine, repair

    diagnosis = examine(
        arguments.data, recipe=arguments.recipe, image_size=arguments.image_size, look_at_images=arguments.images,
        exif=arguments.exif,
    )  # fmt: skip
    print(diagnosis.text())
    if arguments.checks:
        print("\n" + "\n".join(f"{check.level:8} {check.name:30} {check.title}" for check in CHECKS))
    _write_numbers(arguments.json, diagnosis.to_dict())
    if arguments.html:
        from dfine_tools.pages.doctor import write_page

        print(f"page     {write_page(diagnosis, arguments.html)}")
    if arguments.fix:
        repairs = repair(diagnosis, arguments.fix)
        for what, count in repairs.counts.items():
            print(f"repaired {what} ({count:,})")
        for name in repairs.left:
            print(f"left     {name}: cannot be repaired in a copy")
        print(f"copy     {repairs.out} (every repair: {repairs.out / 'repairs.json'})")
    return FOUND_ERRORS if diagnosis.of("error") else 0


def _stats(arguments: argparse.Namespace) -> None:
    from data_tools.stats import repeats, statistics
    from dfine_tools.pages.stats import write_statistics_page

    found = statistics(arguments.data, image_size=arguments.image_size, recipe=arguments.recipe)
    for split in found.splits:
        mean, median, most = split.objects_an_image
        small, medium, large = split.small_medium_large
        print(f"{split.name}: {split.images:,} images, {split.images_without_boxes:,} without boxes")
        print(f"  {split.boxes:,} boxes: {small:,} small, {medium:,} medium, {large:,} large")
        print(f"  {(split.anchors == 0).sum():,} without an anchor inside, at {found.image_size} px")
        print(f"  objects an image: mean {mean:g}, median {median:g}, most {most}")
    width = max(map(len, found.names), default=0)
    order = sorted(range(len(found.names)), key=lambda i: -found.splits[0].per_class[i])
    for i in order:
        counts = ", ".join(f"{split.name} {split.per_class[i]:,}" for split in found.splits)
        name = repr(found.names[i])[1:-1]
        print(f"  {name:{min(width, 40)}}  {counts}")
    numbers = found.to_dict()
    if arguments.repeat_threshold is not None:
        numbers["repeats"] = drawn = repeats(arguments.data, arguments.repeat_threshold)
        print(f"repeated below {arguments.repeat_threshold:g} of the images: {drawn['images']:,} images are drawn "
              f"{drawn['draws']:,} times in an epoch")  # fmt: skip
        for name, factor in drawn["class_factors"].items():
            if factor > 1:
                print(f"  {factor:.2f} x {name!r}")
    _write_numbers(arguments.json, numbers)
    if arguments.html:
        page = write_statistics_page(found, arguments.html, images=max(0, arguments.images), seed=arguments.seed)
        print(f"page     {page}")


def _write_numbers(file: Path | None, numbers: dict[str, Any]) -> None:
    from dfine_tools.pages.report import write_metrics

    if file:
        print(f"numbers  {write_metrics(file, numbers)}")
