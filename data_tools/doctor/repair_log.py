"""What a repair did, and which parts of a record it can write."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any


class RepairLog:
    """Everything that a repair did, by the check that asked for it."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.done: list[str] = []
        self.left: set[str] = set()  # checks whose findings no copy can repair

    def note(self, check: str, what: str, where: str) -> None:
        self.counts[f"{check}: {what}"] += 1
        self.done.append(f"{check}: {what}: {where}")


def plain_record(record: dict[str, Any]) -> dict[str, Any]:
    """The record without what JSON cannot hold: NaN, numbers beyond 64 bits, nesting beyond reason."""
    return {
        key: value
        for key, value in record.items()
        if (isinstance(value, str) and len(value) < 10_000)
        or (isinstance(value, int) and abs(value) < 2**63)
        or (isinstance(value, float) and math.isfinite(value))
        or (isinstance(value, list | dict) and harmless(value))
    }


def harmless(value: Any) -> bool:
    """Whether a value is there and can be written as it is: no NaN, not nested beyond reason."""
    if value is None:
        return False
    try:
        return len(json.dumps(value, allow_nan=False)) < 10_000_000
    except (ValueError, RecursionError):
        return False
