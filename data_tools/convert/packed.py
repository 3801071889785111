"""Boxes of a whole file in columns, where a format does not keep those of one image together: 73 bytes a box."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

import numpy as np

from data_tools.convert.records import Box

CROWD, DIFFICULT, TRUNCATED, IGNORE, OUTLINED = 1, 2, 4, 8, 16
_LOST = -(2**63)  # stands for None in a column of integers


class BoxColumns:
    """Rows of numbers that belong to images, added in any order and taken out image by image."""

    def __init__(self) -> None:
        self.images, self.labels, self.places, self.identities = (array("q") for _ in range(4))
        self.numbers = array("d")  # left, top, width, height, area
        self.flags = array("B")

    def __len__(self) -> int:
        return len(self.flags)

    def add(
        self, image: int, label: int, location: int, numbers: list[float], flags: int = 0, area: float | None = None,
        identity: int | None = None,
    ) -> None:  # fmt: skip
        """One box: key of its image, key of its class, line or record in the file, left, top, width, height."""
        self.images.append(image)
        self.labels.append(label)
        self.places.append(location)
        self.identities.append(_LOST if identity is None else identity)
        self.numbers.extend(numbers)
        self.numbers.append(float("nan") if area is None else area)
        self.flags.append(flags)

    def sort(self) -> None:
        """Bring the boxes of an image together, in the file's order. To be called once, after the last `add`."""
        keys = np.frombuffer(self.images, np.int64) if len(self) else np.zeros(0, np.int64)
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    def of(self, image: int) -> Iterator[tuple[int, int, list[float], int, float | None, int | None]]:
        """Label, location, the four numbers, flags, area, identity of every box of one image."""
        start, end = self._keys.searchsorted((image, image + 1))
        for i in self._order[start:end].tolist():
            *numbers, area = self.numbers[5 * i : 5 * i + 5]
            identity = self.identities[i]
            yield (
                self.labels[i], self.places[i], numbers, self.flags[i], None if area != area else area,
                None if identity == _LOST else identity,
            )  # fmt: skip

    def boxes_of(self, image: int, names: Sequence[str], before: str, after: str = "") -> list[Box]:
        """The boxes of one image.

        Args:
            image: its key.
            names: the class of every label.
            before: what stands before a box's line or record in its location; `after`: behind it.
        """
        return [
            Box(*numbers, names[label], bool(flags & CROWD), bool(flags & IGNORE), bool(flags & DIFFICULT),
                bool(flags & TRUNCATED), area, identity, f"{before}{at}{after}")
            for label, at, numbers, flags, area, identity in self.of(image)
        ]  # fmt: skip

    def image_keys(self) -> set[int]:
        """The images that boxes were added for."""
        first = np.flatnonzero(self._keys[1:] != self._keys[:-1]) + 1  # they are sorted
        return set(self._keys[:1].tolist() + self._keys[first].tolist())
