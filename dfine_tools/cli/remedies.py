"""Ways out of the library's errors, in the words of the command line; an error names one by `remedy`."""

from __future__ import annotations

from dfine_lib.errors import DfineError

REMEDIES: dict[str, str] = {}


def with_remedy(error: DfineError) -> str:
    """The error's message, followed by the way out that it names."""
    remedy = getattr(error, "remedy", None)
    return f"{error}. {REMEDIES[remedy].format(**error.values)}" if remedy else str(error)
