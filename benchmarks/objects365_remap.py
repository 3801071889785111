"""How long the division of Objects365 takes at full size, beside a program that tests membership in lists.

    python -m benchmarks.objects365_remap [--images 2000000] [--boxes 25000000] [--folder /tmp/o365]

Generates files in the published layout (4 % of the images are validation, of which a sixteenth stays, as 5,000 of
80,000 do), divides them with `dfine data objects365 remap` in a process of its own, and with lists at an eighth and a
sixteenth of the size, where both finish. The lists' time at full size is not measured: reading and writing is taken to
grow with the size, membership tests with its square, as the two measured sizes show. Deletes what it generated.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.ratio import ROOT, Row, record, show_row

VALIDATION, KEPT = 0.04, 1 / 16  # shares: of all images, of validation
PIECES = [  # what stands between the ids of a box
    f', "iscrowd": 0, "isfake": 0, "area": {w * h:.9f}, "isreflected": 0, "bbox": [{x:.10f}, {y:.10f}, {w:.10f}, '
    f'{h:.10f}], "image_id": '
    for x, y, w, h in np.random.default_rng(1).uniform(0, 500, (50_000, 4)).tolist()
]
END = ', "category_id": 7}'


def generate(folder: Path, images: int, boxes: int) -> dict[str, int]:
    """Two files in the published layout; numbers of images by split, and size in bytes."""
    rng, val = np.random.default_rng(0), round(images * VALIDATION)
    size, note = 0, folder / "made.json"
    if note.exists():
        return json.loads(note.read_text())
    for split, count, first in (("val", val, 400_000), ("train", images - val, 1_000_000)):
        file = folder / split / f"zhiyuan_objv2_{split}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        ids = first + rng.permutation(count)
        with file.open("w") as out:
            out.write('{"images": [')
            for start in range(0, count, 50_000):
                out.write(", " * bool(start) + ", ".join(
                    f'{{"height": 683, "id": {i}, "license": 5, "width": 1024, "file_name": '
                    f'"images/v{1 + i % 2}/patch{i % 51}/objects365_v{1 + i % 2}_{i:08d}.jpg", "url": ""}}'
                    for i in ids[start : start + 50_000].tolist()
                ))  # fmt: skip
            out.write('], "annotations": [')
            total = round(boxes * count / images)
            for start in range(0, total, len(PIECES)):
                part = min(len(PIECES), total - start)
                owners = ids[np.sort(rng.integers(0, count, part))].tolist()
                begin = 100 * first + start
                out.write(", " * bool(start) + ", ".join(
                    f'{{"id": {begin + k}{piece}{owner}{END}' for k, (piece, owner) in enumerate(zip(PIECES, owners))
                ))  # fmt: skip
            out.write('], "categories": ')
            json.dump([{"id": i, "name": f"class {i}"} for i in range(1, 366)], out)
            out.write("}")
        size += file.stat().st_size
    made = {"images": images, "val": val, "boxes": boxes, "bytes": size}
    note.write_text(json.dumps(made))
    return made


def with_lists(folder: Path, out: Path, keep: int) -> dict[str, float]:
    """The division with lists of ids; seconds of its parts."""
    start = time.perf_counter()
    read = {s: json.loads((folder / s / f"zhiyuan_objv2_{s}.json").read_bytes()) for s in ("val", "train")}
    reading = time.perf_counter()
    ids = [image["id"] for image in read["val"]["images"]]
    kept, moved = ids[:keep], ids[keep:]
    parts = [
        [record for record in read["val"][key] if record[name] in some]
        for some in (kept, moved) for key, name in (("images", "id"), ("annotations", "image_id"))
    ]  # fmt: skip
    testing = time.perf_counter()
    for image in parts[2]:
        image["file_name"] = "images_from_val/" + image["file_name"].split("/", 1)[1]
    train = {key: part + read["train"][key] for key, part in zip(("images", "annotations"), parts[2:])}
    for split, made in (("val", dict(zip(("images", "annotations"), parts[:2]))), ("train", train)):
        made["categories"] = read[split]["categories"]
        (out / split).mkdir(parents=True)
        with (out / split / f"new_zhiyuan_objv2_{split}.json").open("w") as file:
            file.write(json.dumps(made))  # json.dump to a file would take several times longer
    return {"read": reading - start, "membership": testing - reading, "write": time.perf_counter() - testing}


def in_a_process(*words: str | Path) -> tuple[float, float, str]:
    """Seconds, most memory in GB, and what it printed."""
    start = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    done = subprocess.run([sys.executable, *map(str, words)], check=True, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True, cwd=ROOT)  # fmt: skip
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return time.perf_counter() - start, max(before, most) / 2**20, done.stdout.strip()


def ours(folder: Path, out: Path, keep: int) -> dict[str, float]:
    """`dfine data objects365 remap`, start of the program included."""
    words = ["-m", "dfine_tools.cli", "data", "objects365", "remap", folder, out, "--keep", str(keep)]
    seconds, memory, told = in_a_process(*words)
    print(told)
    return {"seconds": seconds, "memory_gb": memory}


def equal(first: Path, second: Path) -> bool:
    """Whether both programs wrote the same."""
    names = [f"{split}/new_zhiyuan_objv2_{split}.json" for split in ("val", "train")]
    return all(json.loads((first / name).read_bytes()) == json.loads((second / name).read_bytes()) for name in names)


def compare(folder: Path, images: int, boxes: int, same: bool) -> dict:
    """Both programs at one size; `same`: whether they wrote the same is looked at too (8 GB at an eighth)."""
    made = generate(folder / "set", images, boxes)
    keep = round(made["val"] * KEPT)
    result = {**made, "keep": keep, "ours": ours(folder / "set", folder / "ours", keep)}
    seconds, memory, told = in_a_process(
        "-m", "benchmarks.objects365_remap", "--lists", folder / "set", folder / "lists", str(keep)
    )
    result["lists"] = {"seconds": seconds, "memory_gb": memory, **json.loads(told)}
    if same:
        result["equal"] = equal(folder / "ours", folder / "lists")
    shutil.rmtree(folder)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=2_000_000)
    parser.add_argument("--boxes", type=int, default=25_000_000)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/objects365_remap"), help="for what is generated")
    parser.add_argument("--dry", action="store_true", help="measure and print, record nothing")
    parser.add_argument("--only-generate", action="store_true", help="the files of full size, for a later call")
    parser.add_argument("--lists", nargs=3, metavar=("SET", "OUT", "KEEP"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.lists:
        print(json.dumps(with_lists(Path(options.lists[0]), Path(options.lists[1]), int(options.lists[2]))))
        return
    if options.only_generate:
        print(generate(options.folder / "full", options.images, options.boxes))
        return
    # Memory is that of the largest process so far, so ours at full size comes before the lists.
    made = generate(options.folder / "full", options.images, options.boxes)
    full = {**made, "ours": ours(options.folder / "full", options.folder / "full_out", round(made["val"] * KEPT))}
    print(json.dumps(full), flush=True)
    shutil.rmtree(options.folder)
    small = [compare(options.folder, options.images // part, options.boxes // part, part == 16) for part in (16, 8)]
    last = small[-1]["lists"]
    extrapolated = 8 * (last["read"] + last["write"]) + 64 * last["membership"]
    ratio = full["ours"]["seconds"] / extrapolated
    case = f"{options.images:,} images, {options.boxes:,} boxes, {made['bytes'] / 1e9:.1f} GB"
    rows = [
        Row(
            what="dfine data objects365 remap", case=case, against="lists of ids, carried on from an eighth",
            ours=full["ours"]["seconds"], theirs=extrapolated, ratio=ratio, middle_half=(ratio, ratio), turns=1,
            at_most=0.05, details={"full": full, "where_both_finish": small},
        ),
        Row(what="dfine data objects365 remap, memory", case=case, against="", ours=full["ours"]["memory_gb"],
            unit="GB", at_most=6),
    ]  # fmt: skip
    for row in rows:
        show_row(row)
    if not options.dry:
        record("objects365_remap", rows)


if __name__ == "__main__":
    main()
