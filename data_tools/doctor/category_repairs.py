"""The list of categories of a repaired copy, and how those of the splits go into it."""

from __future__ import annotations

from typing import Any

from data_tools.doctor.categories import counts, name_of
from data_tools.doctor.reading import Split
from data_tools.doctor.repair_log import RepairLog, plain_record


def kept_categories(split: Split, log: RepairLog) -> tuple[list[dict[str, Any]], dict[int, int]]:
    """The list of the copy, and for each entry of the split's list its place there.

    Of several categories of one name the first that has boxes is kept: Roboflow lists the project itself as a
    category without boxes, which may have the name of a class.
    """
    boxes, best = counts(split), {}
    for i, key in enumerate(split.category_keys):
        if (name := name_of(split, i)) is not None and key is not None:
            known = best.setdefault(name, i)
            best[name] = i if boxes[i] and not boxes[known] else known
    others: list[tuple[int, str]] = []
    numbers = [key for key in split.category_keys if isinstance(key, int)]
    following = max(numbers, default=0) + 1
    kept: list[dict[str, Any]] = []
    by_name: dict[str, int] = {}
    by_key: dict[int | str, int] = {}
    place: dict[int, int] = {}
    for i, (record, key) in enumerate(zip(split.categories, split.category_keys, strict=True)):
        where = f"{split.name}: categories[{i}]"
        if key is None:
            log.note("category_id_invalid", "dropped", where)
            continue
        if key in by_key:
            log.note("category_id_repeated", "dropped", where)
            continue
        name = name_of(split, i)
        if name is None:
            name = f"class_{key}"
            log.note("category_name_missing", f"named {name}", where)
        if best.get(name, i) != i or name in by_name:
            others.append((i, name))
            log.note("category_name_repeated", "merged" if boxes[i] else "dropped, it has no boxes", where)
            continue
        identity = key
        if not isinstance(key, int):
            identity, following = following, following + 1
            log.note("category_id_text", f"now {identity}", where)
        elif isinstance(record.get("id"), str):
            log.note("category_id_text", "written as a whole number", where)
        place[i] = by_name[name] = by_key[key] = len(kept)
        kept.append({**plain_record(record), "id": identity, "name": name})
    return kept, place | {i: by_name[name] for i, name in others}


def followed(split: Split, train: Split, categories: list[dict[str, Any]], log: RepairLog) -> dict[int, int]:
    """Places in the copy's list of the categories of val, by name, else by id; one that train lacks joins the list."""
    boxes = counts(split)
    by_name = {record["name"]: i for i, record in enumerate(categories)}
    theirs = {key: name_of(train, i) for i, key in reversed(list(enumerate(train.category_keys)))}
    place: dict[int, int] = {}
    for i, key in enumerate(split.category_keys):
        name = name_of(split, i)
        if name in by_name:
            place[i] = by_name[name]
            if key in theirs and theirs[key] not in (None, name):
                log.note("category_renamed", f"follows the name {name}", f"{split.name}: category id {key}")
        elif key in theirs and key is not None:
            place[i] = by_name.get(theirs[key] or f"class_{key}", -1)
            if name is not None:
                log.note("category_renamed", f"now {theirs[key]}", f"{split.name}: category id {key} ({name})")
        elif key is not None and boxes[i]:
            used = {record["id"] for record in categories}
            identity = key if isinstance(key, int) and key not in used else max(used, default=0) + 1
            place[i] = by_name[name or f"class_{key}"] = len(categories)
            categories.append({**plain_record(split.categories[i]), "id": identity, "name": name or f"class_{key}"})
            log.note("category_only_in_val", "listed in both files", f"{split.name}: category id {key} ({name})")
    return {i: where for i, where in place.items() if where >= 0}
