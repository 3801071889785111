"""What was found in a source, and what became of it: every thing is taken, or left out for a named reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable


class LedgerError(AssertionError):
    """The sums of a ledger disagree: an error of the library, never of the source."""


class Ledger:
    """Counts by kind ("images", "records", "boxes"): found = taken + left out, by reason.

    Counts only, so that it stays small for any source; the places of what is left out go to `listed` one by one.

    Args:
        listed: called with kind, reason and place (file, line, id) of everything that is left out; may be None.
    """

    def __init__(self, listed: Callable[[str, str, str], None] | None = None) -> None:
        self._listed = listed
        self._found: Counter[str] = Counter()
        self._taken: Counter[str] = Counter()
        self._left_out: dict[str, Counter[str]] = {}

    def found(self, kind: str, n: int = 1) -> None:
        """Count n things that are there."""
        self._found[kind] += _count(n)

    def taken(self, kind: str, n: int = 1) -> None:
        """Count n of the things found as taken."""
        self._taken[kind] += _count(n)

    def left_out(self, kind: str, reason: str, place: object, n: int = 1) -> None:
        """Count n of the things found as left out.

        Args:
            kind: as given to `found`.
            reason: a few words, the same for everything that is left out for this reason: it is a key of the sums.
            place: where it is: a file, a line, an id.
            n: how many there are at this place.
        """
        if _count(n):
            self._left_out.setdefault(kind, Counter())[reason] += n
            if self._listed is not None:
                self._listed(kind, reason, str(place))

    def skip(self, kind: str, reason: str, place: object, n: int = 1) -> None:
        """Count n things as found and as left out, where both are known at once."""
        self.found(kind, n)
        self.left_out(kind, reason, place, n)

    def accept(self, kind: str, n: int = 1) -> None:
        """Count n things as found and as taken, where both are known at once."""
        self.found(kind, n)
        self.taken(kind, n)

    def kinds(self) -> tuple[str, ...]:
        """All kinds that were counted, in the order in which they came."""
        return tuple(dict.fromkeys((*self._found, *self._taken, *self._left_out)))

    def number_found(self, kind: str) -> int:
        """How many there are."""
        return self._found[kind]

    def number_taken(self, kind: str) -> int:
        """How many of them were taken."""
        return self._taken[kind]

    def reasons(self, kind: str) -> dict[str, int]:
        """How many were left out for each reason; the reason that took most comes first."""
        return dict(self._left_out.get(kind, Counter()).most_common())

    def check(self) -> None:
        """Hold the sums against each other.

        Raises:
            LedgerError: for some kind, found is not taken + left out.
        """
        for kind in self.kinds():
            found, taken, left_out = self._found[kind], self._taken[kind], sum(self.reasons(kind).values())
            if found != taken + left_out:
                raise LedgerError(
                    f"{kind}: {found} found, but {taken} taken + {left_out} left out = {taken + left_out}. "
                    "This is an error of the program, not of the source; please report it."
                )

    def to_dict(self) -> dict[str, dict[str, int | dict[str, int]]]:
        """`{kind: {"found": n, "taken": n, "left_out": {reason: n}}}`, ready for JSON."""
        return {
            kind: {"found": self._found[kind], "taken": self._taken[kind], "left_out": self.reasons(kind)}
            for kind in self.kinds()
        }

    def summary(self, kind: str) -> str:
        """One kind in words: "10 images found: 7 taken, 3 left out (no annotation: 2, unreadable: 1)"."""
        found, reasons = self._found[kind], self.reasons(kind)
        words = f"{found:,} {_singular(kind) if found == 1 else kind} found: {self._taken[kind]:,} taken"
        if reasons:
            words += f", {sum(reasons.values()):,} left out ({', '.join(f'{r}: {n:,}' for r, n in reasons.items())})"
        return words


def _count(n: int) -> int:
    if n < 0:
        raise ValueError(f"a count cannot be negative, got {n}")
    return n


def _singular(kind: str) -> str:
    for plural, one in (("ies", "y"), ("xes", "x"), ("s", "")):
        if kind.endswith(plural):
            return kind.removesuffix(plural) + one
    return kind
