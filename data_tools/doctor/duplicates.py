"""Images that are there twice: byte for byte, or nearly, in one split or in both (then AP is flattered)."""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations

import numpy as np
from scipy.fft import dctn
from tqdm import tqdm

from data_tools.doctor.finding import ERROR, WARNING, Check, Examination
from data_tools.doctor.pixels import SIDE, digest
from data_tools.doctor.reading import Split

MOST_BITS = 6  # of 64 in which near duplicates may differ
MOST_DIFFERENCE = 5.0  # mean difference of grey values, 0..255, of near duplicates
LARGEST_BUCKET = 256  # images that agree in a band of bits; more look alike by nature (black frames)
CHECKS = (
    Check("duplicate", WARNING, "the same image twice in a split", "It counts twice; with other boxes in the two "
          "places it contradicts itself.", "Keep one."),
    Check("duplicate_disagrees", WARNING, "the same image twice, with different boxes", "What one entry teaches as "
          "an object, the other teaches as background.", "Keep the complete one."),
    Check("duplicate_in_both_splits", ERROR, "the same image in train and val", "AP is measured on what was trained "
          "on: it flatters, and the best weights are chosen by memory.", "Remove it from train.",
          "drops it from train"),
    Check("near_duplicate", WARNING, "nearly the same image twice in a split", "Frames of one film, mostly: the set "
          "is smaller than it looks.", "Thin them out."),
    Check("near_duplicate_in_both_splits", WARNING, "nearly the same image in train and val", "AP is measured on "
          "what was nearly trained on.", "Divide by scene or film, not by image."),
    Check("mirrored_in_both_splits", WARNING, "an image of train is in val, mirrored", "Training flips images: it "
          "has seen this one.", "Remove it from one of them; divide the set before copies are made of it."),
    Check("name_in_both_splits", WARNING, "one file name in train and val", "The same image, mostly.",
          "Look at a few."),
)  # fmt: skip
Entry = tuple[Split, int]


def examine(case: Examination) -> None:
    """All checks of this file; images that were not decoded are compared by their bytes alone."""
    if case.splits and len({split.annotation_file.resolve() for split in case.splits}) < len(case.splits):
        return
    entries: list[Entry] = []
    for split in case.splits:
        seen = set()
        for i, file in enumerate(split.files):
            if file is not None and not file.problem and file.path not in seen:
                seen.add(file.path)
                entries.append((split, i))
    same = _same_bytes(entries)
    _report_exact(case, entries, same)
    _report_near(case, entries, {pair for group in same for pair in combinations(sorted(group[:50]), 2)})
    _report_names(case)


def _same_bytes(entries: list[Entry]) -> list[list[int]]:
    by_size: dict[int, list[int]] = defaultdict(list)
    for k, (split, i) in enumerate(entries):
        by_size[split.files[i].size_bytes].append(k)
    suspects = [k for group in by_size.values() if len(group) > 1 for k in group]
    by_hash: dict[bytes, list[int]] = defaultdict(list)
    for k in tqdm(suspects, "comparing files", leave=False, unit="image", delay=2.0):
        split, i = entries[k]
        if (value := digest(split.files[i].path)) is not None:
            by_hash[value].append(k)
    return [group for group in by_hash.values() if len(group) > 1]


def _report_exact(case: Examination, entries: list[Entry], groups: list[list[int]]) -> None:
    within: dict[str, dict[int, str]] = defaultdict(dict)
    across: dict[int, str] = {}
    disagree: dict[str, dict[int, str]] = defaultdict(dict)
    for group in groups:
        first: dict[str, int] = {}
        for k in group:
            split, i = entries[k]
            if split.name in first:
                other = first[split.name]
                within[split.name][i] = split.image_words(other)
                if _boxes(split, i) != _boxes(split, other):
                    disagree[split.name][i] = split.image_words(other)
            else:
                first[split.name] = i
        if len(first) == 2:
            val = case.split("val")
            across |= {entries[k][1]: val.image_words(first["val"]) for k in group if entries[k][0].name == "train"}
    for split in case.splits:
        for name, found in (("duplicate", within[split.name]), ("duplicate_disagrees", disagree[split.name])):
            case.found(name, split, "images", sorted(found), lambda i, found=found: f"the same as {found[i]}")
    if across:
        case.found("duplicate_in_both_splits", case.split("train"), "images", sorted(across),
                   lambda i: f"the same as {across[i]}")  # fmt: skip


def _boxes(split: Split, image: int) -> list[list[float]]:
    rows = split.rows_of(image)
    return sorted(np.column_stack([split.category_of[rows], split.boxes_xywh[rows]]).round(1).tolist())


def perceptual_hashes(grey: np.ndarray) -> np.ndarray:
    """64 bits of each image that survive scaling, compression and a little brightness: bool `[n, 64]`.

    Signs of the 8 x 8 lowest frequencies of a cosine transform, against their median; the mean left out.

    Args:
        grey: uint8 `[n, 32, 32]`.
    """
    spectrum = dctn(grey.astype(np.float32), axes=(1, 2), norm="ortho")
    low = spectrum[:, :8, :8].reshape(-1, 64)
    low[:, 0] = spectrum[:, 8, 0]  # in place of the mean
    return low > np.median(low, axis=1, keepdims=True)


def near_pairs(grey: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of images that look the same: few bits apart, and close in grey values too.

    Two hashes that differ in at most 6 of 64 bits agree in one of 7 bands of bits: only those are compared.

    Args:
        grey: uint8 `[n, 32, 32]`.
    """
    if len(grey) < 2:
        return []
    bits = perceptual_hashes(grey)
    contrast = grey.reshape(len(grey), -1).std(1)
    usable = contrast > 4.0  # images of one colour have no features to agree in
    candidates = set()
    for band in np.array_split(np.arange(64), MOST_BITS + 1):
        keys = np.packbits(bits[:, band], axis=1).astype(np.int64) @ (256 ** np.arange((len(band) + 7) // 8))
        order = np.flatnonzero(usable)[np.argsort(keys[usable], kind="stable")]
        starts = np.flatnonzero(np.diff(keys[order], prepend=-1))
        for bucket in np.split(order, starts[1:]) if len(order) else []:
            if 1 < len(bucket) <= LARGEST_BUCKET:
                a, b = np.triu_indices(len(bucket), 1)
                close = (bits[bucket[a]] != bits[bucket[b]]).sum(1) <= MOST_BITS
                candidates |= set(zip(bucket[a[close]].tolist(), bucket[b[close]].tolist(), strict=True))
    found = []
    for a, b in sorted(tuple(sorted(pair)) for pair in candidates):
        one, two = grey[a].astype(np.float32), grey[b].astype(np.float32)
        difference = np.abs((one - one.mean()) - (two - two.mean())).mean()
        if difference <= min(MOST_DIFFERENCE, 0.25 * min(contrast[a], contrast[b])):
            found.append((a, b))
    return found


def _report_near(case: Examination, entries: list[Entry], exact: set[tuple[int, ...]]) -> None:
    decoded = [k for k, (split, i) in enumerate(entries) if split.files[i].grey]
    grey = [np.frombuffer(entries[k][0].files[entries[k][1]].grey, np.uint8) for k in decoded]
    grids = np.stack(grey).reshape(-1, SIDE, SIDE) if grey else np.zeros((0, SIDE, SIDE), np.uint8)
    within: dict[str, list[tuple[int, str]]] = defaultdict(list)
    across: list[tuple[int, str]] = []
    for a, b in near_pairs(grids):
        first, second = sorted((decoded[a], decoded[b]))
        if (first, second) in exact:
            continue
        (one, i), (two, j) = entries[first], entries[second]
        if one is two:
            within[one.name].append((j, one.image_words(i)))
        else:
            across.append((i, two.image_words(j)))
    for split in case.splits:
        _report_pairs(case, "near_duplicate", split, within[split.name])
    if across:
        _report_pairs(case, "near_duplicate_in_both_splits", case.splits[0], across)
    _report_mirrored(case, [entries[k] for k in decoded], grids, {i for i, _ in across})


def _report_mirrored(case: Examination, entries: list[Entry], grids: np.ndarray, reported: set[int]) -> None:
    """Images of the first split whose mirror image is in the other; `reported` are in it as they are."""
    first = np.array([split is case.splits[0] for split, _ in entries], bool) if entries else np.zeros(0, bool)
    own, other = np.flatnonzero(first), np.flatnonzero(~first)
    if not len(own) or not len(other):
        return
    pairs = []
    for a, b in near_pairs(np.concatenate([grids[own][:, :, ::-1], grids[other]])):
        if a < len(own) <= b:
            (_, i), (two, j) = entries[own[a]], entries[other[b - len(own)]]
            if i not in reported:
                pairs.append((i, two.image_words(j)))
    if pairs:
        _report_pairs(case, "mirrored_in_both_splits", case.splits[0], pairs)


def _report_pairs(case: Examination, name: str, split: Split, pairs: list[tuple[int, str]]) -> None:
    other = dict(reversed(pairs))
    case.found(name, split, "images", sorted(other), lambda i: f"like {other[i]}")


def _report_names(case: Examination) -> None:
    """Names alone, where the images were not looked at."""
    train, val = case.split("train"), case.split("val")
    if train is not None and val is not None:
        theirs = {name for name in val.file_names if name}
        same = [i for i, name in enumerate(train.file_names) if name in theirs and train.files[i] is None]
        case.found("name_in_both_splits", train, "images", same)
